//! Records orders whose closing failed, in the table `closing_failures`. The record decides when the sweep retries an
//! order, and tells an operator why closing failed; it does not decide whether the order is closed.

use std::time::Duration;

use serde::Serialize;

use crate::clock::DbTime;
use crate::database::{Database, DatabaseError, bounded, code};
use crate::error_text::words;

#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub order_id: i64,
    /// SQLSTATE, or `client` for an error that has none.
    pub code: String,
    /// The database's message.
    pub reason: String,
}

impl Failure {
    pub fn of(order_id: i64, error: &DatabaseError) -> Self {
        Self { order_id, code: code(&error.source), reason: words(&error.source) }
    }

    pub fn kept_by_a_trigger(order_id: i64) -> Self {
        let reason = "a trigger on orders keeps it PENDING: the UPDATE that closes it was suppressed or undone (SQLSTATE OVD02)";
        Self { order_id, code: "OVD02".to_owned(), reason: reason.to_owned() }
    }
}

/// Longest backoff between two attempts of the sweep, in seconds; the sweep's grace is added to it.
const LONGEST: f64 = 3_600.0;

/// Records that closing these orders failed once more. An order whose failure cannot be recorded is
/// retried by the next sweep.
pub(super) async fn note(
    pool: &Database,
    failures: &[Failure],
    base: Duration,
    grace: Duration,
) -> Result<(), DatabaseError> {
    let order_ids: Vec<_> = failures.iter().map(|failure| failure.order_id).collect();
    let codes: Vec<_> = failures.iter().map(|failure| failure.code.clone()).collect();
    let reasons: Vec<_> = failures.iter().map(|failure| failure.reason.clone()).collect();
    let noted = sqlx::query!(
        "INSERT INTO closing_failures AS failure (order_id, attempts, code, reason, next_try_at)
         SELECT order_id, 1, code, reason, pg_catalog.now() + pg_catalog.make_interval(secs => $4::float8 + $5)
         FROM unnest($1::bigint[], $2::text[], $3::text[]) AS failed (order_id, code, reason)
         ORDER BY order_id
         ON CONFLICT (order_id) DO UPDATE
         SET attempts = failure.attempts + 1, code = excluded.code, reason = excluded.reason, last_failed_at = pg_catalog.now(),
             next_try_at = pg_catalog.now() + pg_catalog.make_interval(secs =>
                 LEAST($4::float8 * pg_catalog.power(2::float8, LEAST(failure.attempts, 30)::float8), $6) + $5)",
        &order_ids,
        &codes,
        &reasons,
        base.as_secs_f64(),
        grace.as_secs_f64(),
        LONGEST
    );
    bounded("recording failures", noted.execute(pool)).await?;
    Ok(())
}

/// The record of an order whose closing failed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Remembered {
    pub attempts: i32,
    /// SQLSTATE of the last failure, or `client`.
    pub code: String,
    /// The database's message of the last failure.
    pub reason: String,
    pub last_failed_at: String,
    /// The sweep leaves the order alone until this moment.
    pub next_try_at: String,
}

/// The record of this order; `None` when its closing never failed, or [`tidy`] has deleted the record.
///
/// # Errors
/// When the database cannot be reached or does not answer in time, or when the role may not read the table: a shop's
/// role may not.
pub async fn remembered(pool: &Database, order_id: i64) -> Result<Option<Remembered>, DatabaseError> {
    let row = sqlx::query!(
        "SELECT attempts, code, reason, last_failed_at, next_try_at FROM closing_failures WHERE order_id = $1",
        order_id
    );
    let row = bounded("reading failures", row.fetch_optional(pool)).await?;
    let time = |at| DbTime::from(at).to_string();
    Ok(row.map(|row| Remembered {
        attempts: row.attempts,
        code: row.code,
        reason: row.reason,
        last_failed_at: time(row.last_failed_at),
        next_try_at: time(row.next_try_at),
    }))
}

/// Deletes records older than a day of orders that are no longer PENDING or no longer exist. Until then they explain why an
/// order was late.
///
/// # Errors
/// When the database cannot be reached, does not answer in time, or refuses the statement.
pub async fn tidy(pool: &Database) -> Result<(), DatabaseError> {
    let tidied = sqlx::query!(
        "DELETE FROM closing_failures AS failure
         WHERE last_failed_at < pg_catalog.now() - pg_catalog.make_interval(days => 1)
           AND NOT EXISTS (SELECT FROM orders WHERE orders.order_id = failure.order_id AND status = 'PENDING')"
    );
    bounded("deleting old failures", tidied.execute(pool)).await?;
    Ok(())
}

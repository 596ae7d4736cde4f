//! Questions with figures for answers, all on the database's clock, and how figures are shown.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sqlx::PgPool;
use tokio::time::{Instant, sleep, timeout};

/// A moment on the database's clock, in seconds since 1970.
pub type Moment = f64;

/// What the database's clock says.
pub async fn now(pool: &PgPool) -> Result<Moment> {
    Ok(sqlx::query_scalar("SELECT extract(epoch FROM clock_timestamp())::float8").fetch_one(pool).await?)
}

/// How late orders were closed, in milliseconds; one that still waits is as late as it is now.
#[derive(Clone, Copy, Debug, Default, sqlx::FromRow)]
pub struct Lateness {
    /// How many orders fell due.
    pub orders: i64,
    /// Half of them were closed sooner.
    pub p50: f64,
    /// All but a hundredth were closed sooner.
    pub p99: f64,
    /// The latest.
    pub max: f64,
}

/// Of the orders that fell due between two moments and were not paid or cancelled.
pub async fn lateness(pool: &PgPool, from: Moment, until: Moment) -> Result<Lateness> {
    let lateness = sqlx::query_as(
        "SELECT count(*) AS orders, coalesce(percentile_cont(0.5) WITHIN GROUP (ORDER BY late), 0) AS p50,
                coalesce(percentile_cont(0.99) WITHIN GROUP (ORDER BY late), 0) AS p99, coalesce(max(late), 0) AS max
         FROM (SELECT extract(epoch FROM coalesce(closed_at, clock_timestamp()) - payment_deadline)::float8 * 1000 AS late
               FROM orders WHERE status IN ('PENDING', 'CLOSED')
                 AND payment_deadline >= to_timestamp($1) AND payment_deadline < to_timestamp($2)) AS due",
    );
    Ok(lateness.bind(from).bind(until).fetch_one(pool).await?)
}

/// Orders that fell due before a moment and are still open.
pub async fn overdue(pool: &PgPool, before: Moment) -> Result<i64> {
    let overdue = sqlx::query_scalar(
        "SELECT count(*) FROM orders WHERE status = 'PENDING' AND payment_deadline < to_timestamp($1)",
    );
    Ok(overdue.bind(before).fetch_one(pool).await?)
}

/// The newest outbox row, or 0: what is recorded later has a higher number.
pub async fn newest_outbox_row(pool: &PgPool) -> Result<i64> {
    Ok(sqlx::query_scalar("SELECT coalesce(max(id), 0) FROM outbox").fetch_one(pool).await?)
}

/// Outbox rows up to this one.
pub async fn outbox_until(pool: &PgPool, row: i64) -> Result<i64> {
    Ok(sqlx::query_scalar("SELECT count(*) FROM outbox WHERE id <= $1").bind(row).fetch_one(pool).await?)
}

/// Asks until the answer is yes; how long that took. Without an answer, it is asked again.
pub async fn until<F: Future<Output = Result<bool>>>(
    what: &str,
    patience: Duration,
    mut asked: impl FnMut() -> F,
) -> Result<Duration> {
    let began = Instant::now();
    loop {
        let answer = timeout(Duration::from_secs(5), asked()).await.context("no answer").flatten();
        if matches!(answer, Ok(true)) {
            return Ok(began.elapsed());
        }
        let last = answer.err().map(|error| format!(": {error:#}")).unwrap_or_default();
        ensure!(began.elapsed() < patience, "{what}: not within {patience:?}{last}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// The value that so large a share of the values does not exceed; 0 of none.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted: Vec<_> = values.iter().copied().filter(|value| value.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    // Of a length that fits, times a share of at most 1.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let index = (sorted.len().saturating_sub(1) as f64 * share).round() as usize;
    sorted.get(index).copied().unwrap_or_default()
}

/// The middle one.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The largest.
pub fn largest(values: &[f64]) -> f64 {
    quantile(values, 1.0)
}

/// Prints rows as a table with aligned columns; the first row is the head.
pub fn print(rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| Some(row.get(column)?.chars().count())).max();
    let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    for row in rows {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        println!("  {}", cells.join("  ").trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_and_what_is_no_number_does_not_count() {
        assert_eq!(median(&[3.0, f64::NAN, 1.0, 2.0]).to_bits(), 2f64.to_bits());
        assert_eq!((median(&[]).to_bits(), largest(&[1.0, 5.0]).to_bits()), (0, 5f64.to_bits()));
    }
}

//! The connection to PostgreSQL, and what its errors mean for the order that met them.

mod beforehand;
mod blockers;
mod catalog;
mod kept;
mod rights;
mod schema;
mod session;
mod timeline;
mod verify;

use std::time::Duration;

use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, PgConnection, PgPool};
use tokio::time::{Instant, sleep, timeout};

use crate::clock::{DbClock, DbTime};
use crate::config::Config;

pub use kept::Kept;
pub use schema::{dump, migrate, migrate_and_say, migrate_by};
pub use session::{connect, options};
pub use timeline::note;
pub use verify::{Finding, fit, verify};

/// What an error of the database means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The database cannot be reached or does not take writes now: wait, nobody's fault.
    Away,
    /// Somebody else was in the way (deadlock, lock or statement timeout): try again soon.
    Conflict,
    /// Login, database name, schema or permission: somebody must change something.
    Setup,
    /// The data of one of the orders: find the culprit.
    Order,
}

/// Sorts an error by its SQLSTATE (PostgreSQL documentation, appendix A) or its kind.
#[must_use]
pub fn trouble(error: &sqlx::Error) -> Trouble {
    match error {
        sqlx::Error::Database(error) => error.code().map_or(Trouble::Away, |code| of_sqlstate(&code)),
        sqlx::Error::Configuration(_) => Trouble::Setup,
        // A value that does not fit the type it is read into comes from one order's row.
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::Encode(_) => Trouble::Order,
        _ => Trouble::Away,
    }
}

fn of_sqlstate(code: &str) -> Trouble {
    match code {
        // Serialization failure, deadlock, lock not available (lock_timeout), cancelled (statement_timeout).
        "40001" | "40P01" | "55P03" | "57014" => Trouble::Conflict,
        // No such database, no such schema.
        "3D000" | "3F000" => Trouble::Setup,
        // Corrupted data or index: of the rows that were read.
        "XX001" | "XX002" => Trouble::Order,
        _ => match &code[..2.min(code.len())] {
            // Data exception, integrity constraint, WITH CHECK OPTION, raised by a trigger.
            "22" | "23" | "44" | "P0" => Trouble::Order,
            // Invalid authorization; privileges, tables, columns and functions.
            "28" | "42" => Trouble::Setup,
            // Connection, resources, operator, system, read-only (a replica), changed plan (a table was altered), and
            // whatever else: that waiting helps is the guess that can hurt no order.
            _ => Trouble::Away,
        },
    }
}

/// An error of the database with what was being done.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {}{}", words(.source), hint(.source))]
pub struct DatabaseError {
    /// What was being done.
    pub doing: &'static str,
    /// The driver's error.
    pub source: sqlx::Error,
}

impl DatabaseError {
    /// For `map_err`.
    pub fn during(doing: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self { doing, source }
    }

    /// Whether waiting can help.
    #[must_use]
    pub fn heals(&self) -> bool {
        trouble(&self.source) != Trouble::Setup
    }
}

/// An error in the server's own words with its SQLSTATE; the driver's text adds the line of the server's source code.
#[must_use]
pub fn words(error: &sqlx::Error) -> String {
    match error.as_database_error() {
        Some(error) => format!("{} (SQLSTATE {})", error.message(), error.code().unwrap_or_default()),
        None => error.to_string(),
    }
}

fn hint(error: &sqlx::Error) -> &'static str {
    let code = error.as_database_error().and_then(|error| error.code().map(|code| code.into_owned()));
    match code.as_deref() {
        Some("42501") => "; grant the user SELECT, INSERT, UPDATE and DELETE on Overdue's tables",
        Some(code) if code.starts_with("42") || code == "3F000" => "; run `overdue migrate`",
        Some("3D000") => "; create the database, or name another in database_url (DATABASE_URL)",
        Some(code) if code.starts_with("28") => "; check user and password in database_url (DATABASE_URL)",
        _ if trouble(error) == Trouble::Away => {
            "; check database_url (DATABASE_URL) and that PostgreSQL runs there"
        }
        _ => "",
    }
}

/// Longest wait for a connection; short, because what waits here has its own patience.
const ACQUIRE: Duration = Duration::from_secs(2);

/// Longest wait for an answer: a statement that the server would have ended by then is not coming back, because the
/// network between swallows it. The driver itself would wait for ever.
const ANSWER: Duration = Duration::from_secs(15);

/// Runs a statement with a bound on the wait for its answer.
///
/// # Errors
/// The statement's own, or as when the database is away.
pub fn bounded<T>(
    doing: &'static str,
    statement: impl Future<Output = Result<T, sqlx::Error>>,
) -> impl Future<Output = Result<T, DatabaseError>> {
    within(ANSWER, doing, statement)
}

/// The same with another bound.
///
/// # Errors
/// As [`bounded`].
pub async fn within<T>(
    bound: Duration,
    doing: &'static str,
    statement: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, DatabaseError> {
    // Boxed: statements are large, and many futures contain one.
    let answer = timeout(bound, Box::pin(statement)).await.unwrap_or_else(|_| Err(silent()));
    answer.map_err(DatabaseError::during(doing))
}

fn silent() -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer from the database"))
}

/// Longest wait for a sign of life.
const SIGN_OF_LIFE: Duration = Duration::from_millis(500);

async fn answers(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    timeout(SIGN_OF_LIFE, connection.ping()).await.unwrap_or_else(|_| Err(silent())).map(|()| true)
}

/// A pool of connections; none is opened yet.
///
/// # Errors
/// As [`options`].
pub fn pool(config: &Config) -> Result<PgPool, DatabaseError> {
    let schema: std::sync::Arc<str> = config.schema.as_str().into();
    Ok(PgPoolOptions::new()
        .max_connections(config.database_connections)
        .acquire_timeout(ACQUIRE)
        // A round trip for each acquire would buy nothing: a dead connection's error is retried like any outage. Only one
        // that has rested may have gone silent unnoticed.
        .test_before_acquire(false)
        .after_connect(move |connection, _| {
            let schema = std::sync::Arc::clone(&schema);
            Box::pin(async move { session::check(connection, &schema, &[]).await })
        })
        .before_acquire(|connection, meta| {
            let rested = meta.idle_for > Duration::from_secs(1);
            Box::pin(async move { if rested { answers(connection).await } else { Ok(true) } })
        })
        // The driver would wait for ever for the connection of a statement that was given up, and keep its place taken.
        .after_release(|connection, _| Box::pin(answers(connection)))
        .connect_lazy_with(options(config)?))
}

/// Longest wait for a connection and an answer that takes no work. Roles begin with it, and orders become due meanwhile.
const PROBE: Duration = Duration::from_secs(4);

/// Asks the database for its time and its schema.
///
/// # Errors
/// When it cannot be reached, refuses the login, or has not been migrated.
pub async fn probe(pool: &PgPool, clock: &DbClock) -> Result<(), DatabaseError> {
    let sent = Instant::now();
    // LIMIT 0: that the table is there is all that is asked.
    let now = sqlx::query_scalar!(
        r#"SELECT pg_catalog.clock_timestamp() AS "now!" FROM (SELECT pg_catalog.count(*) FROM (SELECT FROM outbox LIMIT 0) AS none) AS ours"#
    );
    let now = timeout(PROBE, now.fetch_one(pool)).await.unwrap_or_else(|_| Err(silent()));
    let now = now.map_err(DatabaseError::during("asking the database for its time"))?;
    clock.observe(sent, Instant::now(), DbTime::from(now));
    Ok(())
}

/// How often the clock is read anew. It may drift by 200 µs for each second between two readings.
const TICK: Duration = Duration::from_secs(2);
/// So many ticks between two looks at which server this is. Sessions look as well when they begin, as they do after a failover.
const NOTE_EVERY: u32 = 5;

/// Keeps the estimate of the database's clock fresh while nothing else does; runs until it is dropped.
pub async fn keep_time(pool: &PgPool, clock: &DbClock) {
    for tick in 1_u32.. {
        // While the database is away, others notice and say so.
        let _ = probe(pool, clock).await;
        if tick.is_multiple_of(NOTE_EVERY) {
            let _ = note(pool).await;
        }
        sleep(TICK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sqlstate_is_somebodys_trouble() {
        for (code, expected) in [
            ("40001", Trouble::Conflict),
            ("40P01", Trouble::Conflict),
            ("55P03", Trouble::Conflict),
            ("57014", Trouble::Conflict),
            ("57P01", Trouble::Away),
            ("57P03", Trouble::Away),
            ("53300", Trouble::Away),
            ("53100", Trouble::Away),
            ("08006", Trouble::Away),
            ("25006", Trouble::Away),
            ("58030", Trouble::Away),
            ("28P01", Trouble::Setup),
            ("3D000", Trouble::Setup),
            ("42501", Trouble::Setup),
            ("42P01", Trouble::Setup),
            ("22003", Trouble::Order),
            ("23514", Trouble::Order),
            ("23503", Trouble::Order),
            ("P0001", Trouble::Order),
            ("XX001", Trouble::Order),
            ("XX000", Trouble::Away),
            ("0A000", Trouble::Away),
            ("42804", Trouble::Setup),
        ] {
            assert_eq!(of_sqlstate(code), expected, "{code}");
        }
        assert_eq!(trouble(&sqlx::Error::PoolTimedOut), Trouble::Away);
    }
}

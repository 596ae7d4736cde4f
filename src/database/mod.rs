//! Connections to PostgreSQL, and statements with bounded waits.

mod beforehand;
mod blockers;
mod catalog;
mod error;
mod error_class;
mod executor;
mod explain;
pub mod leader;
pub mod locks;
mod pool;
pub mod presence;
mod rights;
mod schema;
mod session;
mod timeline;
mod verify;
mod warm;
mod way;

use std::time::Duration;

use sqlx::{Connection, Executor, PgConnection, Row};
use tokio::time::{Instant, sleep, timeout};

use crate::clock::{DbClock, DbTime};
use crate::config::Config;

pub use error::{DatabaseError, migrating};
pub use error_class::{ErrorClass, code, error_class};
pub use executor::{Connected, Session, Transaction};
pub use explain::explained;
pub use pool::{Database, connect};
pub use schema::{dump, migrate, migrate_and_say, migrate_by};
pub use session::options;
pub use timeline::note;
pub use verify::{PLACE, fit, verify};
pub use warm::WarmConnections;

/// Longest wait for an answer. The server would have ended the statement by then, so its answer was lost on the network.
/// The driver itself would wait forever.
pub const ANSWER: Duration = Duration::from_secs(15);

/// Runs a statement with a bound on the wait for its answer.
///
/// # Errors
/// The statement's own, or a timeout after [`ANSWER`].
pub fn bounded<T>(
    doing: &'static str,
    statement: impl Future<Output = Result<T, sqlx::Error>>,
) -> impl Future<Output = Result<T, DatabaseError>> {
    within(ANSWER, doing, statement)
}

/// Same as [`bounded`], with another bound.
///
/// # Errors
/// The statement's own, or a timeout after `bound`.
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

/// Longest wait for the answer to a ping.
const SIGN_OF_LIFE: Duration = Duration::from_millis(500);

/// Pings the server. Its answer means that the connection's last statement is finished, and its locks are released if it
/// failed.
async fn answers(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    timeout(SIGN_OF_LIFE, connection.ping()).await.unwrap_or_else(|_| Err(silent())).map(|()| true)
}

/// Asks whether the connection's last statement is finished, and no transaction is open. The driver does not know of a
/// transaction whose beginning was given up before the answer (transact-rs/sqlx#4385): what the next one to get the connection
/// does would never be committed. In a transaction, `now()` is its beginning.
async fn is_outside_a_transaction(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let outside = sqlx::raw_sql("SELECT pg_catalog.now() = pg_catalog.statement_timestamp()");
    let row = timeout(SIGN_OF_LIFE, connection.fetch_one(outside)).await.unwrap_or_else(|_| Err(silent()))?;
    row.try_get(0)
}

/// A pool of connections; none is opened yet.
///
/// # Errors
/// Same as [`options`].
pub fn pool(config: &Config) -> Result<Database, DatabaseError> {
    Database::new(config, config.database_connections, &[])
}

/// A pool of the connections that close orders: `close_concurrency` for wakes, as many for the sweep, and one more for
/// each of the two, for orders that are slow or have failed. A statement may take `statement_timeout`.
///
/// # Errors
/// Same as [`options`].
pub fn closing_pool(config: &Config, statement_timeout: &str) -> Result<Database, DatabaseError> {
    let most = u32::try_from(2 * config.close_concurrency + 2).unwrap_or(u32::MAX);
    Database::new(config, most, &[("statement_timeout", statement_timeout)])
}

/// Longest wait for a connection and a trivial answer. Roles begin with it, and orders become due meanwhile.
const PROBE: Duration = Duration::from_secs(4);

/// Asks the database for its time and its schema.
///
/// # Errors
/// When it cannot be reached, refuses the login, or has not been migrated; the error says which.
pub async fn probe(pool: &Database, clock: &DbClock) -> Result<(), DatabaseError> {
    match ask(pool, clock).await {
        Ok(()) => Ok(()),
        Err(error) => Err(explained(pool, error).await),
    }
}

async fn ask(pool: &Database, clock: &DbClock) -> Result<(), DatabaseError> {
    let sent = Instant::now();
    // The statement only checks that the table exists: a shop's role may not read it.
    let now = sqlx::query_scalar!(
        r#"SELECT pg_catalog.clock_timestamp() AS "now!" WHERE 'outbox'::pg_catalog.regclass IS NOT NULL"#
    );
    let now = timeout(PROBE, now.fetch_one(pool)).await.unwrap_or_else(|_| Err(silent()));
    let now = now.map_err(DatabaseError::during("asking the database for its time"))?;
    clock.observe(sent, Instant::now(), DbTime::from(now));
    Ok(())
}

/// Checks that a connection can be opened.
///
/// # Errors
/// When the database cannot be reached or refuses the login; the error says which.
pub async fn reach(pool: &Database) -> Result<(), DatabaseError> {
    match bounded("connecting to the database", pool.acquire()).await {
        Ok(_) => Ok(()),
        Err(error) => Err(explained(pool, error).await),
    }
}

/// How often the clock is read. It may drift by 200 µs for each second between two readings.
const TICK: Duration = Duration::from_secs(2);
/// Ticks between two checks of which server this is. Sessions check as well when they begin, as they do after a failover.
const NOTE_EVERY: u32 = 5;

/// Keeps the estimate of the database's clock fresh while no other statement does; runs until it is dropped.
pub async fn keep_time(pool: &Database, clock: &DbClock) {
    for tick in 1_u32.. {
        // An outage is noticed and reported by the sessions.
        let _ = ask(pool, clock).await;
        if tick.is_multiple_of(NOTE_EVERY) {
            let _ = note(pool).await;
        }
        sleep(TICK).await;
    }
}

//! The connection to PostgreSQL.

mod error;
mod explain;
mod kept;
mod schema;
mod trouble;

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool};
use tokio::time::{Instant, sleep, timeout};

use crate::clock::{DbClock, DbTime};
use crate::config::Config;

pub(crate) use error::unresolved;
pub use error::{DatabaseError, migrating, words};
pub use explain::explained;
pub use kept::Kept;
pub use schema::migrate;
pub use trouble::{Trouble, trouble};

/// Longest wait for a connection; short, because what waits here has its own patience.
const ACQUIRE: Duration = Duration::from_secs(2);

/// Session settings of every connection of ours.
///
/// No statement of ours takes long; one that does stands behind a lock, and is better tried again than waited for.
/// One plan for all batch sizes: planning the closing statement anew each time costs more than it could save.
const SESSION: [(&str, &str); 4] = [
    ("statement_timeout", "10s"),
    // Shorter than deadlock_timeout (1 s): when we and a buyer's checkout wait for each other, we give way, and PostgreSQL
    // never has to end the checkout.
    ("lock_timeout", "400ms"),
    ("idle_in_transaction_session_timeout", "10s"),
    ("plan_cache_mode", "force_generic_plan"),
];

/// How to connect, with our session settings.
///
/// # Errors
/// When the URL cannot be understood; the configuration has checked that already.
pub fn options(config: &Config) -> Result<PgConnectOptions, DatabaseError> {
    let options = config.database_options().map_err(|problem| DatabaseError {
        doing: "reading database_url",
        source: sqlx::Error::Configuration(problem.into()),
    })?;
    Ok(options.application_name("overdue").options(SESSION).disable_statement_logging())
}

/// Longest wait for an answer: a statement that the server would have ended by then is not coming back, because the
/// network between swallows it. The driver itself would wait for ever.
pub const ANSWER: Duration = Duration::from_secs(15);

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
    Ok(pool_of(config.database_connections, options(config)?))
}

/// A pool of the connections that close orders: `close_concurrency` for wakes, as many for the sweep, and one for an order that is slow.
///
/// # Errors
/// As [`options`].
pub fn closing_pool(config: &Config) -> Result<PgPool, DatabaseError> {
    let most = u32::try_from(2 * config.close_concurrency + 1).unwrap_or(u32::MAX);
    let bound = format!("{}ms", crate::close::BATCH_FOR.as_millis());
    Ok(pool_of(most, options(config)?.options([("statement_timeout", bound.as_str())])))
}

fn pool_of(most: u32, options: PgConnectOptions) -> PgPool {
    PgPoolOptions::new()
        .max_connections(most)
        .acquire_timeout(ACQUIRE)
        // A round trip for each acquire would buy nothing: a dead connection's error is retried like any outage. Only one
        // that has rested may have gone silent unnoticed.
        .test_before_acquire(false)
        .before_acquire(|connection, meta| {
            let rested = meta.idle_for > Duration::from_secs(1);
            Box::pin(async move { if rested { answers(connection).await } else { Ok(true) } })
        })
        // The driver would wait for ever for the connection of a statement that was given up, and keep its place taken.
        .after_release(|connection, _| Box::pin(answers(connection)))
        .connect_lazy_with(options)
}

/// Longest wait for a connection and an answer that takes no work. Roles begin with it, and orders become due meanwhile.
const PROBE: Duration = Duration::from_secs(4);

/// Asks the database for its time and its schema.
///
/// # Errors
/// When it cannot be reached, refuses the login, or has not been migrated; the error says which.
pub async fn probe(pool: &PgPool, clock: &DbClock) -> Result<(), DatabaseError> {
    match ask(pool, clock).await {
        Ok(()) => Ok(()),
        Err(error) => Err(explained(pool, error).await),
    }
}

async fn ask(pool: &PgPool, clock: &DbClock) -> Result<(), DatabaseError> {
    let sent = Instant::now();
    // LIMIT 0: that the table is there is all that is asked.
    let now = sqlx::query_scalar!(
        r#"SELECT clock_timestamp() AS "now!" FROM (SELECT count(*) FROM (SELECT FROM outbox LIMIT 0) AS none) AS ours"#
    );
    let now = timeout(PROBE, now.fetch_one(pool)).await.unwrap_or_else(|_| Err(silent()));
    let now = now.map_err(DatabaseError::during("asking the database for its time"))?;
    clock.observe(sent, Instant::now(), DbTime::from(now));
    Ok(())
}

/// Opens a connection, to see whether that works.
///
/// # Errors
/// When the database cannot be reached or refuses the login; the error says which.
pub async fn reach(pool: &PgPool) -> Result<(), DatabaseError> {
    match bounded("connecting to the database", pool.acquire()).await {
        Ok(_) => Ok(()),
        Err(error) => Err(explained(pool, error).await),
    }
}

/// How often the clock is read anew. It may drift by 200 µs for each second between two readings.
const TICK: Duration = Duration::from_secs(2);

/// Keeps the estimate of the database's clock fresh while nothing else does; runs until it is dropped.
pub async fn keep_time(pool: &PgPool, clock: &DbClock) {
    loop {
        // While the database is away, others notice and say so.
        let _ = ask(pool, clock).await;
        sleep(TICK).await;
    }
}

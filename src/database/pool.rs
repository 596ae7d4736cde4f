//! A pool of connections to PostgreSQL, direct or through a pooler such as PgBouncer.
//!
//! A pooler may give each transaction another server session, which it shares with other programs: nothing may stay behind in
//! such a session, no setting and no prepared statement. So each statement that goes through a pooler is a transaction of its own, which
//! begins with our settings (`SET LOCAL`), and no statement has a name. That is right in every mode of a pooler; it takes four
//! round trips where a direct connection takes one.

use std::fmt;
use std::ops::DerefMut;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::{TryStreamExt, future::BoxFuture, stream, stream::BoxStream};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{
    PgConnectOptions, PgPoolOptions, PgQueryResult, PgRow, PgStatement, PgTypeInfo, Postgres,
};
use sqlx::{AssertSqlSafe, Connection, Either, Error, Execute, Executor, PgConnection, PgPool, SqlStr};

use super::session::{self, Settings};
use super::{ANSWER, DatabaseError, answers, code};
use crate::config::{Config, Pooler};

/// Longest wait for a connection; short, because callers have retries of their own.
const ACQUIRE: Duration = Duration::from_secs(2);

/// The database: a pool of connections that executes statements.
#[derive(Clone, Debug)]
pub struct Database {
    pool: PgPool,
    /// Connection options with our settings as start-up parameters, and without any, as poolers want them.
    options: Arc<(PgConnectOptions, PgConnectOptions)>,
    way: Arc<Way>,
}

/// How our settings reach the sessions of a pool.
#[derive(Debug)]
pub(super) struct Way {
    settings: Settings,
    /// Begins a transaction with our settings.
    begin: String,
    /// Whether a pooler was seen on the way. It stays true: what is right through a pooler is right without one, too.
    pooled: AtomicBool,
}

impl Way {
    pub fn new(settings: Settings, config: &Config) -> Self {
        let begin = settings.begin();
        Self { settings, begin, pooled: AtomicBool::new(config.database_pooler == Pooler::Always) }
    }

    pub fn pooled(&self) -> bool {
        self.pooled.load(Ordering::Acquire)
    }

    /// Checks that a new connection's statements get our settings.
    ///
    /// # Errors
    /// The database's, or a refusal that names the first unsuitable setting, its value, and what to do.
    pub async fn check(&self, connection: &mut PgConnection) -> Result<(), Error> {
        if !self.pooled() {
            let seen = self.settings.look(connection).await?;
            if seen.is_direct()? {
                return self.settings.judge(&seen);
            }
            self.pooled.store(true, Ordering::Release);
        }
        let mut transaction = connection.begin_with(AssertSqlSafe(self.begin.as_str())).await?;
        let seen = self.settings.look(&mut transaction).await;
        self.settings.judge(&settle(transaction, seen).await?)
    }

    /// Whether this may be a pooler's refusal of our start-up parameters. PgBouncer reports it as a protocol violation (08P01), as it
    /// does much else; others may use another code of that class.
    pub fn refuses_parameters(&self, error: &Error) -> bool {
        !self.pooled() && matches!(error, Error::Database(_)) && code(error).starts_with("08")
    }
}

impl Database {
    /// A pool of at most `most` connections; none is opened yet. `changed` are settings that replace the usual ones.
    pub(super) fn new(
        config: &Config,
        most: u32,
        changed: &[(&'static str, &str)],
    ) -> Result<Self, DatabaseError> {
        let settings = Settings::of(config, changed);
        let plain = session::plain_options(config)?;
        let options = Arc::new((settings.at_start(plain.clone()), plain));
        let way = Arc::new(Way::new(settings, config));
        let first = if way.pooled() { &options.1 } else { &options.0 };
        let pool = PgPoolOptions::new()
            .max_connections(most)
            .acquire_timeout(ACQUIRE)
            // A round trip for each acquire would buy nothing: a dead connection's error is retried like any outage. Only a
            // connection that has been idle may have died unnoticed.
            .test_before_acquire(false)
            .after_connect({
                let way = Arc::clone(&way);
                move |connection, _| {
                    let way = Arc::clone(&way);
                    Box::pin(async move { way.check(connection).await })
                }
            })
            .before_acquire(|connection, meta| {
                let rested = meta.idle_for > Duration::from_secs(1);
                Box::pin(async move { if rested { answers(connection).await } else { Ok(true) } })
            })
            // Without this, the driver would wait forever for the connection of an abandoned statement, and keep its place taken.
            .after_release(|connection, _| Box::pin(answers(connection)))
            .connect_lazy_with(first.clone());
        Ok(Self { pool, options, way })
    }

    /// A connection of the pool.
    ///
    /// # Errors
    /// When none is free or can be opened.
    pub async fn acquire(&self) -> Result<Session, Error> {
        let connection = match self.pool.acquire().await {
            Err(error) if self.way.refuses_parameters(&error) => self.acquire_plainly(error).await?,
            acquired => acquired?,
        };
        Ok(Session { connection, way: Arc::clone(&self.way), within: false })
    }

    /// Connects without start-up parameters, because `refusal` may mean that a pooler does not accept them.
    async fn acquire_plainly(&self, refusal: Error) -> Result<PoolConnection<Postgres>, Error> {
        self.pool.set_connect_options(self.options.1.clone());
        let connected = self.pool.acquire().await;
        // `check` recognizes a pooler when a connection is made.
        if self.way.pooled() {
            return connected;
        }
        self.pool.set_connect_options(self.options.0.clone());
        connected.map_err(|_| refusal)
    }

    /// Whether a pooler was seen between Overdue and PostgreSQL.
    #[must_use]
    pub fn through_a_pooler(&self) -> bool {
        self.way.pooled()
    }

    /// How the pool connects now.
    #[must_use]
    pub(super) fn connect_options(&self) -> Arc<PgConnectOptions> {
        self.pool.connect_options()
    }

    /// Closes the pool.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// What a session may own: a connection of the pool or of its own, or a transaction.
pub trait Connected: DerefMut<Target = PgConnection> + Send {}

impl<C: DerefMut<Target = PgConnection> + Send> Connected for C {}

/// A connection, or a transaction on one.
pub struct Session<C = PoolConnection<Postgres>> {
    connection: C,
    way: Arc<Way>,
    /// Whether this is a transaction.
    within: bool,
}

/// A transaction. It is rolled back if it is dropped.
pub type Transaction<'c> = Session<sqlx::Transaction<'c, Postgres>>;

impl<C> fmt::Debug for Session<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("within", &self.within).finish_non_exhaustive()
    }
}

impl<C: Connected> Session<C> {
    pub(super) fn new(connection: C, way: Arc<Way>) -> Self {
        Self { connection, way, within: false }
    }

    /// Begins a transaction with these settings of its own besides ours, such as `SET LOCAL statement_timeout = '1s'`.
    ///
    /// # Errors
    /// The database's.
    pub async fn begin(&mut self, further: &'static str) -> Result<Transaction<'_>, Error> {
        let begin = if self.way.pooled() { self.way.begin.as_str() } else { "BEGIN" };
        let begin = AssertSqlSafe(format!("{begin}; {further}"));
        let connection = self.connection.begin_with(begin).await?;
        Ok(Session { connection, way: Arc::clone(&self.way), within: true })
    }

    /// Pings the server. Its answer means that the last statement is finished, and its locks are released if it failed.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn answers(&mut self) -> Result<bool, Error> {
        answers(&mut self.connection).await
    }

    /// Whether a pooler was seen on the way: each statement is a transaction, and none is prepared by name.
    #[must_use]
    pub fn through_a_pooler(&self) -> bool {
        self.way.pooled()
    }

    async fn begin_alone(&mut self) -> Result<sqlx::Transaction<'_, Postgres>, Error> {
        self.connection.begin_with(AssertSqlSafe(self.way.begin.as_str())).await
    }
}

impl Session<Box<PgConnection>> {
    /// Closes the connection.
    ///
    /// # Errors
    /// When the server cannot be told.
    pub async fn close(self) -> Result<(), Error> {
        (*self.connection).close().await
    }
}

impl Transaction<'_> {
    /// Commits.
    ///
    /// # Errors
    /// The database's. Whether the transaction was committed is unknown if its answer was lost.
    pub async fn commit(self) -> Result<(), Error> {
        self.connection.commit().await
    }
}

/// Commits if the statement succeeded. Otherwise rolls back at once: the transaction's locks would be held until the session is used
/// again.
async fn settle<T>(
    transaction: sqlx::Transaction<'_, Postgres>,
    outcome: Result<T, Error>,
) -> Result<T, Error> {
    match outcome {
        Ok(outcome) => transaction.commit().await.map(|()| outcome),
        Err(error) => {
            // A server that does not answer ends the transaction with the connection.
            let _ = tokio::time::timeout(ANSWER, transaction.rollback()).await;
            Err(error)
        }
    }
}

type Steps<'e> = BoxStream<'e, Result<Either<PgQueryResult, PgRow>, Error>>;

impl<'c, C: Connected> Executor<'c> for &'c mut Session<C> {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> Steps<'e>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        if !self.through_a_pooler() {
            return (&mut *self.connection).fetch_many(query);
        }
        if self.within {
            return (&mut *self.connection).fetch_many(Unnamed(query));
        }
        collected(async move {
            let mut transaction = self.begin_alone().await?;
            let steps = (&mut *transaction).fetch_many(Unnamed(query)).try_collect().await;
            settle(transaction, steps).await
        })
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        if !self.through_a_pooler() {
            return (&mut *self.connection).fetch_optional(query);
        }
        if self.within {
            return (&mut *self.connection).fetch_optional(Unnamed(query));
        }
        Box::pin(async move {
            let mut transaction = self.begin_alone().await?;
            let row = (&mut *transaction).fetch_optional(Unnamed(query)).await;
            settle(transaction, row).await
        })
    }

    fn prepare_with<'e>(self, _: SqlStr, _: &'e [PgTypeInfo]) -> BoxFuture<'e, Result<PgStatement, Error>>
    where
        'c: 'e,
    {
        Box::pin(async { Err(unprepared()) })
    }

    fn describe<'e>(self, _: SqlStr) -> BoxFuture<'e, Result<sqlx::Describe<Postgres>, Error>>
    where
        'c: 'e,
    {
        Box::pin(async { Err(unprepared()) })
    }
}

impl<'p> Executor<'p> for &'p Database {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> Steps<'e>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        collected(async move {
            let mut session = self.acquire().await?;
            (&mut session).fetch_many(query).try_collect().await
        })
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(async move {
            let mut session = self.acquire().await?;
            (&mut session).fetch_optional(query).await
        })
    }

    fn prepare_with<'e>(self, _: SqlStr, _: &'e [PgTypeInfo]) -> BoxFuture<'e, Result<PgStatement, Error>>
    where
        'p: 'e,
    {
        Box::pin(async { Err(unprepared()) })
    }

    fn describe<'e>(self, _: SqlStr) -> BoxFuture<'e, Result<sqlx::Describe<Postgres>, Error>>
    where
        'p: 'e,
    {
        Box::pin(async { Err(unprepared()) })
    }
}

/// Everything that a statement returns, as a stream. Statements read in pages, so this is not much.
fn collected<'e>(
    steps: impl Future<Output = Result<Vec<Either<PgQueryResult, PgRow>>, Error>> + Send + 'e,
) -> Steps<'e> {
    Box::pin(stream::once(steps).map_ok(|steps| stream::iter(steps.into_iter().map(Ok))).try_flatten())
}

/// A statement prepared without a name, which replaces the one before it and leaves nothing in the session.
struct Unnamed<E>(E);

impl<'q, E: Execute<'q, Postgres>> Execute<'q, Postgres> for Unnamed<E> {
    fn sql(self) -> SqlStr {
        self.0.sql()
    }

    fn statement(&self) -> Option<&PgStatement> {
        self.0.statement()
    }

    fn take_arguments(&mut self) -> Result<Option<sqlx::postgres::PgArguments>, sqlx::error::BoxDynError> {
        self.0.take_arguments()
    }

    fn persistent(&self) -> bool {
        false
    }
}

fn unprepared() -> Error {
    Error::Protocol(
        "a statement cannot be prepared ahead: the next one may run in another session".to_owned(),
    )
}

//! Runs statements on a connection or in a transaction, as the way to the server needs it.
//!
//! A pooler may give each transaction another server session, which it shares with other programs: nothing may stay behind in
//! such a session, no setting and no prepared statement. So each statement that goes through a pooler is a transaction of its own, which
//! begins with our settings (`SET LOCAL`), and no statement has a name. That is right in every mode of a pooler; it takes four
//! round trips where a direct connection takes one.

use std::fmt;
use std::ops::DerefMut;
use std::sync::Arc;

use futures_util::{TryStreamExt, future::BoxFuture, stream, stream::BoxStream};
use sqlx::error::BoxDynError;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgQueryResult, PgRow, PgStatement, PgTypeInfo, Postgres};
use sqlx::{AssertSqlSafe, Connection, Either, Error, Execute, Executor, PgConnection, SqlStr};

use super::way::{Way, settle};
use super::{code, is_outside_a_transaction};

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
        let connection = self.connection.begin_with(begin).await.map_err(no_primary)?;
        Ok(Session { connection, way: Arc::clone(&self.way), within: true })
    }

    /// Whether the last statement is finished, its locks are released if it failed, and no transaction is open.
    pub async fn is_free(&mut self) -> bool {
        is_outside_a_transaction(&mut self.connection).await.unwrap_or(false)
    }

    /// Whether a pooler was seen on the way: each statement is a transaction, and none is prepared by name.
    #[must_use]
    pub fn through_a_pooler(&self) -> bool {
        self.way.pooled()
    }

    async fn begin_alone(&mut self) -> Result<sqlx::Transaction<'_, Postgres>, Error> {
        self.connection.begin_with(AssertSqlSafe(self.way.begin.as_str())).await.map_err(no_primary)
    }
}

/// A standby refuses to begin a transaction that may write as a feature that it does not support (0A000). A pooler has been
/// pointed to it; nothing is wrong with the orders, which the class of that code would mean.
fn no_primary(error: Error) -> Error {
    match code(&error).as_str() {
        "0A000" => Error::Protocol(error.to_string()),
        _ => error,
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

pub(super) type Steps<'e> = BoxStream<'e, Result<Either<PgQueryResult, PgRow>, Error>>;

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
        unprepared()
    }

    fn describe<'e>(self, _: SqlStr) -> BoxFuture<'e, Result<sqlx::Describe<Postgres>, Error>>
    where
        'c: 'e,
    {
        unprepared()
    }
}

/// Everything that a statement returns, as a stream. Statements read in pages, so this is not much.
pub(super) fn collected<'e>(
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

    fn take_arguments(&mut self) -> Result<Option<PgArguments>, BoxDynError> {
        self.0.take_arguments()
    }

    fn persistent(&self) -> bool {
        false
    }
}

/// The answer to whoever asks to prepare a statement ahead, which nothing here does.
pub(super) fn unprepared<'e, T: 'e>() -> BoxFuture<'e, Result<T, Error>> {
    let why = "a statement cannot be prepared ahead: the next one may run in another session";
    Box::pin(async move { Err(Error::Protocol(why.to_owned())) })
}

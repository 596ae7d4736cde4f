//! Connections to PostgreSQL: a pool of them, or one alone.

use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use futures_util::future::BoxFuture;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgRow, PgStatement, PgTypeInfo, Postgres};
use sqlx::{Connection, Error, Execute, Executor, PgConnection, PgPool, SqlStr};

use super::executor::{Session, Steps, collected, unprepared};
use super::session::{Settings, plain_options};
use super::way::Way;
use super::{DatabaseError, PROBE, answers, is_outside_a_transaction, within};
use crate::config::Config;

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

impl Database {
    /// A pool of at most `most` connections; none is opened yet. `changed` are settings that replace the usual ones.
    pub(super) fn new(
        config: &Config,
        most: u32,
        changed: &[(&'static str, &str)],
    ) -> Result<Self, DatabaseError> {
        let settings = Settings::of(config, changed);
        let plain = plain_options(config)?;
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
            .after_release(|connection, _| Box::pin(is_outside_a_transaction(connection)))
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
        Ok(Session::new(connection, Arc::clone(&self.way)))
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
        unprepared()
    }

    fn describe<'e>(self, _: SqlStr) -> BoxFuture<'e, Result<sqlx::Describe<Postgres>, Error>>
    where
        'p: 'e,
    {
        unprepared()
    }
}

/// Connects outside the pool, and checks that statements get our settings.
///
/// # Errors
/// When the database cannot be reached or refuses the login, or when a setting is not suitable.
pub async fn connect(config: &Config) -> Result<Session<Box<PgConnection>>, DatabaseError> {
    let settings = Settings::of(config, &[]);
    let plain = plain_options(config)?;
    let way = Way::new(settings.clone(), config);
    let connecting = async {
        let first = if way.pooled() { plain.clone() } else { settings.at_start(plain.clone()) };
        let mut connection = match PgConnection::connect_with(&first).await {
            Err(error) if way.refuses_parameters(&error) => {
                // Without them the answer is the same, or more telling, unless this is a pooler.
                let Ok(connection) = PgConnection::connect_with(&plain).await else { return Err(error) };
                connection // `check` recognizes the pooler
            }
            connected => connected?,
        };
        way.check(&mut connection).await?;
        Ok(Session::new(Box::new(connection), Arc::new(way)))
    };
    within(PROBE, "connecting to the database", connecting).await
}

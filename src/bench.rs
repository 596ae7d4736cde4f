//! `overdue bench`: measures the service on the user's own broker and database.
//!
//! It works in a schema and under a prefix of its own, which it removes afterwards, with pods as real processes.

mod burst;
mod pod;
mod steady;
mod sweep;

use std::time::Duration;

use lapin::options::{ExchangeDeleteOptions, QueueDeleteOptions};
use serde::Serialize;
use sqlx::{AssertSqlSafe, Executor, PgPool};

pub use burst::burst;
pub use steady::{Steady, steady};
pub use sweep::{Sweeping, sweep};

use crate::broker::{self, Broker};
use crate::config::Config;
use crate::database::{self, DatabaseError};
use crate::settings::{Raw, SettingError};
use pod::PodProcess;

/// Why a benchmark could not be run.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A setting.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// The database.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The schema.
    #[error("making the schema: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// The broker.
    #[error(transparent)]
    Broker(#[from] crate::broker::BrokerError),
    /// A pod could not be started or read.
    #[error("running a pod: {0}")]
    Pod(#[from] std::io::Error),
    /// It did not finish.
    #[error("{open} orders are still open {after:?} after the last deadline; the pod's log says why")]
    Unfinished {
        /// How many.
        open: i64,
        /// How long was waited.
        after: Duration,
    },
}

/// How late orders were closed, `closed_at` against the deadline, in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Lateness {
    /// Half were closed within this.
    pub p50_ms: f64,
    /// 99 of 100 were.
    pub p99_ms: f64,
    /// All were.
    pub max_ms: f64,
}

/// A place to measure in: schema, prefix, and a connection to it.
struct Place {
    raw: Raw,
    config: Config,
    schema: String,
    pool: PgPool,
}

fn failed(doing: &'static str) -> impl FnOnce(sqlx::Error) -> BenchError {
    move |source| BenchError::Database(DatabaseError { doing, source })
}

impl Place {
    /// Makes schema and topology.
    async fn make(raw: &Raw) -> Result<Self, BenchError> {
        let schema = format!("overdue_bench_{}", std::process::id());
        let outer = Config::from_raw(raw)?;
        let pool = database::pool(&outer)?;
        pool.execute(AssertSqlSafe(format!("CREATE SCHEMA {schema}")))
            .await
            .map_err(failed("making a schema"))?;
        pool.close().await;
        let mut url = outer.database_url.reveal().clone();
        url.query_pairs_mut().append_pair("options[search_path]", &schema);
        let prefix = format!("{}bench-{}.", outer.prefix, std::process::id());
        let raw = raw.clone().replace("database_url", url.as_str()).replace("prefix", &prefix);
        let config = Config::from_raw(&raw)?;
        let pool = database::pool(&config)?;
        database::migrate(&pool).await?;
        Ok(Self { raw, config, schema, pool })
    }

    /// Starts a pod as a process, with the same settings.
    fn pod(&self, log: Option<&std::path::Path>) -> Result<PodProcess, BenchError> {
        Ok(PodProcess::start(&self.raw, log)?)
    }

    /// Runs a statement that the workload needs.
    async fn run(&self, doing: &'static str, statement: &str) -> Result<(), BenchError> {
        // Loading a hundred thousand orders takes longer than any statement of the service may.
        let mut connection = self.pool.acquire().await.map_err(failed(doing))?;
        let statement = format!("SET statement_timeout = 0; {statement}; RESET statement_timeout");
        (&mut *connection).execute(AssertSqlSafe(statement)).await.map_err(failed(doing))?;
        Ok(())
    }

    async fn number(&self, doing: &'static str, query: &'static str) -> Result<i64, BenchError> {
        sqlx::query_scalar(query).fetch_one(&self.pool).await.map_err(failed(doing))
    }

    async fn lateness(&self, of: &str) -> Result<Lateness, BenchError> {
        let quantiles: Option<Vec<f64>> = sqlx::query_scalar(AssertSqlSafe(format!(
            "SELECT percentile_disc(ARRAY[0.5, 0.99, 1.0]) WITHIN GROUP
                 (ORDER BY extract(epoch FROM closed_at - payment_deadline)::float8 * 1e3)
             FROM orders WHERE status = 'CLOSED' AND {of}",
        )))
        .fetch_one(&self.pool)
        .await
        .map_err(failed("reading lateness"))?;
        let at = |n: usize| quantiles.as_ref().and_then(|all| all.get(n)).copied().unwrap_or(f64::NAN);
        Ok(Lateness { p50_ms: at(0), p99_ms: at(1), max_ms: at(2) })
    }

    /// Removes everything it made.
    async fn remove(self) -> Result<(), BenchError> {
        let drop = format!("DROP SCHEMA {} CASCADE", self.schema);
        self.run("removing the schema", &drop).await?;
        self.pool.close().await;
        let broker = Broker::new(&self.config);
        let connection = broker.connect("bench").await?;
        let channel = broker.channel(&connection).await?;
        // Sources before targets, the other way round than they were declared.
        for queue in broker.topology.queues.iter().rev() {
            let delete = channel.queue_delete(queue.name.as_str().into(), QueueDeleteOptions::default());
            broker.bounded("deleting a queue", delete).await?;
        }
        let exchange = broker.topology.exchange.as_str();
        let delete = channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default());
        broker.bounded("deleting the exchange", delete).await?;
        broker::close(&connection).await;
        Ok(())
    }
}

//! A sandbox to measure in: a schema and a prefix of its own, which are removed afterwards.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lapin::options::{ExchangeDeleteOptions, QueueDeleteOptions};
use sqlx::{AssertSqlSafe, Executor};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::OnceCell;

use super::BenchError;
use super::outcome::{Bin, Slice};
use super::process::PodProcess;
use crate::broker::{self, Broker};
use crate::clock::{DbClock, DbTime};
use crate::config::Config;
use crate::config::settings::Raw;
use crate::database::{self, Database, DatabaseError};
use crate::error_text::words;
use crate::stats::Lateness;

/// Wrapped around statements that may run long or wait long for a lock.
pub(super) const PATIENTLY: &str = "SET statement_timeout = 0; SET lock_timeout = 0";
pub(super) const AS_BEFORE: &str = "RESET statement_timeout; RESET lock_timeout";

pub(super) struct Sandbox {
    pub raw: Raw,
    pub config: Config,
    pub pool: Database,
    pub clock: Arc<DbClock>,
    schema: String,
    log: Option<PathBuf>,
    declared: OnceCell<()>,
}

pub(super) fn failed(doing: &'static str) -> impl FnOnce(sqlx::Error) -> BenchError {
    move |source| BenchError::Database(DatabaseError { doing, source })
}

/// The remedy of the service's own permission error does not fit here, so the bench has an error of its own.
fn no_schema(source: sqlx::Error) -> BenchError {
    match source.as_database_error().and_then(|error| error.code()).as_deref() {
        Some("42501") => BenchError::NoSchema(words(&source)),
        _ => failed("making a schema")(source),
    }
}

impl Sandbox {
    /// Makes a sandbox, measures in it, and removes it whatever the outcome, also after Ctrl-C and SIGTERM.
    pub async fn with<T>(
        raw: &Raw,
        log: Option<&Path>,
        measure: impl AsyncFnOnce(&Self) -> Result<T, BenchError>,
    ) -> Result<T, BenchError> {
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let sandbox = Self::make(raw, log).await?;
        let outcome = tokio::select! {
            outcome = async {
                sandbox.prepare().await?;
                measure(&sandbox).await
            } => outcome,
            _ = interrupt.recv() => Err(BenchError::Interrupted),
            _ = terminate.recv() => Err(BenchError::Interrupted),
        };
        let removed = sandbox.remove().await;
        // The measurement's error explains more than one of the removal.
        let outcome = outcome?;
        removed.map(|()| outcome)
    }

    async fn make(raw: &Raw, log: Option<&Path>) -> Result<Self, BenchError> {
        let schema = format!("overdue_bench_{}", std::process::id());
        let outer = Config::from_raw(raw)?;
        let pool = database::pool(&outer)?;
        pool.execute(AssertSqlSafe(format!("CREATE SCHEMA {schema}"))).await.map_err(no_schema)?;
        if pool.through_a_pooler() {
            pool.execute(AssertSqlSafe(format!("DROP SCHEMA {schema}"))).await.map_err(no_schema)?;
            return Err(BenchError::Pooler);
        }
        pool.close().await;
        let prefix = format!("{}bench-{}.", outer.prefix, std::process::id());
        // The bench must declare the queues of its own prefix, even where the shop's are declared by another user.
        let raw = raw
            .clone()
            .replace("schema", &schema)
            .replace("prefix", &prefix)
            .replace("declare_topology", "true");
        let config = Config::from_raw(&raw)?;
        let pool = database::pool(&config)?;
        Ok(Self {
            raw,
            config,
            pool,
            clock: Arc::default(),
            schema,
            log: log.map(Path::to_owned),
            declared: OnceCell::new(),
        })
    }

    async fn prepare(&self) -> Result<(), BenchError> {
        database::migrate(&database::options(&self.config)?).await?;
        database::probe(&self.pool, &self.clock).await?;
        Ok(())
    }

    /// Starts a pod with the sandbox's settings.
    pub async fn pod(&self) -> Result<PodProcess, BenchError> {
        self.start(&self.raw).await
    }

    /// Starts a pod with another value of a setting.
    pub async fn pod_with(&self, setting: &'static str, value: &str) -> Result<PodProcess, BenchError> {
        self.start(&self.raw.clone().replace(setting, value)).await
    }

    async fn start(&self, raw: &Raw) -> Result<PodProcess, BenchError> {
        self.declared.get_or_try_init(|| self.declare()).await?;
        Ok(PodProcess::start(raw, self.log.as_deref())?)
    }

    /// Declares the topology before the first pod does: each pod that creates a queue announces all waiting orders.
    async fn declare(&self) -> Result<(), BenchError> {
        let broker = Broker::new(&self.config);
        let connection = broker.connect("bench").await?;
        broker.declare(&connection).await?;
        broker::close(&connection).await;
        Ok(())
    }

    /// Runs statements that a workload needs, without timeouts: autovacuum may block them for a second.
    pub async fn run(&self, doing: &'static str, statements: &str) -> Result<(), BenchError> {
        let mut connection = self.pool.acquire().await.map_err(failed(doing))?;
        let statements = format!("{PATIENTLY}; {statements}; {AS_BEFORE}");
        (&mut connection).execute(AssertSqlSafe(statements)).await.map_err(failed(doing))?;
        Ok(())
    }

    pub async fn number(&self, doing: &'static str, query: &'static str) -> Result<i64, BenchError> {
        sqlx::query_scalar(query).fetch_one(&self.pool).await.map_err(failed(doing))
    }

    /// The database's time by a clock that has just been synchronized, as a pod reads it.
    pub async fn now(&self) -> Result<DbTime, BenchError> {
        database::probe(&self.pool, &self.clock).await?;
        Ok(self.clock.now())
    }

    /// How late the orders were closed: `closed_at` minus the deadline.
    pub async fn lateness(&self, of: &str) -> Result<Lateness, BenchError> {
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

    /// Lateness as a histogram, with eight bins per factor of ten.
    pub async fn bins(&self, of: &str) -> Result<Vec<Bin>, BenchError> {
        let bins: Vec<(i32, i64)> = sqlx::query_as(AssertSqlSafe(format!(
            "SELECT floor(8 * log(greatest(extract(epoch FROM closed_at - payment_deadline)::float8 * 1e3, 0.1)))::int AS bin,
                    count(*)
             FROM orders WHERE status = 'CLOSED' AND {of} GROUP BY bin ORDER BY bin",
        )))
        .fetch_all(&self.pool)
        .await
        .map_err(failed("reading lateness"))?;
        let edge = |bin: i32| 10_f64.powf(f64::from(bin) / 8.0);
        let bin = |(n, orders)| Bin { from_ms: edge(n), to_ms: edge(n + 1), orders };
        Ok(bins.into_iter().map(bin).collect())
    }

    /// Orders closed per second in slices of so many milliseconds, from the first close on.
    pub async fn slices(&self, of: &str, millis: u32) -> Result<Vec<Slice>, BenchError> {
        let slices: Vec<(i64, i64)> = sqlx::query_as(AssertSqlSafe(format!(
            "SELECT floor(extract(epoch FROM closed_at) * 1e3 / {millis})::bigint AS slice, count(*)
             FROM orders WHERE status = 'CLOSED' AND {of} GROUP BY slice ORDER BY slice",
        )))
        .fetch_all(&self.pool)
        .await
        .map_err(failed("reading when orders were closed"))?;
        let first = slices.first().map_or(0, |(slice, _)| *slice);
        let seconds = f64::from(millis) / 1e3;
        let slice = |(slice, orders)| Slice {
            at_s: (slice - first) as f64 * seconds,
            closed_per_second: orders as f64 / seconds,
        };
        Ok(slices.into_iter().map(slice).collect())
    }

    /// Empties the sandbox, except for the orders of earlier years. Products go too: sales leave dead versions of their
    /// rows, which would slow down the next run.
    pub async fn empty(&self) -> Result<(), BenchError> {
        let old =
            "SELECT count(*) FROM (SELECT payment_deadline FROM orders ORDER BY order_id LIMIT 1) AS first
                   WHERE payment_deadline < '2025-01-01'";
        let orders = match self.number("looking for old orders", old).await? {
            0 => {
                "TRUNCATE orders, order_items, inventory, outbox, refused_events, closing_failures, lane_probes"
            }
            _ => {
                "TRUNCATE order_items, inventory, outbox, refused_events, closing_failures, lane_probes; DELETE FROM orders WHERE payment_deadline > '2025-01-01'"
            }
        };
        self.run("emptying the tables", orders).await
    }

    async fn remove(self) -> Result<(), BenchError> {
        let drop = format!("DROP SCHEMA {} CASCADE", self.schema);
        self.run("removing the schema", &drop).await?;
        self.pool.close().await;
        let broker = Broker::new(&self.config);
        let connection = broker.connect("bench").await?;
        let channel = broker.channel(&connection).await?;
        // In reverse order of declaration: dead-letter sources before their targets.
        for queue in broker.topology.queues.iter().rev() {
            let delete = channel.queue_delete(queue.name.as_str().into(), QueueDeleteOptions::default());
            broker.bounded("deleting a queue", delete).await?;
        }
        for exchange in broker.topology.exchanges() {
            let delete = channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default());
            broker.bounded("deleting an exchange", delete).await?;
        }
        broker::close(&connection).await;
        Ok(())
    }
}

//! What the roles of a pod share.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::RoleError;
use super::backoff::STABLE;
use crate::broker::Broker;
use crate::clock::DbClock;
use crate::closing::Closer;
use crate::closing::next_step::RetryPolicy;
use crate::config::Config;
use crate::database::{self, DatabaseError};
use crate::lanes::schedule::Scheduler;
use crate::stats::Stats;

#[derive(Debug)]
pub struct Shared {
    pub config: Config,
    pub broker: Broker,
    /// Closes orders; holds the database pool.
    pub closer: Closer,
    pub clock: Arc<DbClock>,
    pub scheduler: Scheduler,
    pub retry: RetryPolicy,
    pub stats: Arc<Stats>,
    /// Whether due orders are waiting for a closing transaction. Work that can wait does so meanwhile.
    pub behind: AtomicBool,
    /// When the database was last checked; `None` until it has passed once.
    fit_since: tokio::sync::Mutex<Option<Instant>>,
    /// When it was last reported that another shop uses the same names.
    pub another_shop_reported: Mutex<Option<Instant>>,
}

impl Shared {
    /// Connects nothing yet.
    ///
    /// # Errors
    /// When the database URL cannot be used.
    pub fn new(config: Config) -> Result<Arc<Self>, DatabaseError> {
        let (clock, stats) = (Arc::new(DbClock::default()), Arc::new(Stats::default()));
        let closer = Closer::new(&config, database::pool(&config)?, Arc::clone(&clock), Arc::clone(&stats))?;
        let scheduler = Scheduler::new(config.lanes.clone(), config.coalesce, config.max_orders_per_wake);
        let retry = RetryPolicy {
            max_attempts: config.max_attempts,
            base: config.retry_base,
            shortest_lane: config.lanes.as_slice()[0].length,
        };
        Ok(Arc::new(Self {
            broker: Broker::new(&config),
            closer,
            clock,
            scheduler,
            retry,
            stats,
            config,
            behind: AtomicBool::new(false),
            another_shop_reported: Mutex::default(),
            fit_since: tokio::sync::Mutex::default(),
        }))
    }

    /// Checks that the database is what a pod needs. Roles that begin together share one check. Rebuilt sessions check again,
    /// because the server may be another one by then. A pod does not begin while something is wrong; a running pod reports
    /// it and goes on, because closing what can be closed is better than closing nothing.
    ///
    /// # Errors
    /// When the database cannot be asked or, before the pod has begun, is not what a pod needs; the error names the remedy.
    pub async fn check_database(&self) -> Result<(), RoleError> {
        let mut last = self.fit_since.lock().await;
        let before = *last;
        if before.is_some_and(|at| at.elapsed() < STABLE) {
            return Ok(());
        }
        match database::fit(&self.config).await {
            Err(error) if before.is_some() && !error.is_transient() => {
                tracing::error!(event = "database_unfit", %error, "the database is no longer what this pod needs");
            }
            fit => fit?,
        }
        *last = Some(Instant::now());
        Ok(())
    }
}

/// Resolves `some_time` after `stop` is cancelled.
pub async fn after_stop(stop: &CancellationToken, some_time: Duration) {
    stop.cancelled().await;
    sleep(some_time).await;
}

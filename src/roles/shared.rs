//! What every role of a pod is handed.

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

/// What all roles of a pod share.
#[derive(Debug)]
pub struct Shared {
    /// Every setting.
    pub config: Config,
    /// Where the messages are.
    pub broker: Broker,
    /// Closes orders; holds the database pool.
    pub closer: Closer,
    /// The database's clock.
    pub clock: Arc<DbClock>,
    /// How wakes become messages.
    pub scheduler: Scheduler,
    /// When failures are tried again.
    pub retry: RetryPolicy,
    /// What was done.
    pub stats: Arc<Stats>,
    /// Whether orders are due that no closing transaction has taken up yet: then what can wait, waits.
    pub behind: AtomicBool,
    /// When the database was last found to be what a pod needs.
    fit_since: tokio::sync::Mutex<Option<Instant>>,
    /// When it was last reported that another shop uses the same names.
    pub another_shop_reported: Mutex<Option<Instant>>,
}

impl Shared {
    /// What the roles of a pod with this configuration share; nothing is connected yet.
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

    /// Checks that the database is what a pod needs: once for the roles that begin at the same time, and again when sessions
    /// are built again, because then it may be another server. A pod does not begin where something is wrong; one that works
    /// reports it and goes on, because closing what can be closed is better than closing nothing.
    ///
    /// # Errors
    /// When the database cannot be asked, or, before a pod has begun, is not what it needs; the error names the remedy.
    pub async fn check_database(&self) -> Result<(), RoleError> {
        let mut last = self.fit_since.lock().await;
        let before = *last;
        if before.is_some_and(|at| at.elapsed() < STABLE) {
            return Ok(());
        }
        match database::fit(&self.config).await {
            Err(error) if before.is_some() && !error.is_transient() => {
                tracing::error!(event = "database_unfit", %error, "the database is not what this pod needs any more");
            }
            fit => fit?,
        }
        *last = Some(Instant::now());
        Ok(())
    }
}

/// Resolves some time after `stop`.
pub async fn after_stop(stop: &CancellationToken, some_time: Duration) {
    stop.cancelled().await;
    sleep(some_time).await;
}

//! What the roles of a pod share.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
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
    /// This pod's name in the table `leases`.
    pub holder: String,
    /// Whether due orders are waiting for a closing transaction. Work that can wait does so meanwhile.
    pub behind: AtomicBool,
    /// Whether due orders have waited for longer than a moment since the pod last said that it is there.
    pub busy: AtomicBool,
    pub consuming: Consuming,
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
            holder: database::leader::holder(),
            behind: AtomicBool::new(false),
            busy: AtomicBool::new(false),
            consuming: Consuming::default(),
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
            fit => {
                if fit? && before.is_none() {
                    tracing::info!(
                        event = "through_a_pooler",
                        "a pooler is on the way to the database: each statement is a transaction of its own"
                    );
                }
            }
        }
        *last = Some(Instant::now());
        Ok(())
    }
}

/// Whether this pod takes wakes.
#[derive(Debug, Default)]
pub struct Consuming(Mutex<State>);

#[derive(Clone, Copy, Debug, Default)]
enum State {
    /// The pod does not play this role.
    #[default]
    Never,
    Away(Away),
    /// Since then, and why it did not before.
    Since(Instant, Away),
}

/// Why a pod takes no wakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Away {
    /// It has not begun, or has stopped for a reason of its own.
    Starting,
    /// The broker was lost.
    Broker,
}

impl Away {
    /// How long afterwards orders are still found that were missed meanwhile: the outbox may have grown without a broker.
    const fn aftermath(self) -> Duration {
        match self {
            Self::Starting => Duration::from_secs(3),
            Self::Broker => Duration::from_secs(10),
        }
    }
}

impl Consuming {
    pub fn begins(&self) {
        self.set(|state| match state {
            State::Never => State::Away(Away::Starting),
            known => known,
        });
    }

    pub fn takes_wakes(&self) {
        self.set(|state| match state {
            State::Away(why) => State::Since(Instant::now(), why),
            known => known,
        });
    }

    pub fn ends(&self, why: Away) {
        self.set(|_| State::Away(why));
    }

    /// Whether no wake can come to this pod now, because the broker was lost.
    #[must_use]
    pub fn has_lost_broker(&self) -> bool {
        matches!(self.state(), State::Away(Away::Broker))
    }

    /// Why the pod takes no wakes now, or took none shortly before.
    #[must_use]
    pub fn was_away(&self) -> Option<Away> {
        match self.state() {
            State::Away(why) => Some(why),
            State::Since(at, why) if at.elapsed() < why.aftermath() => Some(why),
            State::Since(..) | State::Never => None,
        }
    }

    fn state(&self) -> State {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, change: impl FnOnce(State) -> State) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = change(*state);
    }
}

/// Resolves `some_time` after `stop` is cancelled.
pub async fn after_stop(stop: &CancellationToken, some_time: Duration) {
    stop.cancelled().await;
    sleep(some_time).await;
}

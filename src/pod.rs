//! A pod: the roles it plays, each kept alive until the pod is asked to stop.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::announce::announce_when_created;
use crate::backoff::{Backoff, STABLE};
use crate::broker::Broker;
use crate::clock::DbClock;
use crate::close::Closer;
use crate::config::Config;
use crate::database::{self, DatabaseError};
use crate::leader::{Leadership, Office};
use crate::role::{Role, RoleError};
use crate::schedule::Scheduler;
use crate::settle::RetryPolicy;
use crate::stats::{Count, Stats, report};
use crate::{collect, intake, relay, sweep, watch};

/// What all roles of a pod share.
#[derive(Debug)]
pub struct Pod {
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
    pub another_shop_said: Mutex<Option<Instant>>,
}

/// How a pod ended.
#[derive(Debug)]
pub enum Ended {
    /// On request; everything in hand was finished.
    Clean,
    /// On request, but what was in hand was not finished in time, and was given back.
    Cut,
    /// Something that only a person can mend.
    Failed(Role, RoleError),
}

impl Pod {
    /// A pod with this configuration; nothing is connected yet.
    ///
    /// # Errors
    /// When the database URL cannot be used.
    pub fn new(config: Config) -> Result<Arc<Self>, DatabaseError> {
        let (clock, stats) = (Arc::new(DbClock::default()), Arc::new(Stats::default()));
        let closer = Closer::new(&config, database::pool(&config)?, Arc::clone(&clock), Arc::clone(&stats))?;
        let scheduler = Scheduler::new(config.lanes.clone(), config.coalesce, config.max_orders_per_wake);
        let retry = RetryPolicy { max_attempts: config.max_attempts, base: config.retry_base };
        Ok(Arc::new(Self {
            broker: Broker::new(&config),
            closer,
            clock,
            scheduler,
            retry,
            stats,
            config,
            behind: AtomicBool::new(false),
            another_shop_said: Mutex::default(),
            fit_since: tokio::sync::Mutex::default(),
        }))
    }

    /// Plays the roles until `soft` asks to stop (finish what is in hand) or `hard` insists (leave it
    /// after a moment).
    pub async fn run(
        self: &Arc<Self>,
        roles: &[Role],
        soft: &CancellationToken,
        hard: &CancellationToken,
    ) -> Ended {
        let mut playing = JoinSet::new();
        for role in roles.iter().copied() {
            let (pod, soft) = (Arc::clone(self), soft.child_token());
            playing.spawn(async move { (role, pod.play(role, &soft).await) });
        }
        let reporting = tokio::spawn(report(Arc::clone(&self.stats)));
        let keeping_time = tokio::spawn({
            let (pool, clock) = (self.closer.pool.clone(), Arc::clone(&self.clock));
            async move { database::keep_time(&pool, &clock).await }
        });
        let announcing = tokio::spawn({
            let pod = Arc::clone(self);
            async move { announce_when_created(&pod.broker.created, &pod.closer.pool).await }
        });
        let mut ended = Ended::Clean;
        // One for all roles: made in the loop, it would begin again with each role that ends.
        let mut overtime = std::pin::pin!(async {
            tokio::select! {
                () = past(soft, self.config.drain_timeout + GIVING_BACK) => {}
                () = past(hard, GOODBYES) => {}
            }
        });
        loop {
            tokio::select! {
                role = playing.join_next() => match role {
                    None => break,
                    Some(Ok((_, Ok(())))) => {}
                    Some(Ok((_, Err(error)))) if soft.is_cancelled() => {
                        tracing::warn!(%error, "did not finish what was in hand");
                        ended = cut(ended);
                    }
                    Some(Ok((role, Err(error)))) => {
                        soft.cancel();
                        ended = Ended::Failed(role, error);
                    }
                    // The task only waits for sessions, which are tasks of their own; it cannot panic.
                    Some(Err(error)) => tracing::error!(%error, "a role ended"),
                },
                () = &mut overtime => { ended = cut(ended); break }
            }
        }
        playing.shutdown().await;
        reporting.abort();
        keeping_time.abort();
        announcing.abort();
        let _ = timeout(GIVING_BACK, self.closer.disconnect()).await;
        self.stats.log("stopped");
        ended
    }

    /// Keeps a role's session alive: what breaks is dropped whole and built again, with backoff.
    ///
    /// An error that cannot heal ends the role, unless it has worked before: then somebody is changing something on a
    /// system that runs, and a pod that gives up would not notice when they are done.
    async fn play(self: &Arc<Self>, role: Role, soft: &CancellationToken) -> Result<(), RoleError> {
        let mut backoff = Backoff::default();
        let mut worked = false;
        while !soft.is_cancelled() {
            let started = Instant::now();
            let Err(error) = self.session_in_a_task(role, soft).await else {
                return Ok(());
            };
            if soft.is_cancelled() {
                // Whatever else broke, nothing was in hand.
                return if matches!(error, RoleError::Unfinished { .. }) { Err(error) } else { Ok(()) };
            }
            let lasted = started.elapsed() > STABLE;
            worked |= lasted;
            if !error.heals() && !worked {
                return Err(error);
            }
            let wait = backoff.next(lasted);
            tracing::warn!(%role, %error, retry_in = ?wait, "session broke; building a new one");
            self.stats.add(Count::Rebuilt, 1);
            tokio::select! {
                () = sleep(wait) => {}
                () = soft.cancelled() => {}
            }
        }
        Ok(())
    }

    /// In a task of its own, so that a panic, which would be a defect of ours, ends the session and not the role.
    async fn session_in_a_task(
        self: &Arc<Self>,
        role: Role,
        soft: &CancellationToken,
    ) -> Result<(), RoleError> {
        // A set, because it ends the task when it is dropped.
        let mut task = JoinSet::new();
        let (pod, soft) = (Arc::clone(self), soft.clone());
        task.spawn(async move { pod.session(role, &soft).await });
        match task.join_next().await {
            Some(Ok(outcome)) => outcome,
            Some(Err(error)) => Err(RoleError::Task(error.to_string())),
            None => Ok(()),
        }
    }

    async fn session(self: &Arc<Self>, role: Role, soft: &CancellationToken) -> Result<(), RoleError> {
        if role != Role::Intake {
            // The intake works without the database.
            self.check_database().await?;
        }
        match role {
            Role::Intake => intake::session(self, soft).await,
            Role::Close => collect::session(self, soft).await,
            Role::Relay => self.lead(Office::Relay, soft, relay::session(self, soft)).await,
            Role::Sweep => self.lead(Office::Sweep, soft, sweep::session(self, soft)).await,
            Role::Watch => self.lead(Office::Watch, soft, watch::session(self, soft)).await,
        }
    }

    /// Checks that the database is what a pod needs: once for the roles that begin at the same time, and again when sessions
    /// are built again, because then it may be another server. A pod does not begin where something is wrong; one that works
    /// reports it and goes on, because closing what can be closed is better than closing nothing.
    async fn check_database(&self) -> Result<(), RoleError> {
        let mut last = self.fit_since.lock().await;
        let before = *last;
        if before.is_some_and(|at| at.elapsed() < STABLE) {
            return Ok(());
        }
        match database::fit(&self.config).await {
            Err(error) if before.is_some() && !error.heals() => {
                tracing::error!(%error, "the database is not what this pod needs any more");
            }
            fit => fit?,
        }
        *last = Some(Instant::now());
        Ok(())
    }

    async fn lead(
        &self,
        office: Office,
        soft: &CancellationToken,
        work: impl Future<Output = Result<(), RoleError>>,
    ) -> Result<(), RoleError> {
        database::probe(&self.closer.pool, &self.clock).await?;
        let Some(mut leadership) = Leadership::win(self, office, soft).await? else {
            return Ok(());
        };
        let outcome = tokio::select! {
            outcome = work => outcome,
            lost = leadership.hold() => return Err(lost.into()),
        };
        leadership.resign().await;
        outcome
    }
}

/// After the drain, what a role may take to give back what it has and to close its connections.
const GIVING_BACK: Duration = Duration::from_secs(3);

/// After a second signal: what has nothing in hand, or has just finished, still says goodbye, and then nothing was cut.
const GOODBYES: Duration = Duration::from_secs(1);

/// Resolves some time after `stop`.
pub async fn past(stop: &CancellationToken, some_time: Duration) {
    stop.cancelled().await;
    sleep(some_time).await;
}

fn cut(ended: Ended) -> Ended {
    match ended {
        Ended::Clean | Ended::Cut => Ended::Cut,
        failed @ Ended::Failed(..) => failed,
    }
}

//! A pod: runs its roles, and keeps each alive until shutdown.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::broker;
use crate::config::Config;
use crate::database::leader::Leadership;
use crate::database::presence;
use crate::database::{self, DatabaseError};
use crate::outbox::announce::announce_when_created;
use crate::roles::backoff::{Backoff, STABLE};
use crate::roles::shared::{Shared, after_stop};
use crate::roles::{Role, RoleError, close, intake, relay, sweep, watch};
use crate::stats::{Count, report};

/// A pod: what its roles share, and the supervisor that keeps them alive.
#[derive(Clone, Debug)]
pub struct Pod {
    pub shared: Arc<Shared>,
}

/// How a pod ended.
#[derive(Debug)]
pub enum Ended {
    /// On request; everything in flight was finished.
    Clean,
    /// On request, but in-flight work was not finished in time, and was requeued.
    Cut,
    /// A role failed in a way that only a person can fix.
    Failed(Role, RoleError),
}

impl Pod {
    /// A pod with this configuration; nothing is connected yet.
    ///
    /// # Errors
    /// When the database URL cannot be used.
    pub fn new(config: Config) -> Result<Self, DatabaseError> {
        Ok(Self { shared: Shared::new(config)? })
    }

    /// Runs the roles until `soft` is cancelled (drain in-flight work) or `hard` is (leave it after `GOODBYES`).
    pub async fn run(&self, roles: &[Role], soft: &CancellationToken, hard: &CancellationToken) -> Ended {
        let mut playing = JoinSet::new();
        for role in roles.iter().copied() {
            let (pod, soft) = (self.clone(), soft.child_token());
            playing.spawn(async move { (role, pod.play(role, &soft).await) });
        }
        let reporting = tokio::spawn(report(Arc::clone(&self.shared.stats)));
        let keeping_time = tokio::spawn({
            let (pool, clock) = (self.shared.closer.pool.clone(), Arc::clone(&self.shared.clock));
            async move { database::keep_time(&pool, &clock).await }
        });
        let present = tokio::spawn({
            let (pod, roles) = (self.clone(), roles.iter().map(ToString::to_string).collect::<Vec<_>>());
            async move { pod.be_present(&roles).await }
        });
        let announcing = tokio::spawn({
            let pod = self.clone();
            async move { announce_when_created(&pod.shared.broker.created, &pod.shared.closer.pool).await }
        });
        let mut ended = Ended::Clean;
        // One timer for all roles: created in the loop, it would restart with each role that ends.
        let mut overtime = std::pin::pin!(async {
            tokio::select! {
                () = after_stop(soft, self.shared.config.drain_timeout + GIVING_BACK) => {}
                () = after_stop(hard, GOODBYES) => {}
            }
        });
        loop {
            tokio::select! {
                role = playing.join_next() => match role {
                    None => break,
                    Some(Ok((_, Ok(())))) => {}
                    Some(Ok((_, Err(error)))) if soft.is_cancelled() => {
                        tracing::warn!(event = "drain_unfinished", %error, "did not finish what was in flight");
                        ended = cut(ended);
                    }
                    Some(Ok((role, Err(error)))) => {
                        soft.cancel();
                        ended = Ended::Failed(role, error);
                    }
                    // The task only waits for sessions, which are tasks of their own; it cannot panic.
                    Some(Err(error)) => tracing::error!(event = "role_ended", %error, "a role ended unexpectedly"),
                },
                () = &mut overtime => { ended = cut(ended); break }
            }
        }
        playing.shutdown().await;
        reporting.abort();
        keeping_time.abort();
        present.abort();
        // A pod that is gone without a word counts as silent for a while.
        let gone = presence::gone(&self.shared.closer.pool, &self.shared.holder);
        let _ = timeout(GOODBYES, gone).await;
        announcing.abort();
        let _ = timeout(GIVING_BACK, self.shared.closer.disconnect()).await;
        self.shared.stats.log("stopped", "stopped");
        ended
    }

    /// Says once a second that this pod is there. An outage is noticed and reported by the sessions.
    async fn be_present(&self, roles: &[String]) {
        let closer = &self.shared.closer;
        let (mut seen, mut back) = (Instant::now(), Instant::now());
        let mut forgot = None::<Instant>;
        loop {
            if forgot.is_none_or(|forgot| forgot.elapsed() > FORGET)
                && presence::forget(&closer.pool).await.is_ok()
            {
                forgot = Some(Instant::now());
            }
            let busy = self.shared.busy.swap(false, Ordering::Relaxed);
            if let Ok(others) = presence::present(&closer.pool, &self.shared.holder, roles, busy).await {
                // The others' rows may be older than ours by an interval.
                if seen.elapsed() + 2 * presence::PRESENT > presence::THERE {
                    back = Instant::now();
                }
                seen = Instant::now();
                // After an outage other pods have not been seen again yet, either: the share does not grow at once.
                let least = if back.elapsed() < presence::THERE { closer.rate.pods() } else { 1 };
                closer.rate.share(least.max(1 + others));
            }
            sleep(presence::PRESENT).await;
        }
    }

    /// Keeps a role's session alive: a session that breaks is dropped whole, and another one is built, with backoff.
    ///
    /// A permanent error ends the role, unless the role has worked before. In that case an operator is changing a running
    /// system, and a pod that gave up would not notice the end of the change.
    async fn play(&self, role: Role, soft: &CancellationToken) -> Result<(), RoleError> {
        let mut backoff = Backoff::default();
        let mut worked = false;
        while !soft.is_cancelled() {
            let started = Instant::now();
            let Err(error) = self.session_in_a_task(role, soft).await else {
                return Ok(());
            };
            if soft.is_cancelled() {
                // With any other error, nothing was in flight.
                return if matches!(error, RoleError::Unfinished { .. }) { Err(error) } else { Ok(()) };
            }
            let lasted = started.elapsed() > STABLE;
            worked |= lasted;
            if !error.is_transient() && !worked {
                return Err(error);
            }
            let wait = backoff.next(lasted);
            tracing::warn!(event = "session_broken", %role, %error, retry_in = ?wait, "session broke; building a new one");
            self.shared.stats.add(Count::Rebuilt, 1);
            tokio::select! {
                () = sleep(wait) => {}
                () = soft.cancelled() => {}
            }
        }
        Ok(())
    }

    /// Runs a session in a task of its own: a panic, which would be a defect of Overdue, ends the session and not the role.
    async fn session_in_a_task(&self, role: Role, soft: &CancellationToken) -> Result<(), RoleError> {
        // A set, because dropping it ends the task.
        let mut task = JoinSet::new();
        let (pod, soft) = (self.clone(), soft.clone());
        task.spawn(async move { pod.session(role, &soft).await });
        match task.join_next().await {
            Some(Ok(outcome)) => outcome,
            Some(Err(error)) => Err(RoleError::Task(error.to_string())),
            None => Ok(()),
        }
    }

    async fn session(&self, role: Role, soft: &CancellationToken) -> Result<(), RoleError> {
        if role != Role::Intake {
            // The intake works without the database.
            self.shared.check_database().await?;
        }
        match role {
            Role::Intake => intake::session(&self.shared, soft).await,
            Role::Close => close::session(&self.shared, soft).await,
            Role::Relay => self.lead("relay", soft, relay::session(&self.shared, soft)).await,
            Role::Sweep => sweep::session(&self.shared, soft).await,
            Role::Watch => self.lead("watch", soft, watch::session(&self.shared, soft)).await,
        }
    }

    async fn lead(
        &self,
        role: &'static str,
        soft: &CancellationToken,
        work: impl Future<Output = Result<(), RoleError>>,
    ) -> Result<(), RoleError> {
        database::probe(&self.shared.closer.pool, &self.shared.clock).await?;
        // A pod that cannot reach the broker would lead and do nothing.
        broker::close(&*self.shared.broker.connect(role).await?).await;
        let (pool, holder) = (&self.shared.closer.pool, &self.shared.holder);
        let Some(mut leadership) = Leadership::campaign(pool, role, holder, soft).await? else {
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

/// Interval between two deletions of the rows of pods that are long gone.
const FORGET: Duration = Duration::from_secs(3_600);

/// How long a role may take after the drain to requeue what it has and to close its connections.
const GIVING_BACK: Duration = Duration::from_secs(3);

const _: () =
    assert!(broker::GOODBYE.as_millis() < GIVING_BACK.as_millis(), "closing a connection fits into it");

/// How long roles may take after a second signal to close their connections. If each has nothing in flight or finishes
/// by then, nothing was cut.
const GOODBYES: Duration = Duration::from_secs(1);

fn cut(ended: Ended) -> Ended {
    match ended {
        Ended::Clean | Ended::Cut => Ended::Cut,
        failed @ Ended::Failed(..) => failed,
    }
}

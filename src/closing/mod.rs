//! Closes a batch of orders and returns a verdict for each.

mod memory;
pub mod next_step;
mod parts;
pub mod rate;
mod statement;
mod suspicion;
pub mod sweep;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::clock::{DbClock, DbTime};
use crate::config::Config;
use crate::database::{self, Database, DatabaseError, WarmConnections, code};
use crate::stats::{Count, Stats};
use memory::Failure;
use parts::{TRY_FOR, Work};
use rate::Rate;
use suspicion::Suspicion;

pub use memory::{Remembered, remembered, tidy};

/// What became of one order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This batch closed it.
    Closed,
    /// Paid, cancelled or already closed: nothing to do.
    NotPending,
    /// PENDING, and its deadline is still ahead.
    NotDue {
        /// The current deadline.
        deadline: DbTime,
    },
    /// PENDING and due, but locked by another transaction.
    Locked,
    /// There is no such order (yet).
    Unknown,
    /// It takes longer than a batch may, and must be closed alone: see [`Closer::close_alone`].
    Slow,
    /// Closing it failed, and the order itself is the cause.
    Failed {
        /// The database's message.
        reason: String,
    },
    /// Closing fails for all orders now, so this order is not the cause. It may not have been tried.
    Blocked {
        /// The database's message.
        reason: String,
    },
}

/// Closes orders in one database.
#[derive(Clone, Debug)]
pub struct Closer {
    /// The database, for everything but closing.
    pub pool: Database,
    /// The connections for closing.
    warm: Arc<WarmConnections>,
    /// Updated by each answer.
    pub clock: Arc<DbClock>,
    pub stats: Arc<Stats>,
    /// How long a batch waits out an outage before it returns the error.
    patience: Duration,
    /// Maximum number of large batches at one time, over all pods.
    at_once: i32,
    /// When the sweep retries failed orders: the first backoff, and the sweep's grace, which is added to each backoff.
    retry: (Duration, Duration),
    /// How fast this pod may close.
    pub rate: Arc<Rate>,
    suspicion: Arc<Mutex<Suspicion>>,
    blocked_reported: Arc<Mutex<Option<Instant>>>,
}

/// Minimum number of orders in a large batch: large batches probably share products.
pub const LARGE_BATCH: usize = 50;

/// How long a closing statement may take. One slow order must not hold up the others of its batch for longer.
const BATCH_FOR: &str = "1500ms";
/// How long a part of a batch may take, once the whole has shown that one of its orders is slow.
const PART_FOR: &str = "SET LOCAL statement_timeout = '500ms'";
/// How long an order that is closed alone may take, such as one with very many items.
const ALONE_FOR: &str = "SET LOCAL statement_timeout = '10s'";

/// A large batch that finds no free slot is retried after this time. A free slot stays free until a batch asks for it; a batch
/// takes 2 to 10 ms.
const SLOT_RETRY: Duration = Duration::from_millis(10);
/// A batch that has found no slot for this time is split into small ones, which need none: the slots' holders may hang.
const SLOT_WAIT: Duration = Duration::from_secs(5);

/// Interval between two log lines while no order can be closed.
const BLOCKED_AGAIN: Duration = Duration::from_secs(60);

impl Closer {
    /// A closer as configured; `pool` is the database for everything but closing.
    ///
    /// # Errors
    /// When the database URL cannot be used.
    pub fn new(
        config: &Config,
        pool: Database,
        clock: Arc<DbClock>,
        stats: Arc<Stats>,
    ) -> Result<Self, DatabaseError> {
        let warm = Arc::new(WarmConnections::new(
            database::closing_pool(config, BATCH_FOR)?,
            config.close_concurrency,
        ));
        let at_once = i32::try_from(config.close_concurrency).unwrap_or(i32::MAX);
        Ok(Self {
            pool,
            warm,
            clock,
            stats,
            patience: config.outage_retry_for,
            at_once,
            retry: (config.retry_base, config.sweep_grace),
            rate: Arc::new(Rate::new(config.close_rate)),
            suspicion: Arc::default(),
            blocked_reported: Arc::default(),
        })
    }

    pub async fn disconnect(&self) {
        tokio::join!(self.warm.close(), self.pool.close());
    }

    /// Closes the orders that are PENDING and due, and returns a verdict for each order, closed or not.
    ///
    /// A batch that fails because of one order is split until that order is alone.
    ///
    /// # Errors
    /// When an outage lasts longer than `outage_retry_for`. Parts of the batch may have been closed; closing is
    /// idempotent, so the caller simply retries later.
    pub async fn close(&self, order_ids: Vec<i64>) -> Result<HashMap<i64, Verdict>, DatabaseError> {
        self.close_within(order_ids, None).await
    }

    /// Closes one order that is too slow for a batch. Call it for one order at a time: a second one would take a
    /// connection from the batches.
    ///
    /// # Errors
    /// Same as [`Closer::close`].
    pub async fn close_alone(&self, order_id: i64) -> Result<HashMap<i64, Verdict>, DatabaseError> {
        self.close_within(vec![order_id], Some(ALONE_FOR)).await
    }

    async fn close_within(
        &self,
        mut order_ids: Vec<i64>,
        alone: Option<&'static str>,
    ) -> Result<HashMap<i64, Verdict>, DatabaseError> {
        order_ids.sort_unstable();
        order_ids.dedup();
        let turn = self.rate.wait(order_ids.len()).await;
        let verdicts = self.close_now(order_ids, alone).await?;
        let closed = verdicts.values().filter(|verdict| **verdict == Verdict::Closed).count();
        turn.used(closed);
        Ok(verdicts)
    }

    async fn close_now(
        &self,
        order_ids: Vec<i64>,
        alone: Option<&'static str>,
    ) -> Result<HashMap<i64, Verdict>, DatabaseError> {
        let closes_before = self.suspicion().closes();
        let verdicts = HashMap::with_capacity(order_ids.len());
        let parts = VecDeque::from([order_ids]);
        let mut work = Work { parts, verdicts, closes_before, ..Work::default() };
        while let Some(part) = work.parts.pop_front() {
            let giving_way = work.giving_way_since.map_or(Duration::ZERO, |since| since.elapsed());
            if giving_way > TRY_FOR {
                work.verdicts.extend(part.into_iter().map(|id| (id, Verdict::Locked)));
                continue;
            }
            if let Some((_, reason)) = work.untried.take_if(|(rest, _)| *rest == part)
                && !work.closed_any()
            {
                self.stats.add(Count::Blocked, part.len());
                work.verdicts
                    .extend(part.into_iter().map(|id| (id, Verdict::Blocked { reason: reason.clone() })));
                continue;
            }
            let bound = alone.or(work.hurries(&part).then_some(PART_FOR));
            match self.close_part(&part, bound).await {
                Ok(Some(closed)) => {
                    work.answered();
                    work.no_slot_since = None;
                    for (id, failed) in closed {
                        match failed {
                            Ok(verdict) => {
                                work.verdicts.insert(id, verdict);
                            }
                            Err(failure) => work.failures.push(failure),
                        }
                    }
                }
                Ok(None) => {
                    work.answered();
                    if work.no_slot_since.get_or_insert_with(Instant::now).elapsed() > SLOT_WAIT {
                        work.parts.extend(part.chunks(LARGE_BATCH - 1).map(<[i64]>::to_vec));
                    } else {
                        sleep(SLOT_RETRY).await;
                        work.parts.push_front(part);
                    }
                }
                Err(error) => self.after(error, part, alone.is_some(), &mut work).await?,
            }
        }
        self.judge(&mut work).await;
        Ok(work.verdicts)
    }

    fn expects(&self, error: &DatabaseError) -> bool {
        self.suspicion().expects(&code(&error.source))
    }

    fn suspicion(&self) -> MutexGuard<'_, Suspicion> {
        self.suspicion.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Attributes the failures: an order's own failure is recorded and counts as an attempt, one common to all does not.
    async fn judge(&self, work: &mut Work) {
        let closed = work.verdicts.values().filter(|verdict| **verdict == Verdict::Closed).count();
        let failed: Vec<_> =
            work.failures.iter().map(|failure| (failure.order_id, failure.code.as_str())).collect();
        let slow = work.verdicts.iter().filter(|(_, verdict)| **verdict == Verdict::Slow);
        let nobodys: HashSet<i64> = {
            let mut suspicion = self.suspicion();
            let nobodys = suspicion.judge(closed, &failed);
            suspicion.suspect(slow.map(|(id, _)| *id), work.closes_before);
            nobodys
        };
        let (blocked, failures): (Vec<_>, Vec<_>) = std::mem::take(&mut work.failures)
            .into_iter()
            .partition(|failure| nobodys.contains(&failure.order_id));
        if let Some(Failure { order_id, reason, .. }) = blocked.first() {
            self.stats.add(Count::Blocked, blocked.len());
            self.say_blocked(blocked.len(), *order_id, reason);
        }
        self.stats.add(Count::Failed, failures.len());
        if let Some(Failure { order_id, reason, .. }) = failures.first() {
            // One line for all of them, so that a flood of failures does not flood the log.
            tracing::warn!(
                event = "closing_failed",
                count = failures.len(),
                order_id,
                reason,
                "closing failed"
            );
            if let Err(error) = memory::note(&self.pool, &failures, self.retry.0, self.retry.1).await {
                tracing::debug!(event = "failures_not_recorded", %error, "the sweep will retry these orders sooner than necessary");
            }
        }
        let blocked = blocked.into_iter().map(|f| (f.order_id, Verdict::Blocked { reason: f.reason }));
        work.verdicts.extend(blocked);
        work.verdicts
            .extend(failures.into_iter().map(|f| (f.order_id, Verdict::Failed { reason: f.reason })));
    }

    fn say_blocked(&self, orders: usize, order_id: i64, reason: &str) {
        let mut reported = self.blocked_reported.lock().unwrap_or_else(PoisonError::into_inner);
        if reported.is_none_or(|reported| reported.elapsed() > BLOCKED_AGAIN) {
            *reported = Some(Instant::now());
            tracing::error!(
                event = "closing_blocked",
                orders,
                order_id,
                reason,
                "no order can be closed, and all fail alike: no attempt is counted, and closing is retried slowly. Repair what \
                 the reason names (a trigger, a grant, a constraint)"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_that_closes_is_cheap_to_copy() {
        fn size<'a, F>(_: impl FnOnce(&'a Closer, Vec<i64>) -> F) -> usize {
            size_of::<F>()
        }
        assert!(size(Closer::close) <= 2_500, "{} bytes, copied some ten times a batch", size(Closer::close));
    }
}

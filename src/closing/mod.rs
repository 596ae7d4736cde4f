//! Closes a batch of orders and says what became of each.

mod memory;
pub mod next_step;
mod parts;
mod statement;
mod suspicion;
pub mod sweep;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::PgPool;
use tokio::time::{Instant, sleep};

use crate::clock::{DbClock, DbTime};
use crate::config::Config;
use crate::database::{self, DatabaseError, WarmConnections, code};
use crate::stats::{Count, Stats};
use memory::Failure;
use parts::{TRY_FOR, Work};
use suspicion::Suspicion;

pub use memory::{Remembered, remembered, tidy};

/// What became of one order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This batch closed it.
    Closed,
    /// Paid, cancelled, closed before: nothing to do.
    NotPending,
    /// PENDING, and its deadline is still ahead.
    NotDue {
        /// The deadline now.
        deadline: DbTime,
    },
    /// PENDING and due, but somebody else had it locked.
    Locked,
    /// There is no such order (yet).
    Unknown,
    /// It takes longer than a batch may: close it alone, see [`Closer::close_alone`].
    Slow,
    /// Closing it failed, alone.
    Failed {
        /// The database's words.
        reason: String,
    },
    /// Closing it failed as it does for all orders now, so it is not the order's failure.
    Blocked {
        /// The database's words.
        reason: String,
    },
}

/// Closes orders in one database.
#[derive(Clone, Debug)]
pub struct Closer {
    /// The database, for everything but closing.
    pub pool: PgPool,
    /// The connections that close.
    warm: Arc<WarmConnections>,
    /// Fed with each answer.
    pub clock: Arc<DbClock>,
    /// Counts and lateness.
    pub stats: Arc<Stats>,
    /// How long an outage is waited for in place.
    patience: Duration,
    /// Most large batches at one time, of all pods.
    at_once: i32,
    /// When failed orders are tried again: the first wait, and what the sweep leaves to the wakes.
    retry: (Duration, Duration),
    suspicion: Arc<Mutex<Suspicion>>,
    blocked_reported: Arc<Mutex<Option<Instant>>>,
}

/// From how many orders on a batch is large: such batches probably share products.
pub const LARGE_BATCH: usize = 50;

/// How long a closing statement may take. One slow order must not hold up the others of its batch for longer.
const BATCH_FOR: &str = "1500ms";
/// How long a part of a batch may take, once the whole has shown that one of its orders is slow.
const PART_FOR: &str = "BEGIN; SET LOCAL statement_timeout = '500ms'";
/// How long an order alone may take: one with very many items.
const ALONE_FOR: &str = "BEGIN; SET LOCAL statement_timeout = '10s'";

/// A large batch that finds no free slot is retried after this time. A slot that becomes free stays so until somebody asks; a batch
/// takes 2 to 10 ms.
const SLOT_RETRY: Duration = Duration::from_millis(10);
/// A batch that has found no slot for this time is split into small ones, which need none: whoever has the slots may hang.
const SLOT_WAIT: Duration = Duration::from_secs(5);

/// While no order can be closed, this is logged so often.
const BLOCKED_AGAIN: Duration = Duration::from_secs(60);

impl Closer {
    /// A closer as configured; `pool` is the database for everything but closing.
    ///
    /// # Errors
    /// When the database URL cannot be used.
    pub fn new(
        config: &Config,
        pool: PgPool,
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
            suspicion: Arc::default(),
            blocked_reported: Arc::default(),
        })
    }

    /// Closes the connections.
    pub async fn disconnect(&self) {
        tokio::join!(self.warm.close(), self.pool.close());
    }

    /// Closes those of the orders that are PENDING and due, and returns a verdict for each of the orders.
    ///
    /// A batch that fails for the sake of one order is split until the culprit is alone.
    ///
    /// # Errors
    /// When the database is away for longer than the patience. Parts of the batch may be closed then; closing is
    /// idempotent, so the caller simply tries again later.
    pub async fn close(&self, order_ids: Vec<i64>) -> Result<HashMap<i64, Verdict>, DatabaseError> {
        self.close_within(order_ids, None).await
    }

    /// Closes one order that is too slow for a batch. A second one at the same time would take a connection from the
    /// others.
    ///
    /// # Errors
    /// As [`Closer::close`].
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

    /// Says whose failures they are: the orders', which are noted and counted, or nobody's.
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
            // One line for all of them: a flood of failures is not to become a flood of lines.
            tracing::warn!(
                event = "closing_failed",
                count = failures.len(),
                order_id,
                reason,
                "closing failed"
            );
            if let Err(error) = memory::note(&self.pool, &failures, self.retry.0, self.retry.1).await {
                tracing::debug!(event = "failures_not_recorded", %error, "the sweep will try these orders sooner than it need");
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
                "no order can be closed, and all fail alike: no attempt is counted, and closing is tried again slowly. Repair what \
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

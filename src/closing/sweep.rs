//! The sweep: closes what no wake closed, and counts it.
//!
//! It needs no broker. Every order that it closes means that a wake was lost or late, which operators should know.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{Closer, Verdict, tidy};
use crate::clock::DbTime;
use crate::config::Config;
use crate::database::{Database, DatabaseError, bounded};
use crate::stats::Count;

/// The result of one sweep.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Swept {
    /// Overdue orders it closed.
    pub closed: usize,
    /// The first of them, for the log, where an operator looks for the reason why an order was late.
    pub first_closed: Vec<i64>,
    /// Overdue orders that it could not close now: locked by another transaction, or failing.
    pub left: usize,
    /// Those that are locked, with their deadlines.
    #[serde(skip)]
    pub locked: HashMap<i64, DbTime>,
    /// Of the closed ones, those that were locked before, or had failed: their wakes were not lost.
    #[serde(skip)]
    pub held_up: usize,
    /// The deadline up to which orders were read; `None` when all were.
    #[serde(skip)]
    pub reached: Option<DbTime>,
    /// Whether no order could be closed, for a reason that is no order's own.
    #[serde(skip)]
    pub blocked: bool,
    /// How long the first page took to read.
    #[serde(skip)]
    pub looked_for: Duration,
}

impl Swept {
    /// Maximum number of orders named in a log line.
    pub const MOST_NAMED: usize = 20;

    fn closes(&mut self, closed: &mut [i64]) {
        closed.sort_unstable();
        self.closed += closed.len();
        let room = Self::MOST_NAMED - self.first_closed.len();
        self.first_closed.extend(closed.iter().take(room));
    }
}

#[derive(Clone, Debug)]
pub struct Overdue {
    pub order_id: i64,
    pub payment_deadline: DbTime,
    pub overdue_for: Duration,
    /// Whether closing it has failed before.
    pub failed: bool,
}

/// Where a sweep looks.
#[derive(Debug, Default)]
pub struct Look<'a> {
    /// Begins at this deadline, or at the earliest.
    pub from: Option<DbTime>,
    /// Reads no second page while this is set: due orders of the pod's own wait.
    pub behind: Option<&'a AtomicBool>,
    /// Orders that the look before found locked.
    pub locked: HashMap<i64, DbTime>,
}

/// How fast a sweep closes: as fast as wakes do, and no faster, so that it leaves room for them.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Orders per transaction.
    pub batch: usize,
    /// Concurrent transactions.
    pub at_once: usize,
}

impl Pace {
    /// As configured for closing.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self { batch: config.close_batch, at_once: config.close_concurrency }
    }
}

/// Batches in a page. No new batch is begun while a page is read, so there should be few pages.
const READ_TOGETHER: usize = 10;

/// Wait before overdue orders are looked up again while slow ones are being closed.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// These lookups take at most a fiftieth of the time: an open snapshot may make each of them slow.
const LOOK_SHARE: u32 = 50;

/// Closes every order whose deadline passed more than `grace` ago, in batches, until none is left, the pod is behind
/// or `stop` is cancelled. `progress` is called after each batch.
///
/// Orders are read in pages, however many are overdue. Only the ids of orders that are locked or failing are kept for
/// longer.
///
/// # Errors
/// When an outage lasts longer than `outage_retry_for`, or a page cannot be read. What was swept by then is returned as well.
pub async fn sweep(
    closer: &Closer,
    grace: Duration,
    pace: Pace,
    look: Look<'_>,
    stop: &CancellationToken,
    progress: impl FnMut(&Swept),
) -> (Swept, Result<(), DatabaseError>) {
    let mut swept = Swept::default();
    let outcome = sweep_into(&mut swept, closer, grace, pace, look, stop, progress).await;
    (swept, outcome)
}

async fn sweep_into(
    swept: &mut Swept,
    closer: &Closer,
    grace: Duration,
    pace: Pace,
    look: Look<'_>,
    stop: &CancellationToken,
    mut progress: impl FnMut(&Swept),
) -> Result<(), DatabaseError> {
    let (mut page, mut failed, mut slow) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
    let from = look.from.map(|deadline| (deadline, 0));
    let (mut after, mut more, mut took) = (from, true, None);
    // In hand: waiting here or being closed. Locked: retried by this sweep. Failing: not retried by this sweep.
    let (mut in_hand, mut failing) = (HashMap::new(), HashSet::new());
    let mut held_up: HashSet<i64> = look.locked.into_keys().collect();
    let (mut closing, mut closing_apart) = (JoinSet::new(), JoinSet::new());
    let may_look = |closing: &JoinSet<_>, apart: &JoinSet<_>| {
        closing.len() < pace.at_once && closing.len() + apart.len() > 0 && !stop.is_cancelled()
    };
    let is_behind = || look.behind.is_some_and(|behind| behind.load(Ordering::Relaxed));
    if look.from.is_none() {
        forget(closer).await;
    }
    loop {
        // The next page is read while the last batches of the previous one are being closed.
        while closing.len() < pace.at_once && !stop.is_cancelled() {
            // Orders that have failed before are closed apart, and their number bounds how far ahead pages are read.
            let may_read = more && !(took.is_some() && is_behind());
            if page.is_empty() && may_read && failed.len() < pace.batch * READ_TOGETHER {
                let most = pace.batch * READ_TOGETHER;
                let began = Instant::now();
                let read = overdue(&closer.pool, grace, after, most).await?;
                swept.looked_for = *took.get_or_insert(began.elapsed());
                more = read.len() == most;
                // The next page begins past this one, closed or not: an order that cannot be closed must not block the others.
                after = read.last().map(|last| (last.payment_deadline, last.order_id));
                for Overdue { order_id, payment_deadline, failed: has_failed, .. } in read {
                    if failing.contains(&order_id) || in_hand.insert(order_id, payment_deadline).is_some() {
                        continue;
                    }
                    if has_failed {
                        held_up.insert(order_id);
                        failed.push_back(order_id);
                    } else {
                        page.push_back(order_id);
                    }
                }
                continue;
            }
            let batch = take(&mut page, pace.batch);
            if batch.is_empty() {
                break;
            }
            let closer = closer.clone();
            closing.spawn(async move { closer.close(batch).await });
        }
        if closing_apart.is_empty() && !stop.is_cancelled() {
            let closer = closer.clone();
            if let Some(order) = slow.pop_front() {
                closing_apart.spawn(async move { closer.close_alone(order).await });
            } else {
                let batch = take(&mut failed, pace.batch);
                if !batch.is_empty() {
                    closing_apart.spawn(async move { closer.close(batch).await });
                }
            }
        }
        let verdicts = tokio::select! {
            Some(verdicts) = closing.join_next() => verdicts,
            Some(verdicts) = closing_apart.join_next() => verdicts,
            // A batch with a slow order takes seconds. Orders that were locked or have become due need not wait for it.
            () = sleep(LOOK_AGAIN.max(swept.looked_for * LOOK_SHARE)), if may_look(&closing, &closing_apart) => {
                (after, more) = (from, true);
                continue;
            }
            else => {
                swept.reached = more.then(|| after.map_or(DbTime(0), |(deadline, _)| deadline));
                return Ok(());
            }
        };
        // A panic is a defect of Overdue: it is passed on to the sweep's own task, which is supervised.
        let verdicts =
            verdicts.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))?;
        let mut closed = Vec::new();
        for (order, verdict) in &verdicts {
            let deadline = in_hand.remove(order).unwrap_or(DbTime(0));
            swept.locked.remove(order);
            match verdict {
                Verdict::Closed => {
                    swept.held_up += usize::from(held_up.contains(order));
                    closed.push(*order);
                }
                Verdict::Slow => {
                    in_hand.insert(*order, deadline);
                    slow.push_back(*order);
                }
                Verdict::Locked => {
                    held_up.insert(*order);
                    swept.locked.insert(*order, deadline);
                }
                Verdict::Failed { .. } | Verdict::Blocked { .. } => {
                    swept.blocked |= matches!(verdict, Verdict::Blocked { .. });
                    failing.insert(*order);
                }
                // Paid, extended or deleted since the page was read.
                Verdict::NotPending | Verdict::NotDue { .. } | Verdict::Unknown => {}
            }
        }
        swept.left = swept.locked.len() + failing.len();
        swept.closes(&mut closed);
        closer.stats.add(Count::Swept, closed.len());
        progress(swept);
    }
}

/// An operator's open transaction on a row of closing_failures must not keep the sweep from closing.
async fn forget(closer: &Closer) {
    if let Err(error) = tidy(&closer.pool).await {
        tracing::warn!(event = "failures_not_forgotten", %error, "old rows of closing_failures could not be deleted");
    }
}

fn take(orders: &mut VecDeque<i64>, most: usize) -> Vec<i64> {
    orders.drain(..most.min(orders.len())).collect()
}

/// A page of the orders that a sweep would close, the longest overdue first, beginning after the given one. An order whose
/// closing failed is left out until its next attempt is due.
///
/// # Errors
/// When the database cannot be reached, does not answer in time, or refuses the statement.
pub async fn overdue(
    pool: &Database,
    grace: Duration,
    after: Option<(DbTime, i64)>,
    most: usize,
) -> Result<Vec<Overdue>, DatabaseError> {
    let (after_deadline, after_id) = after.unwrap_or((DbTime(0), 0));
    let rows = sqlx::query_file!(
        "src/closing/overdue.sql",
        grace.as_secs_f64(),
        time::OffsetDateTime::from(after_deadline),
        after_id,
        i64::try_from(most).unwrap_or(i64::MAX)
    );
    let rows = bounded("looking for overdue orders", rows.fetch_all(pool)).await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let payment_deadline = DbTime::from(row.payment_deadline);
            let overdue_for = DbTime::from(row.now).since(payment_deadline);
            Overdue { order_id: row.order_id, payment_deadline, overdue_for, failed: row.failed }
        })
        .collect())
}

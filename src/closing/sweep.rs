//! The sweep: closes what no wake closed, and counts it.
//!
//! It needs no broker. Every order that it closes means that a wake was lost or late, which operators should know.

use std::collections::{HashMap, HashSet, VecDeque};
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
    /// The earliest deadline of those that are locked.
    #[serde(skip)]
    pub first_left: Option<DbTime>,
}

impl Swept {
    /// Maximum number of orders named in a log line.
    pub const MOST_NAMED: usize = 20;
}

#[derive(Clone, Debug)]
pub struct Overdue {
    pub order_id: i64,
    pub payment_deadline: DbTime,
    pub overdue_for: Duration,
    /// Whether closing it has failed before.
    pub failed: bool,
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

/// Closes every order whose deadline passed more than `grace` ago, in batches, until none is left or `stop` is cancelled. Begins at
/// the deadline `from`, or at the earliest. `progress` is called after each batch.
///
/// Orders are read in pages, however many are overdue. Only the ids of orders that are locked or failing are kept for
/// longer.
///
/// # Errors
/// When an outage lasts longer than `outage_retry_for`, or a page cannot be read.
pub async fn sweep(
    closer: &Closer,
    grace: Duration,
    pace: Pace,
    from: Option<DbTime>,
    stop: &CancellationToken,
    mut progress: impl FnMut(&Swept),
) -> Result<Swept, DatabaseError> {
    let mut swept = Swept::default();
    let (mut page, mut failed, mut slow) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
    let from = from.map(|deadline| (deadline, 0));
    let (mut after, mut more, mut took) = (from, true, Duration::ZERO);
    // In hand: waiting here or being closed. Locked: retried by this sweep. Failing: not retried by this sweep.
    let (mut in_hand, mut locked, mut failing) = (HashMap::new(), HashMap::new(), HashSet::new());
    let (mut closing, mut closing_apart) = (JoinSet::new(), JoinSet::new());
    let may_look = |closing: &JoinSet<_>, apart: &JoinSet<_>| {
        closing.len() < pace.at_once && closing.len() + apart.len() > 0 && !stop.is_cancelled()
    };
    // An operator's open transaction on a row of closing_failures must not keep the sweep from closing.
    if from.is_none()
        && let Err(error) = tidy(&closer.pool).await
    {
        tracing::warn!(event = "failures_not_forgotten", %error, "old rows of closing_failures could not be deleted");
    }
    loop {
        // The next page is read while the last batches of the previous one are being closed.
        while closing.len() < pace.at_once && !stop.is_cancelled() {
            // Orders that have failed before are closed apart, and their number bounds how far ahead pages are read.
            if page.is_empty() && more && failed.len() < pace.batch * READ_TOGETHER {
                let most = pace.batch * READ_TOGETHER;
                let began = Instant::now();
                let read = overdue(&closer.pool, grace, after, most).await?;
                took = began.elapsed();
                more = read.len() == most;
                // The next page begins past this one, closed or not: an order that cannot be closed must not block the others.
                after = read.last().map(|last| (last.payment_deadline, last.order_id));
                for Overdue { order_id, payment_deadline, failed: has_failed, .. } in read {
                    if failing.contains(&order_id) || in_hand.insert(order_id, payment_deadline).is_some() {
                        continue;
                    }
                    if has_failed {
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
            () = sleep(LOOK_AGAIN.max(took * LOOK_SHARE)), if may_look(&closing, &closing_apart) => {
                (after, more) = (from, true);
                continue;
            }
            else => return Ok(swept),
        };
        // A panic is a defect of Overdue: it is passed on to the sweep's own task, which is supervised.
        let verdicts =
            verdicts.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))?;
        let mut closed = Vec::new();
        for (order, verdict) in &verdicts {
            let deadline = in_hand.remove(order).unwrap_or(DbTime(0));
            locked.remove(order);
            match verdict {
                Verdict::Closed => closed.push(*order),
                Verdict::Slow => {
                    in_hand.insert(*order, deadline);
                    slow.push_back(*order);
                }
                Verdict::Locked => {
                    locked.insert(*order, deadline);
                }
                Verdict::Failed { .. } | Verdict::Blocked { .. } => {
                    failing.insert(*order);
                }
                // Paid, extended or deleted since the page was read.
                Verdict::NotPending | Verdict::NotDue { .. } | Verdict::Unknown => {}
            }
        }
        swept.left = locked.len() + failing.len();
        swept.first_left = locked.values().min().copied();
        closed.sort_unstable();
        swept.closed += closed.len();
        let room = Swept::MOST_NAMED - swept.first_closed.len();
        swept.first_closed.extend(closed.iter().take(room));
        closer.stats.add(Count::Swept, closed.len());
        progress(&swept);
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

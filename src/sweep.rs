//! The sweep: closes what no wake closed, and counts it.
//!
//! It needs no broker. Every order it closes means that a wake was lost or late, which is worth knowing.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::clock::DbTime;
use crate::close::{Closer, Verdict};
use crate::database::{DatabaseError, bounded};
use crate::pod::Pod;
use crate::role::RoleError;
use crate::stats::Count;

/// What one sweep found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Swept {
    /// Overdue orders it closed.
    pub closed: usize,
    /// Overdue orders that it could not close now: locked by somebody, or failing.
    pub left: usize,
}

/// An overdue order.
#[derive(Clone, Debug)]
pub struct Overdue {
    /// The order.
    pub order_id: i64,
    /// Its deadline.
    pub payment_deadline: DbTime,
    /// How long ago that was.
    pub overdue_for: Duration,
}

/// Sweeps in the configured period until `stop`, or until the database breaks.
///
/// # Errors
/// As the database's.
pub async fn session(pod: &Arc<Pod>, stop: &CancellationToken) -> Result<(), RoleError> {
    tracing::info!("sweeping");
    while !stop.is_cancelled() {
        let swept = sweep(&pod.closer, pod.config.sweep_grace, pod.config.close_batch, stop, |_| {}).await?;
        if swept != Swept::default() {
            tracing::warn!(
                closed = swept.closed,
                left = swept.left,
                "overdue orders that no wake had closed"
            );
        }
        tokio::select! {
            () = sleep(pod.config.sweep_every) => {}
            () = stop.cancelled() => {}
        }
    }
    Ok(())
}

/// Closes every order whose deadline passed more than `grace` ago, in batches, until none is left or
/// `stop`; `progress` is told after each.
///
/// # Errors
/// As the database's.
pub async fn sweep(
    closer: &Closer,
    grace: Duration,
    batch: usize,
    stop: &CancellationToken,
    mut progress: impl FnMut(Swept),
) -> Result<Swept, DatabaseError> {
    let mut swept = Swept::default();
    let mut after = None;
    loop {
        let page = overdue(closer, grace, after, batch).await?;
        let Some(last) = page.last() else {
            return Ok(swept);
        };
        // Past this page, closed or not: an order that cannot be closed must not keep the sweep from the others.
        after = Some((last.payment_deadline, last.order_id));
        let verdicts = closer.close(page.iter().map(|order| order.order_id).collect()).await?;
        for verdict in verdicts.values() {
            match verdict {
                Verdict::Closed => swept.closed += 1,
                Verdict::Locked | Verdict::Failed { .. } => swept.left += 1,
                // Paid, extended or gone since the page was read.
                Verdict::NotPending | Verdict::NotDue { .. } | Verdict::Unknown => {}
            }
        }
        let closed = verdicts.values().filter(|verdict| **verdict == Verdict::Closed).count();
        closer.stats.add(Count::Swept, closed);
        progress(swept);
        if page.len() < batch || stop.is_cancelled() {
            return Ok(swept);
        }
    }
}

/// A page of the orders that a sweep would close, the longest overdue first, beginning after the given one.
///
/// # Errors
/// As the database's.
pub async fn overdue(
    closer: &Closer,
    grace: Duration,
    after: Option<(DbTime, i64)>,
    most: usize,
) -> Result<Vec<Overdue>, DatabaseError> {
    let (after_deadline, after_id) = after.unwrap_or((DbTime(0), 0));
    let rows = sqlx::query!(
        r#"SELECT order_id, payment_deadline, now() AS "now!"
           FROM orders
           WHERE status = 'PENDING' AND payment_deadline <= now() - make_interval(secs => $1)
             AND (payment_deadline, order_id) > ($2, $3)
           ORDER BY payment_deadline, order_id LIMIT $4"#,
        grace.as_secs_f64(),
        time::OffsetDateTime::from(after_deadline),
        after_id,
        i64::try_from(most).unwrap_or(i64::MAX)
    );
    let rows = bounded("looking for overdue orders", rows.fetch_all(&closer.pool)).await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let payment_deadline = DbTime::from(row.payment_deadline);
            let overdue_for = DbTime::from(row.now).since(payment_deadline);
            Overdue { order_id: row.order_id, payment_deadline, overdue_for }
        })
        .collect())
}

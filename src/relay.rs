//! The relay: outbox → lanes and events. Read, publish, confirm, delete; in one pod at a time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::broker::publisher::{Outgoing, Publisher};
use crate::event::Event;
use crate::outbox::{self, Row};
use crate::pod::{Pod, past};
use crate::role::RoleError;
use crate::stats::Count;
use crate::wake::Wake;

/// Wakes published in one round; more would be on their way for so long that their expirations were no longer true.
const WAKES: i64 = 10_000;
/// Events published in one round. Wakes have a moment to meet, events have not: they wait for this many at most.
const EVENTS: i64 = 2_000;

/// Events give way to closing for this long: publishing them costs as much as closing their orders, on the same processors
/// where all is on one machine. What is closed a moment sooner can be told a moment later.
const GIVE_WAY: Duration = Duration::from_secs(5);

/// One session: connects, works until `stop` or until something breaks.
///
/// # Errors
/// Whatever broke; the caller builds a new session. Rows that were not deleted are published again.
pub async fn session(pod: &Arc<Pod>, stop: &CancellationToken) -> Result<(), RoleError> {
    let publisher = Publisher::connect(&pod.broker, "relay").await?;
    tracing::info!("relaying the outbox");
    let mut behind_since = None;
    while !stop.is_cancelled() {
        let behind = pod.behind.load(Ordering::Relaxed);
        behind_since = behind.then(|| behind_since.unwrap_or_else(Instant::now));
        let events = behind_since.is_none_or(|since| since.elapsed() > GIVE_WAY);
        let relayed = tokio::select! {
            relayed = round(pod, &publisher, events) => relayed?,
            // A broker that blocks publishers may do so for long; nothing is deleted, so nothing is lost.
            () = past(stop, pod.config.drain_timeout) => return Ok(()),
        };
        if relayed == 0 {
            tokio::select! {
                () = sleep(pod.config.relay_poll) => {}
                () = stop.cancelled() => {}
            }
        }
    }
    publisher.close().await;
    Ok(())
}

/// Publishes the oldest wakes, then, unless they give way, the oldest events; returns how many rows there were.
async fn round(pod: &Pod, publisher: &Publisher, with_events: bool) -> Result<usize, RoleError> {
    let (pool, batch) = (&pod.closer.pool, pod.config.relay_batch);
    let rows = outbox::wakes(pool, batch, WAKES, &pod.clock).await?;
    let woken = relay(pod, publisher, &rows, Count::Woken, |orders| {
        pod.scheduler.messages(wakes(orders), pod.clock.now())
    });
    let woken = woken.await?;
    if !with_events {
        return Ok(woken);
    }
    let rows = outbox::events(pool, batch, EVENTS, &pod.clock).await?;
    // In the order of recording, which is the order of what happened to an order.
    let told = relay(pod, publisher, &rows, Count::Events, |rows| rows.iter().flat_map(events).collect());
    Ok(woken + told.await?)
}

/// Published and confirmed first, deleted second.
async fn relay(
    pod: &Pod,
    publisher: &Publisher,
    rows: &[Row],
    count: Count,
    messages: impl FnOnce(&[Row]) -> Vec<Outgoing>,
) -> Result<usize, RoleError> {
    if rows.is_empty() {
        return Ok(0);
    }
    publisher.publish(&messages(rows)).await?;
    let ids: Vec<_> = rows.iter().map(|row| row.id).collect();
    outbox::delete(&pod.closer.pool, &ids).await?;
    pod.stats.add(count, rows.iter().map(|row| row.orders.len()).sum());
    Ok(rows.len())
}

fn wakes(rows: &[Row]) -> Vec<Wake> {
    let orders = rows.iter().flat_map(|row| &row.orders);
    orders.map(|&(order_id, due, _)| Wake { due, order_id, attempt: 0 }).collect()
}

fn events(row: &Row) -> impl Iterator<Item = Outgoing> {
    row.orders.iter().map(|&(order_id, payment_deadline, user_id)| {
        Event { kind: &row.kind, at: row.recorded_at, order_id, user_id, payment_deadline }.message()
    })
}

//! The relay: outbox → lanes and events. Read, publish, confirm, delete; in one pod at a time.

use std::sync::Arc;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::broker::publisher::{Outgoing, Publisher};
use crate::clock::DbTime;
use crate::event::Event;
use crate::outbox::{self, Kind, Row};
use crate::pod::{Pod, RoleError};
use crate::stats::Count;
use crate::wake::Wake;

/// Messages in flight before their confirms are awaited; bounds the memory that a large outbox takes.
const IN_FLIGHT: usize = 2_000;

/// One session: connects, works until `stop` or until something breaks.
///
/// # Errors
/// Whatever broke; the caller builds a new session. Rows that were not deleted are published again.
pub async fn session(pod: &Arc<Pod>, stop: &CancellationToken) -> Result<(), RoleError> {
    let publisher = Publisher::connect(&pod.broker, "relay").await?;
    tracing::info!("relaying the outbox");
    while !stop.is_cancelled() {
        let rows = outbox::read(&pod.closer.pool, pod.config.relay_batch, &pod.clock).await?;
        if rows.is_empty() {
            tokio::select! {
                () = sleep(pod.config.relay_poll) => {}
                () = stop.cancelled() => {}
            }
            continue;
        }
        let wakes = rows.iter().filter(|row| row.kind == Kind::Wake).map(|row| row.orders.len()).sum();
        let events = rows.iter().map(|row| row.orders.len()).sum::<usize>() - wakes;
        for chunk in messages(pod, &rows).chunks(IN_FLIGHT) {
            publisher.publish(chunk).await?;
        }
        let ids: Vec<_> = rows.iter().map(|row| row.id).collect();
        outbox::delete(&pod.closer.pool, &ids).await?;
        pod.stats.add(Count::Woken, wakes);
        pod.stats.add(Count::Events, events);
    }
    publisher.close().await;
    Ok(())
}

/// Wakes first, grouped over all rows: they have a moment to meet. Events follow in the order of recording.
fn messages(pod: &Pod, rows: &[Row]) -> Vec<Outgoing> {
    let mut wakes = Vec::new();
    let mut events = Vec::new();
    for row in rows {
        match &row.kind {
            Kind::Wake => wakes.extend(row.orders.iter().map(|(order_id, due, _)| wake(*order_id, *due))),
            Kind::Event(kind) => {
                events.extend(row.orders.iter().map(|&(order_id, payment_deadline, user_id)| {
                    Event { kind, at: row.recorded_at, order_id, user_id, payment_deadline }.message()
                }));
            }
        }
    }
    let mut messages = pod.scheduler.messages(wakes, pod.clock.now());
    messages.append(&mut events);
    messages
}

fn wake(order_id: i64, due: DbTime) -> Wake {
    Wake { due, order_id, attempt: 0 }
}

//! The relay: outbox → lanes and events. Read, publish, confirm, delete; in one pod at a time.

use std::sync::Arc;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::broker::publisher::{Outgoing, Publisher};
use crate::event::Event;
use crate::outbox::{self, Kind, Row};
use crate::pod::Pod;
use crate::role::RoleError;
use crate::stats::Count;
use crate::wake::Wake;

/// Messages in flight before their confirms are awaited; bounds the memory that a large outbox takes.
const IN_FLIGHT: usize = 1_000;

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
        // Wakes first, grouped over all rows: they have a moment to meet. Events follow in the order of recording.
        let wakes = wakes(&rows);
        let (woken, mut told) = (wakes.len(), 0);
        for chunk in pod.scheduler.messages(wakes, pod.clock.now()).chunks(IN_FLIGHT) {
            publisher.publish(chunk).await?;
        }
        let mut events = events(&rows).peekable();
        while events.peek().is_some() {
            let chunk: Vec<_> = events.by_ref().take(IN_FLIGHT).collect();
            publisher.publish(&chunk).await?;
            told += chunk.len();
        }
        let ids: Vec<_> = rows.iter().map(|row| row.id).collect();
        outbox::delete(&pod.closer.pool, &ids).await?;
        pod.stats.add(Count::Woken, woken);
        pod.stats.add(Count::Events, told);
    }
    publisher.close().await;
    Ok(())
}

fn wakes(rows: &[Row]) -> Vec<Wake> {
    let wakes = rows.iter().filter(|row| row.kind == Kind::Wake).flat_map(|row| &row.orders);
    wakes.map(|&(order_id, due, _)| Wake { due, order_id, attempt: 0 }).collect()
}

/// Made one by one: the events of a large outbox would take more memory than all the rest.
fn events(rows: &[Row]) -> impl Iterator<Item = Outgoing> {
    rows.iter().flat_map(|row| {
        let kind = match &row.kind {
            Kind::Wake => None,
            Kind::Event(kind) => Some(kind),
        };
        kind.into_iter().flat_map(move |kind| {
            row.orders.iter().map(move |&(order_id, payment_deadline, user_id)| {
                Event { kind, at: row.recorded_at, order_id, user_id, payment_deadline }.message()
            })
        })
    })
}

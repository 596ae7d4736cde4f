//! The relay: outbox → lanes and events. Read, publish, confirm, delete; in one pod at a time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sqlx::Postgres;
use sqlx::pool::PoolConnection;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::broker::publisher::{Outgoing, Publisher};
use crate::close::LARGE_BATCH;
use crate::database::bounded;
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
    // For as long as the session: the pool would ask it for a sign of life, twice, after each of twenty looks a second.
    let connection = bounded("connecting the relay", pod.closer.pool.acquire()).await?;
    let mut relay = Relay { pod: Arc::clone(pod), publisher, connection, behind_since: None };
    tracing::info!("relaying the outbox");
    while !stop.is_cancelled() {
        let more = tokio::select! {
            more = relay.round() => more?,
            // A broker that blocks publishers may do so for long; nothing is deleted, so nothing is lost.
            () = past(stop, pod.config.drain_timeout) => return Ok(()),
        };
        // A round costs as much for one row as for many: what is recorded meanwhile goes together next time.
        if !more {
            tokio::select! {
                () = sleep(pod.config.relay_poll) => {}
                () = stop.cancelled() => {}
            }
        }
    }
    relay.publisher.close().await;
    Ok(())
}

struct Relay {
    pod: Arc<Pod>,
    publisher: Publisher,
    connection: PoolConnection<Postgres>,
    /// Since when this pod, or another, has been behind with closing.
    behind_since: Option<Instant>,
}

impl Relay {
    /// Publishes the oldest wakes, then, unless they give way, the oldest events; whether there are probably more.
    async fn round(&mut self) -> Result<bool, RoleError> {
        let (pod, batch) = (Arc::clone(&self.pod), self.pod.config.relay_batch);
        let rows = outbox::wakes(&mut self.connection, batch, WAKES, &pod.clock).await?;
        let messages = pod.scheduler.messages(wakes(&rows), pod.clock.now());
        let more = self.relay(&rows, WAKES, Count::Woken, messages).await?;
        let waited = self.behind_since.is_some_and(|since| since.elapsed() > GIVE_WAY);
        let this_pod_behind = pod.behind.load(Ordering::Relaxed);
        let rows = if this_pod_behind && !waited {
            Vec::new()
        } else {
            outbox::events(&mut self.connection, batch, EVENTS, &pod.clock).await?
        };
        let burst = rows.iter().any(|row| row.orders.len() >= LARGE_BATCH);
        let behind = this_pod_behind || (burst && outbox::large_batch_at_work(&mut self.connection).await?);
        self.behind_since = behind.then(|| self.behind_since.unwrap_or_else(Instant::now));
        if behind && !waited {
            return Ok(more);
        }
        // In the order of recording, which is the order of what happened to an order.
        let messages = rows.iter().flat_map(events).collect();
        Ok(self.relay(&rows, EVENTS, Count::Events, messages).await? || more)
    }

    /// Published and confirmed first, deleted second. Returns whether these were as many as are read at one time.
    async fn relay(
        &mut self,
        rows: &[Row],
        most: i64,
        count: Count,
        messages: Vec<Outgoing>,
    ) -> Result<bool, RoleError> {
        if rows.is_empty() {
            return Ok(false);
        }
        self.publisher.publish(messages).await?;
        let ids: Vec<_> = rows.iter().map(|row| row.id).collect();
        outbox::delete(&mut self.connection, &ids).await?;
        let orders = rows.iter().map(|row| row.orders.len()).sum();
        self.pod.stats.add(count, orders);
        let reached = |count, most| i64::try_from(count).is_ok_and(|count| count >= most);
        Ok(reached(rows.len(), self.pod.config.relay_batch) || reached(orders, most))
    }
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

//! The limits that the service is compared with: the same work done by the database alone and by the broker alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, QueuePurgeOptions};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::BenchError;
use super::load::{Orders, place_orders};
use super::sandbox::{Sandbox, failed};
use crate::broker::publisher::Publisher;
use crate::broker::{self, Broker, BrokerError};
use crate::closing::Closer;
use crate::stats::Stats;
use crate::wire::outgoing::Outgoing;
use crate::wire::wake::{self, WAKE_TYPE, Wake};

/// Orders per second that the database closes when it is given the batches of a burst back to back, with a pod's
/// concurrency; no broker, no wakes, no events published.
pub(super) async fn database_alone(
    sandbox: &Sandbox,
    orders: i64,
    say: &impl Fn(String),
) -> Result<f64, BenchError> {
    say(format!("the database alone: placing {orders} orders"));
    place_orders(sandbox, Orders::due_at(sandbox.now().await?, orders)).await?;
    let ids: Vec<i64> =
        sqlx::query_scalar("SELECT order_id FROM orders WHERE status = 'PENDING' ORDER BY order_id")
            .fetch_all(&sandbox.pool)
            .await
            .map_err(failed("listing orders"))?;
    let batches: Vec<_> = ids.chunks(sandbox.config.close_batch).map(<[i64]>::to_vec).collect();
    let batches = Arc::new(Mutex::new(batches.into_iter()));
    let (pool, clock) = (sandbox.pool.clone(), Arc::clone(&sandbox.clock));
    let closer = Closer::new(&sandbox.config, pool, clock, Arc::new(Stats::default()))
        .map_err(BenchError::Database)?;
    say(format!("the database alone: closing {orders} orders"));
    let start = Instant::now();
    let mut closing = JoinSet::new();
    for _ in 0..sandbox.config.close_concurrency {
        let (batches, closer) = (Arc::clone(&batches), closer.clone());
        closing.spawn(async move {
            loop {
                let Some(batch) = batches.lock().await.next() else { return Ok(()) };
                closer.close(batch).await?;
            }
        });
    }
    for outcome in closing.join_all().await {
        outcome.map_err(BenchError::Database)?;
    }
    let seconds = start.elapsed().as_secs_f64();
    sandbox.empty().await?;
    Ok(orders as f64 / seconds)
}

/// Messages published together.
const TOGETHER: usize = 5_000;
/// Lower bound of the publishing rate: all messages must be in the lane before the first expires.
const PUBLISHED_PER_SECOND: f64 = 5_000.0;

/// Messages per second that the broker moves out of a lane, where all of them expire at one moment, and delivers to a
/// consumer that only acknowledges them.
pub(super) async fn broker_alone(
    sandbox: &Sandbox,
    orders: i64,
    say: &impl Fn(String),
) -> Result<f64, BenchError> {
    let broker = Broker::new(&sandbox.config);
    let publisher = Publisher::connect(&broker, "bench").await?;
    let per_message = sandbox.config.max_orders_per_wake;
    let ahead = Duration::from_secs_f64(2.0 + orders as f64 / per_message as f64 / PUBLISHED_PER_SECOND);
    let due = sandbox.now().await?.plus(ahead);
    let lanes = sandbox.config.lanes.as_slice();
    let lane = lanes.iter().find(|lane| lane.length >= ahead).unwrap_or(&lanes[lanes.len() - 1]);
    let wakes: Vec<_> =
        (1..=orders).map(|order_id| Wake { due, order_id, attempt: 0, announced: false }).collect();
    let messages: Vec<_> = wakes.chunks(per_message).collect();
    say(format!("the broker alone: {} messages into lane {lane}", messages.len()));
    for together in messages.chunks(TOGETHER) {
        let wait = due.since(sandbox.clock.now()).as_millis().to_string();
        let message = |wakes: &&[Wake]| {
            let properties = lapin::BasicProperties::default()
                .with_content_type("application/json".into())
                .with_type(WAKE_TYPE.into())
                .with_expiration(wait.as_str().into());
            Outgoing { key: lane.key(), body: wake::encode(wakes), properties, mandatory: true }
        };
        publisher.publish(together.iter().map(message).collect()).await?;
    }
    publisher.close().await;

    let connection = broker.connect("bench").await?;
    let queue = broker.names.process();
    let (channel, deliveries) = broker.consume(&connection, &queue, sandbox.config.messages_ahead()).await?;
    say("the broker alone: waiting until they expire".to_owned());
    sleep(due.since(sandbox.clock.now())).await;
    let start = Instant::now();
    let mut deliveries = deliveries.ready_chunks(256);
    let mut taken = 0;
    while taken < messages.len() {
        let chunk = timeout(Duration::from_secs(30), deliveries.next()).await.ok().flatten();
        let chunk = chunk.ok_or_else(|| BrokerError::ConsumerEnded { queue: queue.clone() })?;
        taken += chunk.len();
        let Some(last) = chunk.into_iter().next_back() else { continue };
        let last = last.map_err(|source| BrokerError::during("taking wakes", source))?;
        let ack = channel.basic_ack(last.delivery_tag, BasicAckOptions { multiple: true });
        broker.bounded("acknowledging", ack).await?;
    }
    let seconds = start.elapsed().as_secs_f64();
    // The last acknowledgements may not have reached the queue yet; the purge removes messages that are requeued for that.
    broker.bounded("closing a channel", channel.close(200, "done".into())).await?;
    let channel = broker.channel(&connection).await?;
    let purge = channel.queue_purge(queue.as_str().into(), QueuePurgeOptions::default());
    broker.bounded("purging a queue", purge).await?;
    broker::close(&connection).await;
    Ok(messages.len() as f64 / seconds)
}

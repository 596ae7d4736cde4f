//! A subscriber: another part of the shop, which wants to know of every closed order and gets each event at least once.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, Consumer};
use serde_json::Value;
use sqlx::PgPool;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::{During, Result};

const QUEUE: &str = "demo.subscriber.queue";

/// What was heard so far.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// Events that came, repeated ones included.
    pub events: u64,
    /// Their distinct ids.
    pub ids: HashSet<String>,
    /// The orders that they say are closed.
    pub orders: HashSet<i64>,
}

/// Listens from its making on.
#[derive(Debug)]
pub struct Subscriber {
    heard: Arc<Mutex<Heard>>,
    listening: JoinHandle<Result<()>>,
}

impl Subscriber {
    /// A queue of its own, bound to the one event it cares about. Overdue need not know of it.
    pub async fn listen(connection: &Connection) -> Result<Self> {
        let channel = connection.create_channel().await?;
        let mut quorum = FieldTable::default();
        quorum.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        channel.queue_declare(QUEUE.into(), QueueDeclareOptions::durable(), quorum).await?;
        let (exchange, key) = ("order.events".into(), "order.closed".into());
        channel
            .queue_bind(QUEUE.into(), exchange, key, QueueBindOptions::default(), FieldTable::default())
            .await?;
        let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
        let consumer = channel.basic_consume(QUEUE.into(), "subscriber".into(), options, arguments).await?;
        let heard = Arc::default();
        Ok(Self { listening: tokio::spawn(take(consumer, Arc::clone(&heard))), heard })
    }

    /// Waits for the events of all closed orders; at most ten seconds, then what has come is the answer.
    pub async fn hear_out(&mut self, pool: &PgPool) -> Result<Heard> {
        let closed: i64 =
            sqlx::query_scalar("SELECT count(*) FROM orders WHERE status = 'CLOSED'").fetch_one(pool).await?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while lock(&self.heard).orders.len() < usize::try_from(closed)? && Instant::now() < deadline {
            if self.listening.is_finished() {
                (&mut self.listening).await.during("the subscriber")?.during("the subscriber")?;
            }
            sleep(Duration::from_millis(50)).await;
        }
        // A moment more, so that one event too many would be seen.
        sleep(Duration::from_millis(500)).await;
        Ok(lock(&self.heard).clone())
    }
}

async fn take(mut consumer: Consumer, heard: Arc<Mutex<Heard>>) -> Result<()> {
    while let Some(delivery) = consumer.next().await {
        let delivery = delivery?;
        let event: Value = serde_json::from_slice(&delivery.data).during("an event")?;
        let id = event["id"].as_str().ok_or("an event without id")?.to_owned();
        let order_id = event["data"]["order_id"].as_i64().ok_or("an event without order_id")?;
        {
            let mut heard = lock(&heard);
            heard.events += 1;
            heard.ids.insert(id);
            heard.orders.insert(order_id);
        }
        delivery.acker.ack(BasicAckOptions::default()).await?;
    }
    Err("the broker ended its consumer".into())
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

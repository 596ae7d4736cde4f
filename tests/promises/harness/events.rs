//! A subscriber of the shop's events, as any other service of the shop is one.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Consumer};
use serde_json::Value;

use super::world::World;

impl World {
    /// Subscribes to events with a queue of the test's own.
    pub async fn subscribe(&self, keys: &[&str]) -> Subscriber {
        let (connection, channel) = self.channel().await;
        channel
            .queue_declare("events".into(), QueueDeclareOptions::durable(), FieldTable::default())
            .await
            .expect("a queue");
        for key in keys {
            self.bind("events", &self.names.events(), key).await;
        }
        let no_ack = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let consumer = channel.basic_consume("events".into(), "".into(), no_ack, FieldTable::default());
        Subscriber { consumer: consumer.await.expect("a consumer"), _connection: connection }
    }
}

/// A subscriber of events.
pub struct Subscriber {
    consumer: Consumer,
    _connection: lapin::Connection,
}

impl Subscriber {
    /// The next event: message id and body.
    pub async fn next(&mut self) -> (String, Value) {
        let next = tokio::time::timeout(Duration::from_secs(300), self.consumer.next()).await;
        let delivery = next
            .expect("an event within five minutes, on a busy machine too")
            .expect("a stream")
            .expect("a delivery");
        let id = delivery.properties.message_id().as_ref().expect("a message id").to_string();
        (id, serde_json::from_slice(&delivery.data).expect("JSON"))
    }

    /// Every event published so far: its id, and how often it came.
    pub async fn all(&mut self, world: &World) -> HashMap<String, usize> {
        world.outbox_empty().await;
        // Behind all that was published before it, in the same queue.
        let last = BasicProperties::default().with_message_id("last".into());
        world.publish_to("", "events", b"{}", last).await;
        let mut seen = HashMap::new();
        loop {
            match self.next().await.0 {
                id if id == "last" => return seen,
                id => *seen.entry(id).or_insert(0) += 1,
            }
        }
    }
}

/// The order that an event's id names.
pub fn order_of(event_id: &str) -> i64 {
    event_id
        .split(':')
        .nth(1)
        .and_then(|order| order.parse().ok())
        .unwrap_or_else(|| panic!("{event_id}: which order?"))
}

//! Outside services: they announce orders by AMQP until the broker has confirmed, and some of them send rubbish.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeleteOptions,
    QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use crate::pods::Place;

/// A connection for publishing and looking, made again whenever it breaks.
#[derive(Debug)]
pub struct Announcer {
    place: Place,
    channel: Mutex<Option<(Connection, Channel)>>,
}

/// The exchange of Overdue's own messages and of what services announce.
pub const PLUMBING: &str = "order.exchange";
/// The exchange of the events.
pub const EVENTS: &str = "order.events";

/// How long the broker may take to confirm.
const CONFIRM: Duration = Duration::from_secs(5);
/// How long it is tried again; longer than any fault.
const PERSISTENCE: Duration = Duration::from_secs(60);

impl Announcer {
    /// Connects when it is needed.
    pub fn new(place: Place) -> Self {
        Self { place, channel: Mutex::default() }
    }

    /// An order and its deadline.
    pub async fn by_deadline(&self, order: i64, deadline: &str) -> Result<()> {
        let body = format!(r#"{{"order_id":{order},"payment_deadline":"{deadline}"}}"#);
        self.publish("order.delay", body.as_bytes(), BasicProperties::default()).await
    }

    /// An order and its delay, as the tutorials do it.
    pub async fn expiring(&self, order: i64, delay: Duration) -> Result<()> {
        let expiration = delay.as_millis().to_string();
        let properties = BasicProperties::default().with_expiration(expiration.as_str().into());
        self.publish("order.delay", order.to_string().as_bytes(), properties).await
    }

    /// Publishes until it is confirmed: at least once.
    pub async fn publish(&self, key: &str, body: &[u8], properties: BasicProperties) -> Result<()> {
        let began = Instant::now();
        loop {
            match timeout(CONFIRM, self.try_publish(key, body, properties.clone())).await {
                Ok(Ok(())) => return Ok(()),
                failed if began.elapsed() > PERSISTENCE => {
                    return failed.context("no confirm")?.with_context(|| format!("publishing to {key}"));
                }
                _ => self.channel.lock().await.take(),
            };
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn try_publish(&self, key: &str, body: &[u8], properties: BasicProperties) -> Result<()> {
        let channel = self.channel().await?;
        let (exchange, properties) = (self.place.name(PLUMBING), properties.with_delivery_mode(2));
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let confirm = channel.basic_publish(exchange.into(), key.into(), options, body, properties).await?;
        let confirm = confirm.await?;
        ensure!(confirm == Confirmation::Ack(None), "not taken: {confirm:?}");
        Ok(())
    }

    /// A channel with publisher confirms.
    pub async fn channel(&self) -> Result<Channel> {
        let mut current = self.channel.lock().await;
        if let Some((connection, channel)) = &*current
            && connection.status().connected()
            && channel.status().connected()
        {
            return Ok(channel.clone());
        }
        *current = None;
        let connection = connect(&self.place).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        *current = Some((connection, channel.clone()));
        Ok(channel)
    }

    /// Declares a durable queue and binds it to keys of an exchange.
    pub async fn subscribe(&self, queue: &str, exchange: &str, keys: &[&str]) -> Result<()> {
        let (channel, name) = (self.channel().await?, self.place.name(queue));
        let mut quorum = FieldTable::default();
        quorum.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        channel.queue_declare(name.as_str().into(), QueueDeclareOptions::durable(), quorum).await?;
        for key in keys {
            let (queue, exchange) = (name.as_str().into(), self.place.name(exchange).into());
            let (options, none) = (QueueBindOptions::default(), FieldTable::default());
            channel.queue_bind(queue, exchange, (*key).into(), options, none).await?;
        }
        Ok(())
    }

    /// Declares a queue that takes nothing, and binds it to all events.
    pub async fn subscribe_with_a_full_queue(&self, queue: &str) -> Result<()> {
        let full = [
            ("x-max-length", AMQPValue::LongLongInt(0)),
            ("x-overflow", AMQPValue::LongString("reject-publish".into())),
        ];
        self.subscribe_to_all(queue, full).await
    }

    /// Declares a quorum queue that has its only member on the node of this connection, and binds it to all events.
    pub async fn subscribe_on_this_node(&self, queue: &str) -> Result<()> {
        let alone = [
            ("x-queue-type", AMQPValue::LongString("quorum".into())),
            ("x-quorum-initial-group-size", AMQPValue::LongLongInt(1)),
        ];
        self.subscribe_to_all(queue, alone).await
    }

    async fn subscribe_to_all(&self, queue: &str, arguments: [(&str, AMQPValue); 2]) -> Result<()> {
        let (channel, name) = (self.channel().await?, self.place.name(queue));
        let mut table = FieldTable::default();
        for (argument, value) in arguments {
            table.insert(argument.into(), value);
        }
        channel.queue_declare(name.as_str().into(), QueueDeclareOptions::durable(), table).await?;
        let (exchange, options) = (self.place.name(EVENTS).into(), QueueBindOptions::default());
        let bind =
            channel.queue_bind(name.into(), exchange, "order.*".into(), options, FieldTable::default());
        bind.await?;
        Ok(())
    }

    /// Messages that wait in a queue; `None` when the queue is not there.
    pub async fn depth(&self, queue: &str) -> Result<u32> {
        let channel = self.channel().await?;
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::durable() };
        let state = channel.queue_declare(self.place.name(queue).into(), passive, FieldTable::default());
        Ok(timeout(CONFIRM, state).await.context("no answer")??.message_count())
    }

    /// Who consumes a queue.
    pub async fn consumers(&self, queue: &str) -> Result<u32> {
        let channel = self.channel().await?;
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::durable() };
        let state = channel.queue_declare(self.place.name(queue).into(), passive, FieldTable::default());
        Ok(timeout(CONFIRM, state).await.context("no answer")??.consumer_count())
    }

    /// Takes up to `most` messages out of a queue.
    pub async fn take(&self, queue: &str, most: usize) -> Result<Vec<lapin::message::Delivery>> {
        let (channel, name, mut taken) = (self.channel().await?, self.place.name(queue), Vec::new());
        while taken.len() < most {
            let got = channel.basic_get(name.as_str().into(), BasicGetOptions::default());
            let Some(message) = timeout(CONFIRM, got).await.context("no answer")?? else { break };
            message.delivery.acker.ack(BasicAckOptions::default()).await?;
            taken.push(message.delivery);
        }
        Ok(taken)
    }

    /// Deletes a queue.
    pub async fn delete(&self, queue: &str) -> Result<()> {
        let channel = self.channel().await?;
        channel.queue_delete(self.place.name(queue).into(), QueueDeleteOptions::default()).await?;
        Ok(())
    }

    /// Deletes the shop's exchanges.
    pub async fn delete_exchanges(&self) -> Result<()> {
        let channel = self.channel().await?;
        for exchange in [PLUMBING, EVENTS] {
            let options = ExchangeDeleteOptions::default();
            channel.exchange_delete(self.place.name(exchange).into(), options).await?;
        }
        Ok(())
    }
}

/// A connection to the first node that answers.
pub async fn connect(place: &Place) -> Result<Connection> {
    let mut last = anyhow::anyhow!("no node");
    for url in &place.amqp_urls {
        let url = format!("{url}?heartbeat=5");
        match timeout(CONFIRM, Connection::connect(&url, ConnectionProperties::default())).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => last = error.into(),
            Err(_) => last = anyhow::anyhow!("no answer"),
        }
    }
    Err(last)
}

//! The broker as any service of a shop sees it: publish with confirms, declare, bind, look and take. The connection is
//! made again whenever it has broken.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeleteOptions,
    QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};
use url::Url;

/// A connection for publishing and looking.
#[derive(Debug)]
pub struct Broker {
    urls: Vec<String>,
    prefix: String,
    channel: Mutex<Option<(Connection, Channel)>>,
}

/// The exchange of Overdue's own messages and of what services announce.
pub const PLUMBING: &str = "order.exchange";
/// The exchange of the events.
pub const EVENTS: &str = "order.events";
/// The routing key of order-created messages.
pub const ORDER_CREATED: &str = "order.delay";

/// How long the broker may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How long [`Broker::publish_until_confirmed`] goes on; longer than any fault.
const PERSISTENCE: Duration = Duration::from_secs(60);

impl Broker {
    /// Connects when it is needed, to the first node that answers. Names of queues and exchanges are given without `prefix`.
    #[must_use]
    pub fn new(urls: &[String], prefix: &str) -> Self {
        Self { urls: urls.to_owned(), prefix: prefix.to_owned(), channel: Mutex::default() }
    }

    /// A connection of the caller's own.
    pub async fn connect(&self) -> Result<Connection> {
        let mut last = anyhow::anyhow!("no node");
        for url in &self.urls {
            let mut url = Url::parse(url)?;
            url.query_pairs_mut().append_pair("heartbeat", "5");
            let connecting = Connection::connect(url.as_str(), ConnectionProperties::default());
            match timeout(ANSWER, connecting).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => last = error.into(),
                Err(_) => last = anyhow::anyhow!("no answer"),
            }
        }
        Err(last)
    }

    /// The channel, with publisher confirms.
    pub async fn channel(&self) -> Result<Channel> {
        let mut current = self.channel.lock().await;
        if let Some((connection, channel)) = &*current
            && connection.status().connected()
            && channel.status().connected()
        {
            return Ok(channel.clone());
        }
        *current = None;
        let connection = self.connect().await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        *current = Some((connection, channel.clone()));
        Ok(channel)
    }

    /// A queue's or exchange's full name.
    #[must_use]
    pub fn name(&self, rest: &str) -> String {
        format!("{}{rest}", self.prefix)
    }

    /// Publishes a persistent message to an exchange, and waits for the confirm.
    pub async fn publish(
        &self,
        exchange: &str,
        key: &str,
        body: &[u8],
        properties: BasicProperties,
    ) -> Result<()> {
        let sent = async {
            let channel = self.channel().await?;
            let (exchange, properties) = (exchange.into(), properties.with_delivery_mode(2));
            let options = BasicPublishOptions { mandatory: true, immediate: false };
            let confirm = channel.basic_publish(exchange, key.into(), options, body, properties).await?;
            let confirm = confirm.await?;
            ensure!(confirm == Confirmation::Ack(None), "not taken: {confirm:?}");
            Ok(())
        };
        timeout(ANSWER, sent).await.context("no confirm")?.with_context(|| format!("publishing to {key}"))
    }

    /// Publishes to Overdue's exchange until the message is confirmed: at least once.
    pub async fn publish_until_confirmed(
        &self,
        key: &str,
        body: &[u8],
        properties: BasicProperties,
    ) -> Result<()> {
        let (began, exchange) = (Instant::now(), self.name(PLUMBING));
        loop {
            match self.publish(&exchange, key, body, properties.clone()).await {
                Err(error) if began.elapsed() > PERSISTENCE => return Err(error),
                Err(_) => *self.channel.lock().await = None,
                Ok(()) => return Ok(()),
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Declares a durable queue and binds it to keys of an exchange; a quorum queue, unless other arguments are given.
    pub async fn subscribe(
        &self,
        queue: &str,
        exchange: &str,
        keys: &[&str],
        arguments: &[(&str, AMQPValue)],
    ) -> Result<()> {
        let (channel, name) = (self.channel().await?, self.name(queue));
        let mut table = FieldTable::default();
        if arguments.is_empty() {
            table.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        }
        for (argument, value) in arguments {
            table.insert((*argument).into(), value.clone());
        }
        channel.queue_declare(name.into(), QueueDeclareOptions::durable(), table).await?;
        for key in keys {
            self.bind(queue, exchange, key).await?;
        }
        Ok(())
    }

    /// Binds a queue to a key of an exchange.
    pub async fn bind(&self, queue: &str, exchange: &str, key: &str) -> Result<()> {
        let (queue, exchange) = (self.name(queue).into(), self.name(exchange).into());
        let (options, none) = (QueueBindOptions::default(), FieldTable::default());
        Ok(self.channel().await?.queue_bind(queue, exchange, key.into(), options, none).await?)
    }

    /// How many messages are ready in a queue, by asking the queue itself.
    pub async fn depth(&self, queue: &str) -> Result<u32> {
        Ok(self.look(queue).await?.message_count())
    }

    /// How many consumers a queue has.
    pub async fn consumers(&self, queue: &str) -> Result<u32> {
        Ok(self.look(queue).await?.consumer_count())
    }

    async fn look(&self, queue: &str) -> Result<lapin::Queue> {
        let channel = self.channel().await?;
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::durable() };
        let state = channel.queue_declare(self.name(queue).into(), passive, FieldTable::default());
        timeout(ANSWER, state).await.context("no answer")?.with_context(|| format!("looking at {queue}"))
    }

    /// Takes up to `most` messages out of a queue.
    pub async fn take(&self, queue: &str, most: usize) -> Result<Vec<Delivery>> {
        let (channel, name, mut taken) = (self.channel().await?, self.name(queue), Vec::new());
        while taken.len() < most {
            let got = channel.basic_get(name.as_str().into(), BasicGetOptions::default());
            let Some(message) = timeout(ANSWER, got).await.context("no answer")?? else { break };
            message.delivery.acker.ack(BasicAckOptions::default()).await?;
            taken.push(message.delivery);
        }
        Ok(taken)
    }

    /// Deletes a queue.
    pub async fn delete(&self, queue: &str) -> Result<()> {
        let channel = self.channel().await?;
        channel.queue_delete(self.name(queue).into(), QueueDeleteOptions::default()).await?;
        Ok(())
    }

    /// Deletes Overdue's exchanges.
    pub async fn delete_exchanges(&self) -> Result<()> {
        let channel = self.channel().await?;
        for exchange in [PLUMBING, EVENTS] {
            channel.exchange_delete(self.name(exchange).into(), ExchangeDeleteOptions::default()).await?;
        }
        Ok(())
    }
}

//! Goes through the parked queue message by message.

use futures_util::StreamExt;
use lapin::Channel;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicNackOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use tokio::time::timeout;

use super::Action;
use crate::broker::consumer::Deliveries;
use crate::broker::publisher::Publisher;
use crate::broker::{Broker, BrokerConnection, BrokerError};
use crate::wire::outgoing::Outgoing;

/// Messages published again before their confirms are awaited.
const RETRY_BATCH: usize = 200;

/// Prefetch of one channel. Fetched one by one with `basic.get`, each message would cost milliseconds.
const HOLD: u16 = 500;

/// One pass through the parked queue. A message that is only looked at stays unacknowledged, so that it is not delivered
/// again, and is requeued at the end.
pub(super) struct Cursor<'a> {
    broker: &'a Broker,
    connection: BrokerConnection,
    publisher: Option<Publisher>,
    /// Messages when it was opened. Messages parked again meanwhile are not looked at: a retry that fails at once would
    /// otherwise repeat forever.
    pub there: u64,
    channel: Channel,
    deliveries: Deliveries,
    /// Unacknowledged messages on the present channel.
    held: u16,
    /// Channels that hold as many messages as they may.
    full: Vec<Channel>,
    /// Messages to be published again, with their delivery tags on the present channel.
    again: Vec<(Outgoing, u64)>,
}

impl<'a> Cursor<'a> {
    pub async fn open(broker: &'a Broker, action: Action) -> Result<Self, BrokerError> {
        let connection = broker.connect("parked").await?;
        broker.declare(&connection).await?;
        let asking = broker.channel(&connection).await?;
        let queue = broker.names.parked();
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::durable() };
        let state = asking.queue_declare(queue.as_str().into(), passive, FieldTable::default());
        let there = u64::from(broker.bounded("asking for the parked queue", state).await?.message_count());
        // A dropped channel is closed in the background, which would interfere when the connection is closed soon after.
        broker.bounded("closing a channel", asking.close(200, "done".into())).await?;
        let publisher = match action {
            Action::Retry => Some(Publisher::connect(broker, "parked").await?),
            Action::Look | Action::Discard => None,
        };
        let (channel, deliveries) = broker.consume(&connection, &queue, HOLD).await?;
        let (full, again) = (Vec::new(), Vec::new());
        Ok(Self { broker, connection, publisher, there, channel, deliveries, held: 0, full, again })
    }

    /// The next message; `None` if none arrives in time, because another consumer has it.
    pub async fn next(&mut self) -> Result<Option<Delivery>, BrokerError> {
        if self.held == HOLD {
            self.flush().await?;
        }
        if self.held == HOLD {
            let queue = self.broker.names.parked();
            let (channel, deliveries) = self.broker.consume(&self.connection, &queue, HOLD).await?;
            self.full.push(std::mem::replace(&mut self.channel, channel));
            self.deliveries = deliveries;
            self.held = 0;
        }
        match timeout(self.broker.timeout, self.deliveries.next()).await {
            Ok(Some(Ok(delivery))) => {
                self.held += 1;
                Ok(Some(delivery))
            }
            Ok(Some(Err(source))) => Err(BrokerError::during("reading parked messages", source)),
            Ok(None) => Err(BrokerError::ConsumerEnded { queue: self.broker.names.parked() }),
            Err(_) => Ok(None),
        }
    }

    pub async fn retry(&mut self, message: Outgoing, tag: u64) -> Result<(), BrokerError> {
        self.again.push((message, tag));
        if self.again.len() == RETRY_BATCH { self.flush().await } else { Ok(()) }
    }

    /// Publishes the messages and waits for the confirms, and only then takes them out of the queue.
    async fn flush(&mut self) -> Result<(), BrokerError> {
        let (messages, tags): (Vec<_>, Vec<_>) = std::mem::take(&mut self.again).into_iter().unzip();
        if let Some(publisher) = &self.publisher {
            publisher.publish(messages).await?;
        }
        for tag in tags {
            self.take_out(tag).await?;
        }
        Ok(())
    }

    pub async fn take_out(&mut self, tag: u64) -> Result<(), BrokerError> {
        let ack = self.channel.basic_ack(tag, BasicAckOptions::default());
        self.broker.bounded("taking a parked message out", ack).await?;
        self.held -= 1;
        Ok(())
    }

    pub async fn close(mut self) -> Result<(), BrokerError> {
        self.flush().await?;
        // Cancelled first: the requeued messages would otherwise be delivered again at once.
        let cancel =
            self.channel.basic_cancel(self.deliveries.get_ref().tag(), BasicCancelOptions::default());
        self.broker.bounded("basic.cancel", cancel).await?;
        for channel in self.full.iter().chain([&self.channel]) {
            let all = BasicNackOptions { multiple: true, requeue: true };
            self.broker.bounded("giving messages back", channel.basic_nack(0, all)).await?;
        }
        if let Some(publisher) = self.publisher {
            publisher.close().await;
        }
        self.broker.bounded("closing the connection", self.connection.close(200, "done".into())).await
    }
}

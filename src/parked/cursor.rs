//! The parked queue in the hands of somebody who goes through it.

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

/// Messages that one channel holds at once; one by one, with `basic.get`, each would cost milliseconds.
const HOLD: u16 = 500;

/// The parked queue while somebody goes through it. What is only looked at stays unacknowledged, so that it does not
/// come again, and is given back at the end.
pub(super) struct Cursor<'a> {
    broker: &'a Broker,
    connection: BrokerConnection,
    publisher: Option<Publisher>,
    /// Messages when it was opened. What is parked again meanwhile is not looked at: else a retry that fails at once would
    /// go round forever.
    pub there: u64,
    channel: Channel,
    deliveries: Deliveries,
    /// Messages that the present channel holds, and the channels that hold all they may.
    held: u16,
    full: Vec<Channel>,
    /// Messages of the present channel to be sent again.
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
        // Dropped, it would be closed in the background, and be in the way when the connection is closed soon.
        broker.bounded("closing a channel", asking.close(200, "done".into())).await?;
        let publisher = match action {
            Action::Retry => Some(Publisher::connect(broker, "parked").await?),
            Action::Look | Action::Discard => None,
        };
        let (channel, deliveries) = broker.consume(&connection, &queue, HOLD).await?;
        let (full, again) = (Vec::new(), Vec::new());
        Ok(Self { broker, connection, publisher, there, channel, deliveries, held: 0, full, again })
    }

    /// The next message; none when somebody else has it.
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

    /// Published and confirmed first, taken out second.
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
        // Otherwise, what is given back would come again at once.
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

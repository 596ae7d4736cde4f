//! Publishing with confirms: the caller learns of every message whether the broker has taken responsibility for it.

use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::Duration;

use futures_util::future::{MaybeDone, maybe_done};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{Channel, Confirmation, PublisherConfirm};
use tokio::time::{Instant, timeout};

use super::{Broker, BrokerConnection, BrokerError, last_first, together_in_order};
use crate::wire::outgoing::Outgoing;

/// What the broker answered to one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The broker has taken responsibility for the message in every queue that it is routed to.
    Confirmed,
    /// At least one queue did not take the message; others may have.
    Refused,
    /// No answer in time.
    Silence,
}

/// A channel in confirm mode on a connection of its own.
///
/// A broker that blocks publishers (an alarm) blocks the whole connection, acknowledgements included, so nothing else uses
/// that connection.
#[derive(Debug)]
pub struct Publisher {
    connection: BrokerConnection,
    channel: Channel,
    exchange: String,
    timeout: Duration,
}

/// The most messages whose confirms are awaited together, and the most bytes, which the library copies. Both bound memory
/// and the work that one timeout covers.
const IN_FLIGHT: usize = 1_000;
const BYTES_IN_FLIGHT: usize = 4 * 1024 * 1024;

/// Splits messages, in order, into parts that may be in flight together.
fn in_flight(mut messages: &mut [Outgoing]) -> impl Iterator<Item = &mut [Outgoing]> {
    std::iter::from_fn(move || {
        let mut bytes = 0_usize;
        let fits = |message: &&Outgoing| {
            bytes = bytes.saturating_add(message.body.len());
            bytes <= BYTES_IN_FLIGHT
        };
        let fitting = messages.iter().take(IN_FLIGHT).take_while(fits).count().max(1);
        let (some, rest) = std::mem::take(&mut messages).split_at_mut_checked(fitting)?;
        messages = rest;
        Some(some)
    })
}

/// The delivery mode of persistent messages.
const PERSISTENT: u8 = 2;

impl Publisher {
    /// Connects, declares the topology and opens the channel.
    ///
    /// # Errors
    /// As [`Broker::connect`], [`Broker::declare`] and [`Broker::channel`].
    pub async fn connect(broker: &Broker, purpose: &str) -> Result<Self, BrokerError> {
        let connection = broker.connect(&format!("{purpose} publisher")).await?;
        broker.declare(&connection).await?;
        Self::on(broker, connection, &broker.topology.exchange).await
    }

    /// Connects and opens a channel for the events exchange. Declares nothing: roles that need Overdue's queues do.
    ///
    /// # Errors
    /// As [`Broker::connect`] and [`Broker::channel`].
    pub async fn of_events(broker: &Broker, purpose: &str) -> Result<Self, BrokerError> {
        let connection = broker.connect(&format!("{purpose} publisher")).await?;
        Self::on(broker, connection, &broker.topology.events).await
    }

    async fn on(broker: &Broker, connection: BrokerConnection, exchange: &str) -> Result<Self, BrokerError> {
        let channel = broker.channel(&connection).await?;
        // Without confirm mode the client resolves every confirm at once, as "not requested".
        broker.bounded("confirm.select", channel.confirm_select(ConfirmSelectOptions::default())).await?;
        Ok(Self { connection, channel, exchange: exchange.to_owned(), timeout: broker.timeout })
    }

    /// Publishes the messages in order and waits until the broker has taken responsibility for each.
    ///
    /// While the broker blocks publishers (a memory or disk alarm), publishing waits without a timeout: a new connection
    /// would be blocked as well, and the blocked one could not even be closed.
    ///
    /// # Errors
    /// When a message was refused, could not be routed, or was not confirmed in time, or the connection was lost. The state
    /// of the other messages is then unknown: the caller keeps its source (an outbox row, an unacknowledged message) and
    /// publishes all of them again, with a new publisher.
    pub async fn publish(&self, mut messages: Vec<Outgoing>) -> Result<(), BrokerError> {
        for some in in_flight(&mut messages) {
            let mut publishing = std::pin::pin!(self.publish_some(some));
            loop {
                match timeout(self.timeout, &mut publishing).await {
                    Ok(answer) => break answer?,
                    Err(_) if self.blocked() => {}
                    Err(_) => {
                        let (doing, after) = ("publishing".to_owned(), self.timeout);
                        return Err(BrokerError::Timeout { doing, after });
                    }
                }
            }
        }
        Ok(())
    }

    async fn publish_some(&self, messages: &mut [Outgoing]) -> Result<(), BrokerError> {
        let sends = messages.iter_mut().map(|message| self.send(message));
        let confirms = together_in_order(sends).await;
        let confirms = confirms.map_err(|source| BrokerError::during("publishing", source))?;
        let confirms = last_first(confirms.into_iter()).await;
        let confirms =
            confirms.map_err(|source| BrokerError::during("waiting for a publisher confirm", source))?;
        for (confirm, message) in confirms.into_iter().zip(messages) {
            match confirm {
                Confirmation::Ack(None) => {}
                Confirmation::Ack(Some(returned)) => {
                    return Err(BrokerError::Unroutable { key: returned.routing_key.to_string() });
                }
                Confirmation::Nack(_) | Confirmation::NotRequested => {
                    return Err(BrokerError::Nacked { key: message.key.clone() });
                }
            }
        }
        Ok(())
    }

    /// Publishes the messages in order and returns the broker's answer to each; stops waiting when no answer has come for
    /// `patience`. For messages that subscribers' queues may refuse.
    ///
    /// After [`Answer::Silence`] the publisher must not be used again: the broker may stop reading from a connection whose
    /// messages a queue does not confirm.
    ///
    /// # Errors
    /// When the connection is lost. The state of the messages is then unknown.
    pub async fn publish_each(
        &self,
        mut messages: Vec<Outgoing>,
        patience: Duration,
    ) -> Result<Vec<Answer>, BrokerError> {
        let count = messages.len();
        let sends = messages.iter_mut().map(|message| self.send(message));
        let mut sends = std::pin::pin!(together_in_order(sends));
        let sent = loop {
            match timeout(patience, &mut sends).await {
                Ok(sent) => break sent.map_err(|source| BrokerError::during("publishing events", source))?,
                Err(_) if self.blocked() => {}
                Err(_) => return Ok(vec![Answer::Silence; count]),
            }
        };
        let mut confirms: Vec<_> = sent.into_iter().map(maybe_done).collect();
        let (mut answered, mut last_answer) = (0, Instant::now());
        // The last confirm first: the others are there by then or soon after, so this task is woken once.
        while timeout(patience / 8, join_last_first(&mut confirms)).await.is_err() {
            for confirm in &mut confirms {
                let _ = Pin::new(confirm).poll(&mut Context::from_waker(Waker::noop()));
            }
            let so_far = confirms.iter().filter(|confirm| matches!(confirm, MaybeDone::Done(_))).count();
            if so_far > answered || self.blocked() {
                (answered, last_answer) = (so_far, Instant::now());
            } else if last_answer.elapsed() >= patience {
                break;
            }
        }
        let answers = confirms.iter_mut().map(|confirm| match Pin::new(confirm).take_output() {
            None => Ok(Answer::Silence),
            Some(Ok(Confirmation::Ack(_))) => Ok(Answer::Confirmed),
            Some(Ok(Confirmation::Nack(_) | Confirmation::NotRequested)) => Ok(Answer::Refused),
            Some(Err(source)) => Err(BrokerError::during("waiting for a publisher confirm", source)),
        });
        answers.collect()
    }

    /// Whether the broker blocks publishers because of an alarm; only waiting helps then.
    fn blocked(&self) -> bool {
        let status = self.connection.status();
        let blocked = status.blocked() && status.connected();
        if blocked {
            tracing::warn!(
                event = "publishers_blocked",
                "the broker blocks publishers: a memory or disk alarm is on; waiting"
            );
        }
        blocked
    }

    /// Publishes a message. Its properties are moved out, because they are not needed again; key and body stay.
    fn send<'a>(
        &'a self,
        message: &'a mut Outgoing,
    ) -> impl Future<Output = lapin::Result<PublisherConfirm>> + 'a {
        let options = BasicPublishOptions { mandatory: message.mandatory, immediate: false };
        let properties = std::mem::take(&mut message.properties).with_delivery_mode(PERSISTENT);
        let (exchange, key) = (self.exchange.as_str().into(), message.key.as_str().into());
        self.channel.basic_publish(exchange, key, options, &message.body, properties)
    }

    /// Closes the connection; confirmed messages are safe.
    pub async fn close(self) {
        super::close(&self.connection).await;
    }
}

/// Waits for the last call, then for the others.
async fn join_last_first<F: Future + Unpin>(calls: &mut [MaybeDone<F>]) {
    if let Some((last, others)) = calls.split_last_mut() {
        last.await;
        for call in others {
            call.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use lapin::BasicProperties;

    use super::*;

    #[test]
    fn few_large_messages_or_many_small_ones_are_in_flight_together() {
        let of = |bytes: usize| Outgoing {
            key: String::new(),
            body: vec![0; bytes],
            properties: BasicProperties::default(),
            mandatory: true,
        };
        let sizes =
            |mut messages: Vec<Outgoing>| in_flight(&mut messages).map(|some| some.len()).collect::<Vec<_>>();
        assert_eq!(sizes(vec![]), Vec::<usize>::new());
        assert_eq!(sizes(vec![of(1); 2_500]), [1_000, 1_000, 500]);
        assert_eq!(sizes(vec![of(3 << 20), of(1 << 20), of(9 << 20), of(9 << 20), of(1)]), [2, 1, 1, 1]);
    }
}

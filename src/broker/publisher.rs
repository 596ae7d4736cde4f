//! Publishing that counts: every message confirmed, none lost in silence.

use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::time::timeout;

use super::{Broker, BrokerError, Link, last_first, together_in_order};

/// One message to publish.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Routing key on the shop's exchange.
    pub key: String,
    /// Body.
    pub body: Vec<u8>,
    /// Properties; the publisher makes every message persistent.
    pub properties: BasicProperties,
    /// Whether the message must reach a queue. Our own wakes must; an event goes to whoever has subscribed, if any.
    pub mandatory: bool,
}

/// A channel of its own connection, in confirm mode.
///
/// A broker that blocks publishers (an alarm) blocks the whole connection, acks included, so nothing else uses it.
#[derive(Debug)]
pub struct Publisher {
    connection: Link,
    channel: Channel,
    exchange: String,
    timeout: Duration,
}

/// Messages whose confirms are awaited together, and their bytes, which the library copies; bounds memory, and what one
/// timeout is for.
const IN_FLIGHT: usize = 1_000;
const BYTES_IN_FLIGHT: usize = 4 * 1024 * 1024;

/// Parts of the messages that are in flight together, in order.
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
    /// As [`Broker::connect`] and [`Broker::declare`].
    pub async fn connect(broker: &Broker, purpose: &str) -> Result<Self, BrokerError> {
        let connection = broker.connect(&format!("{purpose} publisher")).await?;
        broker.declare(&connection).await?;
        let channel = broker.channel(&connection).await?;
        // Without it the client resolves every confirm at once, as "not requested".
        broker.bounded("confirm.select", channel.confirm_select(ConfirmSelectOptions::default())).await?;
        Ok(Self { connection, channel, exchange: broker.topology.exchange.clone(), timeout: broker.timeout })
    }

    /// Publishes the messages in order and waits until the broker has taken responsibility for each.
    ///
    /// While the broker blocks publishers (a memory or disk alarm) it waits for as long as that lasts: a new connection
    /// would be blocked as well, and this one could not even be closed.
    ///
    /// # Errors
    /// When one was refused, could not be routed, or was not confirmed in time. What became of the others is unknown
    /// then: the caller keeps its source (an outbox row, an unacknowledged message) and publishes all of them again,
    /// with a new publisher.
    pub async fn publish(&self, mut messages: Vec<Outgoing>) -> Result<(), BrokerError> {
        for some in in_flight(&mut messages) {
            let mut publishing = std::pin::pin!(self.publish_some(some));
            loop {
                let status = self.connection.status();
                match timeout(self.timeout, &mut publishing).await {
                    Ok(answer) => break answer?,
                    Err(_) if status.blocked() && status.connected() => {
                        tracing::warn!("the broker blocks publishers: a memory or disk alarm is on; waiting");
                    }
                    Err(_) => {
                        let (doing, after) = ("publishing".to_owned(), self.timeout);
                        return Err(BrokerError::Timeout { doing, after, blocked: false });
                    }
                }
            }
        }
        Ok(())
    }

    async fn publish_some(&self, messages: &mut [Outgoing]) -> Result<(), BrokerError> {
        let sends = messages.iter_mut().map(|message| {
            let options = BasicPublishOptions { mandatory: message.mandatory, immediate: false };
            let properties = std::mem::take(&mut message.properties).with_delivery_mode(PERSISTENT);
            let (exchange, key) = (self.exchange.as_str().into(), message.key.as_str().into());
            self.channel.basic_publish(exchange, key, options, &message.body, properties)
        });
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

    /// Closes the connection; what was confirmed stays.
    pub async fn close(self) {
        super::close(&self.connection).await;
    }
}

#[cfg(test)]
mod tests {
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

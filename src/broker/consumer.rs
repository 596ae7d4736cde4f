//! Consumers: a prefetch limit, and cancelling without redeliveries.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::Fuse;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, Consumer};

use super::{Broker, BrokerError};

/// Deliveries until the broker or Overdue ends the consumer. Fused, because lapin reports the end once and stays silent
/// after it: a caller that takes everything that has arrived may see the end there, and must see it again on its next poll.
pub type Deliveries = Fuse<Consumer>;

/// How long no delivery must have come before a consumer is cancelled, unless its prefetch is full and none can come.
/// Nothing is acknowledged meanwhile. Reason: a quorum queue counts messages on their way to a consumer that is being
/// cancelled as delivered, and redelivers them to the next one. A busy broker needs the time to answer the last
/// acknowledgements with more deliveries.
pub const QUIET: Duration = Duration::from_millis(250);
/// The consumer is cancelled after this time in any case: a thin stream is never quiet, and little of it is on its way.
pub const QUIET_AT_LAST: Duration = Duration::from_secs(1);

const _: () = assert!(QUIET.as_millis() < QUIET_AT_LAST.as_millis());

impl Broker {
    /// Cancels a consumer. Messages that were delivered before remain in the stream, followed by its end.
    ///
    /// # Errors
    /// When the channel is gone or the broker does not answer in time.
    pub async fn cancel(&self, channel: &Channel, consumer: &Deliveries) -> Result<(), BrokerError> {
        let cancel = channel.basic_cancel(consumer.get_ref().tag(), BasicCancelOptions::default());
        self.bounded("basic.cancel", cancel).await
    }

    /// Opens a channel with a bound on unacknowledged messages, and a consumer on it.
    ///
    /// # Errors
    /// When the queue does not exist, may not be read, or the broker does not answer.
    pub async fn consume(
        &self,
        connection: &Connection,
        queue: &str,
        prefetch: u16,
    ) -> Result<(Channel, Deliveries), BrokerError> {
        let channel = self.channel(connection).await?;
        // Before consuming: without a prefetch limit the broker would send the whole queue.
        self.bounded("basic.qos", channel.basic_qos(prefetch, BasicQosOptions::default())).await?;
        let consume = channel.basic_consume(
            queue.into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let consumer = self.bounded(&format!("consuming from {queue}"), consume).await?;
        Ok((channel, consumer.fuse()))
    }
}

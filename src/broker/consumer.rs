//! Consuming: a bound on what the broker sends ahead, and batches of what has arrived.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::Fuse;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, Consumer};

use super::{Broker, BrokerError};

/// Deliveries, until the server or we end them. Fused, because lapin says the end once and is silent forever after: who
/// takes what has arrived in one go may meet the end there, and must meet it again at the next look.
pub type Deliveries = Fuse<Consumer>;

/// A quorum queue counts what is on its way to a consumer that is being cancelled as delivered, and gives it to the next
/// one as a redelivery. So before cancelling, nothing is acknowledged until no more can come, because the prefetch is full,
/// or until no more comes: this long, because a busy broker takes its time to answer the last acknowledgements with more.
pub const QUIET: Duration = Duration::from_millis(250);
/// But cancelled it is after this time: a thin stream is never quiet, and little of it is on its way.
pub const QUIET_AT_LAST: Duration = Duration::from_secs(1);

const _: () = assert!(QUIET.as_millis() < QUIET_AT_LAST.as_millis());

impl Broker {
    /// Ends a consumer of ours; what was delivered before is still in the stream, and then comes its end.
    ///
    /// # Errors
    /// When the broker does not answer.
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
        // Before consuming: without it the broker would send everything it has.
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

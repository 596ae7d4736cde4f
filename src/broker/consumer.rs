//! Consuming: a bound on what the broker sends ahead, and batches of what has arrived.

use futures_util::StreamExt;
use futures_util::stream::Fuse;
use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, Consumer};

use super::{Broker, BrokerError};

/// Deliveries, until the server or we end them. Fused, because lapin says the end once and is silent for ever after: who
/// takes what has arrived in one go may meet the end there, and must meet it again at the next look.
pub type Deliveries = Fuse<Consumer>;

impl Broker {
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

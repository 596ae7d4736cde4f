//! Consuming: a bound on what the broker sends ahead, and batches of what has arrived.

use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, Consumer};

use super::{Broker, BrokerError};

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
    ) -> Result<(Channel, Consumer), BrokerError> {
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
        Ok((channel, consumer))
    }
}

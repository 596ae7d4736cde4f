//! Declares the topology; idempotent, and safe beside pods that do the same.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};

use super::{Argument, QueueSpec, Topology};
use crate::broker::BrokerError;

/// Declares exchange, queues and bindings in the safe order.
///
/// # Errors
/// When something exists with other arguments ([`BrokerError::Mismatch`]) or the user may not configure
/// ([`BrokerError::Denied`]); both name the thing.
pub async fn declare(channel: &Channel, topology: &Topology) -> Result<(), BrokerError> {
    let exchange = topology.exchange.as_str();
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel
        .exchange_declare(exchange.into(), ExchangeKind::Topic, durable, FieldTable::default())
        .await
        .map_err(|source| BrokerError::while_declaring(format!("declaring exchange {exchange}"), source))?;
    for queue in &topology.queues {
        let QueueSpec { name, key, .. } = queue;
        channel
            .queue_declare(name.as_str().into(), QueueDeclareOptions::durable(), arguments(queue))
            .await
            .map_err(|source| BrokerError::while_declaring(format!("declaring queue {name}"), source))?;
        channel
            .queue_bind(
                name.as_str().into(),
                exchange.into(),
                key.as_str().into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await
            .map_err(|source| {
                BrokerError::while_declaring(format!("binding queue {name} to {exchange}"), source)
            })?;
    }
    Ok(())
}

fn arguments(queue: &QueueSpec) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in &queue.arguments {
        let value = match value {
            Argument::Text(text) => AMQPValue::LongString(text.as_str().into()),
            Argument::Number(number) => AMQPValue::LongLongInt(*number),
        };
        table.insert((*name).into(), value);
    }
    table
}

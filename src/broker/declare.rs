//! Declares the topology; idempotent, and safe beside pods that do the same.

use std::time::Duration;

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};
use tokio::time::timeout;

use super::BrokerError;
use crate::topology::{Argument, QueueSpec, Topology};

/// Declares exchanges, queues and bindings in the safe order.
///
/// Each step has its own timeout: all of them together take long on a slow broker, while on a node that has lost its cluster
/// the first step never ends, and the session should try another node.
///
/// # Errors
/// [`BrokerError::Mismatch`] when something exists with other arguments and [`BrokerError::Denied`] when the user may not
/// configure it (both name the object), [`BrokerError::QueueLimit`], or [`BrokerError::Timeout`] of a step.
pub async fn declare(channel: &Channel, topology: &Topology, limit: Duration) -> Result<(), BrokerError> {
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    for exchange in topology.exchanges() {
        let none = FieldTable::default();
        let declare = channel.exchange_declare(exchange.into(), ExchangeKind::Topic, durable, none);
        step(limit, format!("declaring exchange {exchange}"), declare).await?;
    }
    let exchange = topology.exchange.as_str();
    for queue in &topology.queues {
        let QueueSpec { name, key, .. } = queue;
        let (options, arguments) = (QueueDeclareOptions::durable(), arguments(queue));
        let declare = channel.queue_declare(name.as_str().into(), options, arguments);
        step(limit, format!("declaring queue {name}"), declare).await?;
        let (options, none) = (QueueBindOptions::default(), FieldTable::default());
        let bind =
            channel.queue_bind(name.as_str().into(), exchange.into(), key.as_str().into(), options, none);
        step(limit, format!("binding queue {name} to {exchange}"), bind).await?;
    }
    Ok(())
}

async fn step<T>(
    limit: Duration,
    doing: String,
    call: impl Future<Output = lapin::Result<T>>,
) -> Result<T, BrokerError> {
    match timeout(limit, call).await {
        Ok(answer) => answer.map_err(|source| BrokerError::while_declaring(doing, source)),
        Err(_) => Err(BrokerError::Timeout { doing, after: limit }),
    }
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

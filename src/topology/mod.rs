//! Exchanges, queues and bindings: the single source for declare, verify and export.

pub mod export;
pub mod live;
pub mod verify;

use crate::lanes::{Lane, Lanes};
use crate::wire::keys::{KEY_DELAY, KEY_PARKED, KEY_PROCESS};

/// How many redeliveries of a message the broker allows: in practice no limit.
///
/// Without the argument, RabbitMQ 4 drops or dead-letters a message after 20 redeliveries, which a few pod crashes reach
/// for orders that did not cause them. A negative number means "unlimited" on 4, but zero on 3.x.
const DELIVERY_LIMIT: i64 = 1_000_000_000;

/// The names of one shop's exchanges and queues.
#[derive(Clone, Debug)]
pub struct Names {
    prefix: String,
}

impl Names {
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// The exchange of Overdue's own messages: wakes, parked messages, and order-created messages of services.
    #[must_use]
    pub fn exchange(&self) -> String {
        format!("{}order.exchange", self.prefix)
    }

    /// The events exchange. Other services bind queues of their own to it; Overdue binds none.
    #[must_use]
    pub fn events(&self) -> String {
        format!("{}order.events", self.prefix)
    }

    /// The queue in which services' order-created messages wait for a pod.
    #[must_use]
    pub fn intake(&self) -> String {
        format!("{}order.delay.queue", self.prefix)
    }

    /// The queue in which wakes wait for a pod.
    #[must_use]
    pub fn process(&self) -> String {
        format!("{}order.process.queue", self.prefix)
    }

    /// The queue in which messages wait for a person.
    #[must_use]
    pub fn parked(&self) -> String {
        format!("{}order.parked.queue", self.prefix)
    }

    /// A delay lane's queue.
    #[must_use]
    pub fn lane(&self, lane: &Lane) -> String {
        format!("{}order.delay.{lane}.queue", self.prefix)
    }

    /// What the names of subscribers' queues and exchanges begin with.
    #[must_use]
    pub fn subscribers(&self) -> String {
        format!("{}subscriber.", self.prefix)
    }

    /// A broker user of this shop.
    #[must_use]
    pub fn user(&self, part: &str) -> String {
        format!("{}overdue-{part}", self.prefix)
    }

    /// What every queue name of this shop begins with.
    #[must_use]
    pub fn stem(&self) -> String {
        format!("{}order.", self.prefix)
    }
}

/// The value of a queue argument.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(untagged)]
pub enum Argument {
    Text(String),
    Number(i64),
}

/// One durable quorum queue with its binding to the exchange.
#[derive(Clone, Debug)]
pub struct QueueSpec {
    pub name: String,
    /// The routing key of its binding.
    pub key: String,
    /// In the order in which the management UI shows them.
    pub arguments: Vec<(&'static str, Argument)>,
}

impl QueueSpec {
    /// Whether wakes wait in this queue: true for the process queue and the lanes.
    #[must_use]
    pub fn carries_wakes(&self) -> bool {
        self.key != KEY_PARKED && self.key != KEY_DELAY
    }
}

/// Everything that must exist in the broker.
#[derive(Clone, Debug)]
pub struct Topology {
    /// The durable topic exchange of Overdue's own messages.
    pub exchange: String,
    /// The durable topic exchange of the events.
    pub events: String,
    /// The queues in a safe order of declaration: a dead-letter target always before its source, because a message whose
    /// dead-letter target is missing stops the whole lane.
    pub queues: Vec<QueueSpec>,
}

impl Topology {
    /// The topology for these lanes.
    #[must_use]
    pub fn new(names: &Names, lanes: &Lanes) -> Self {
        let exchange = names.exchange();
        let queue = |name: String, key: String, dead_letter_key: Option<&str>| {
            let mut arguments = vec![
                ("x-queue-type", Argument::Text("quorum".to_owned())),
                ("x-delivery-limit", Argument::Number(DELIVERY_LIMIT)),
            ];
            if let Some(target) = dead_letter_key {
                arguments.extend([
                    ("x-dead-letter-exchange", Argument::Text(exchange.clone())),
                    ("x-dead-letter-routing-key", Argument::Text(target.to_owned())),
                    ("x-dead-letter-strategy", Argument::Text("at-least-once".to_owned())),
                    // Required by at-least-once: with drop-head the broker silently falls back to at-most-once.
                    ("x-overflow", Argument::Text("reject-publish".to_owned())),
                ]);
            }
            QueueSpec { name, key, arguments }
        };
        let mut queues = vec![
            queue(names.parked(), KEY_PARKED.to_owned(), None),
            queue(names.process(), KEY_PROCESS.to_owned(), Some(KEY_PARKED)),
        ];
        queues.extend(
            lanes.as_slice().iter().map(|lane| queue(names.lane(lane), lane.key(), Some(KEY_PROCESS))),
        );
        // Services give the delay as the message's expiration, so a message may expire while it waits here for a pod.
        // It is then due, and goes to the process queue, as it would from a lane.
        queues.push(queue(names.intake(), KEY_DELAY.to_owned(), Some(KEY_PROCESS)));
        Self { exchange, events: names.events(), queues }
    }

    #[must_use]
    pub fn exchanges(&self) -> [&str; 2] {
        [&self.exchange, &self.events]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_dead_letter_target_is_declared_before_its_source() {
        let lanes = Lanes::new("2s,15m", Duration::from_millis(250), Duration::ZERO).expect("lanes");
        let topology = Topology::new(&Names::new("berlin."), &lanes);
        for (at, queue) in topology.queues.iter().enumerate() {
            let target = queue.arguments.iter().find(|(name, _)| *name == "x-dead-letter-routing-key");
            let Some((_, Argument::Text(key))) = target else {
                continue;
            };
            let declared = topology.queues[..at].iter().any(|earlier| earlier.key == *key);
            assert!(declared, "{} dead-letters to {key}, which is not declared before it", queue.name);
        }
        let names: Vec<_> = topology.queues.iter().map(|queue| queue.name.as_str()).collect();
        assert!(names.contains(&"berlin.order.delay.15m.queue"), "{names:?}");
    }
}

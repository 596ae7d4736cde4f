//! Exchanges, queues and bindings: the one truth, from which declare, verify and export are made.

pub mod export;
pub mod live;
pub mod verify;

use crate::lanes::{Lane, Lanes};
use crate::wire::keys::{KEY_DELAY, KEY_PARKED, KEY_PROCESS};

/// How often a message may be redelivered before the broker gives up on it: never, in practice.
///
/// Without the argument, RabbitMQ 4 drops or dead-letters after 20, which some pod crashes reach for innocent orders;
/// a negative number, "unlimited" on 4, means zero on 3.x.
const DELIVERY_LIMIT: i64 = 1_000_000_000;

/// The names of one shop's exchanges and queues.
#[derive(Clone, Debug)]
pub struct Names {
    prefix: String,
}

impl Names {
    /// Names with this prefix.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// The exchange of Overdue's own messages: wakes, parked messages, and what services announce.
    #[must_use]
    pub fn exchange(&self) -> String {
        format!("{}order.exchange", self.prefix)
    }

    /// The exchange of the events. Other services bind queues of their own to it, and nothing of ours.
    #[must_use]
    pub fn events(&self) -> String {
        format!("{}order.events", self.prefix)
    }

    /// Where services' order-created messages wait for a pod.
    #[must_use]
    pub fn intake(&self) -> String {
        format!("{}order.delay.queue", self.prefix)
    }

    /// Where wakes wait for a pod.
    #[must_use]
    pub fn process(&self) -> String {
        format!("{}order.process.queue", self.prefix)
    }

    /// Where messages wait for a person.
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
    /// A string.
    Text(String),
    /// A number.
    Number(i64),
}

/// One durable quorum queue with its binding to the exchange.
#[derive(Clone, Debug)]
pub struct QueueSpec {
    /// Its name.
    pub name: String,
    /// The key by which the exchange routes to it.
    pub key: String,
    /// Its arguments, in the order in which the management UI shows them.
    pub arguments: Vec<(&'static str, Argument)>,
}

impl QueueSpec {
    /// Whether wakes wait in it: the process queue and the lanes.
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
    /// The queues in a safe order of declaration: a dead letter's target always before its source, because messages
    /// that expire towards a queue that is not there stop the whole lane.
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
                    // at-least-once needs it; with drop-head the broker silently falls back to at-most-once.
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
        // Services give the delay as the message's expiration, so a message may expire while it waits here for a pod:
        // then it is due, and belongs where a lane would have brought it.
        queues.push(queue(names.intake(), KEY_DELAY.to_owned(), Some(KEY_PROCESS)));
        Self { exchange, events: names.events(), queues }
    }

    /// Both exchanges.
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

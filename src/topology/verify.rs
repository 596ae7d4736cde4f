//! Compares a live broker with the code, and names every difference with its remedy.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::management::{Management, ManagementError};
use super::{Argument, Names, Topology};

/// One difference between the broker and the code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The exchange or queue.
    pub name: String,
    /// What is different.
    pub problem: String,
    /// What to do about it.
    pub remedy: &'static str,
}

/// What a broker has, as its management API says it.
#[derive(Debug, Default, Deserialize)]
pub struct Live {
    exchanges: Vec<LiveExchange>,
    queues: Vec<LiveQueue>,
    bindings: Vec<LiveBinding>,
}

#[derive(Debug, Deserialize)]
struct LiveExchange {
    name: String,
    r#type: String,
    durable: bool,
}

#[derive(Debug, Deserialize)]
struct LiveQueue {
    name: String,
    durable: bool,
    arguments: BTreeMap<String, Value>,
    policy: Option<String>,
    effective_policy_definition: Option<BTreeMap<String, Value>>,
}

#[derive(Debug, Deserialize)]
struct LiveBinding {
    source: String,
    destination: String,
    routing_key: String,
}

const DECLARE: &str = "run `overdue topology declare`";
const RECREATE: &str = "arguments cannot be changed: stop the pods, let the queue run empty or move its messages, delete it, and run `overdue topology declare`";
const RECREATE_EXCHANGE: &str = "an exchange cannot be changed: stop the pods, delete it, run `overdue topology declare`, and let whoever has bound queues to it bind them again";
const EXTRA_QUEUE: &str = "a lane that is no longer configured still delivers; when it is empty, delete it, or add its window to `lanes`";
const EXTRA_BINDING: &str =
    "remove the binding in the management UI: it brings messages here that do not belong";
const POLICY: &str = "exempt this queue from the policy: it overrides what Overdue relies on";

/// Policies that would make messages vanish, expire or turn elsewhere.
const HARMFUL_POLICY: [&str; 9] = [
    "message-ttl",
    "expires",
    "max-length",
    "max-length-bytes",
    "overflow",
    "dead-letter-exchange",
    "dead-letter-routing-key",
    "dead-letter-strategy",
    "delivery-limit",
];

/// Every difference; none means that the broker is as the code wants it.
///
/// # Errors
/// When the management API cannot be asked. Blocks: run it on a blocking thread.
pub fn verify(
    management: &Management,
    names: &Names,
    topology: &Topology,
) -> Result<Vec<Difference>, ManagementError> {
    let live = Live {
        exchanges: management.list("exchanges")?,
        queues: management.list("queues")?,
        bindings: management.list("bindings")?,
    };
    Ok(differences(&live, names, topology))
}

/// Every difference between what a broker has and the code.
#[must_use]
pub fn differences(live: &Live, names: &Names, topology: &Topology) -> Vec<Difference> {
    let Live { exchanges, queues, bindings } = live;
    let mut found = Findings::default();
    for exchange in topology.exchanges() {
        found.exchange(exchanges, exchange);
    }
    for queue in &topology.queues {
        let Some(live) = queues.iter().find(|live| live.name == queue.name) else {
            found.add(&queue.name, "the queue is missing".to_owned(), DECLARE);
            continue;
        };
        found.arguments(live, &queue.arguments);
        let ours = bindings.iter().filter(|b| b.source == topology.exchange && b.destination == queue.name);
        let keys: Vec<_> = ours.map(|binding| binding.routing_key.as_str()).collect();
        if !keys.contains(&queue.key.as_str()) {
            found.add(
                &queue.name,
                format!("not bound to {} with key {}", topology.exchange, queue.key),
                DECLARE,
            );
        }
        for key in keys.iter().filter(|key| **key != queue.key) {
            found.add(&queue.name, format!("also bound with key {key}"), EXTRA_BINDING);
        }
    }
    let stem = names.stem();
    let ours = |name: &str| name.starts_with(&stem) && name.rsplit('.').next() == Some("queue");
    for live in queues.iter().filter(|live| ours(&live.name)) {
        if !topology.queues.iter().any(|queue| queue.name == live.name) {
            found.add(&live.name, "the queue is not one of the configured ones".to_owned(), EXTRA_QUEUE);
        }
    }
    found.0
}

#[derive(Default)]
struct Findings(Vec<Difference>);

impl Findings {
    fn add(&mut self, name: &str, problem: String, remedy: &'static str) {
        self.0.push(Difference { name: name.to_owned(), problem, remedy });
    }

    fn exchange(&mut self, exchanges: &[LiveExchange], name: &str) {
        match exchanges.iter().find(|live| live.name == name) {
            None => self.add(name, "the exchange is missing".to_owned(), DECLARE),
            Some(live) if live.r#type != "topic" || !live.durable => {
                let durable = if live.durable { "durable" } else { "transient" };
                self.add(
                    name,
                    format!("is a {durable} {} exchange, not a durable topic exchange", live.r#type),
                    RECREATE_EXCHANGE,
                );
            }
            Some(_) => {}
        }
    }

    fn arguments(&mut self, live: &LiveQueue, wanted: &[(&'static str, Argument)]) {
        if !live.durable {
            self.add(&live.name, "is not durable".to_owned(), RECREATE);
        }
        for (name, wanted) in wanted {
            let wanted = match wanted {
                Argument::Text(text) => Value::from(text.as_str()),
                Argument::Number(number) => Value::from(*number),
            };
            match live.arguments.get(*name) {
                Some(got) if *got == wanted => {}
                Some(got) => {
                    self.add(&live.name, format!("argument {name} is {got}, not {wanted}"), RECREATE);
                }
                None => {
                    self.add(
                        &live.name,
                        format!("argument {name} is missing; it must be {wanted}"),
                        RECREATE,
                    );
                }
            }
        }
        for (name, got) in &live.arguments {
            if !wanted.iter().any(|(wanted, _)| wanted == name) {
                self.add(
                    &live.name,
                    format!("has the argument {name} = {got}, which it must not have"),
                    RECREATE,
                );
            }
        }
        let policy = live.policy.as_deref().unwrap_or("(operator policy)");
        for (key, value) in live.effective_policy_definition.iter().flatten() {
            if HARMFUL_POLICY.contains(&key.as_str()) {
                self.add(&live.name, format!("the policy {policy} sets {key} = {value}"), POLICY);
            }
        }
    }
}

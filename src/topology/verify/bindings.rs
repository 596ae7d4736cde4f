//! Bindings: Overdue's own must exist, and no other binding may route messages in or copy Overdue's own messages out.

use super::super::live::{Live, LiveBinding, Part};
use super::{DECLARE, OTHER_USER, Topology};
use crate::finding::{Finding, Outcome, about};

const BINDING: &str = "binding";
const OTHERS: &str = "bindings of others";
const EXTRA: &str =
    "remove the binding in the management UI: it routes messages here that do not belong here";
const EVENTS_ARE_ELSEWHERE: &str = "bind it to the events exchange instead, and remove this binding";

pub(super) fn findings(live: &Live, topology: &Topology) -> Vec<Finding> {
    let hidden = |why: &str| vec![Finding::cannot_tell("bindings", "all of them", why, OTHER_USER)];
    let list = match &live.bindings {
        Part::Seen(list) => list,
        Part::Unseen(why) => return hidden(why),
    };
    let queues = match &live.queues {
        Part::Seen(queues) => Some(queues),
        Part::Unseen(_) => None,
    };
    if list.is_empty() && queues.is_some_and(|queues| !queues.is_empty()) {
        return hidden("the management API shows no binding, though every queue has one");
    }
    let mut found = Vec::new();
    for queue in &topology.queues {
        let (name, key) = (queue.name.as_str(), queue.key.as_str());
        // A missing queue is reported by `queues`; its missing binding adds nothing.
        if queues.is_some_and(|queues| !queues.iter().any(|live| live.name == name)) {
            continue;
        }
        let to_it = || list.iter().filter(|binding| binding.destination == name && !is_exchange(binding));
        let is_ours =
            |binding: &LiveBinding| binding.source == topology.exchange && binding.routing_key == key;
        let mut troubles = Vec::new();
        if !to_it().any(is_ours) {
            let problem = format!("not bound to {} with key {key}", topology.exchange);
            troubles.push(Outcome::differs(problem, DECLARE));
        }
        // The broker binds each queue to the default exchange, whose name is empty.
        let extra = to_it().filter(|binding| !binding.source.is_empty() && !is_ours(binding));
        troubles.extend(extra.map(|binding| extra_of(binding, topology)));
        found.extend(about(name, BINDING, troubles));
    }
    for exchange in topology.exchanges() {
        let mut troubles: Vec<_> = list
            .iter()
            .filter(|binding| binding.destination == exchange && is_exchange(binding))
            .map(|binding| extra_of(binding, topology))
            .collect();
        if exchange == topology.exchange {
            troubles.extend(foreign(list, topology));
        }
        found.extend(about(exchange, OTHERS, troubles));
    }
    found
}

fn is_exchange(binding: &LiveBinding) -> bool {
    binding.destination_type.as_deref() == Some("exchange")
}

fn extra_of(binding: &LiveBinding, topology: &Topology) -> Outcome {
    let (source, key) = (&binding.source, &binding.routing_key);
    let problem = if *source == topology.exchange {
        format!("also bound with key {key}")
    } else {
        format!("also bound to {source} with key {key}")
    };
    Outcome::differs(problem, EXTRA)
}

/// Foreign bindings to the exchange of Overdue's own messages.
fn foreign<'a>(list: &'a [LiveBinding], topology: &'a Topology) -> impl Iterator<Item = Outcome> + 'a {
    let ours = |binding: &LiveBinding| {
        topology.queues.iter().any(|queue| queue.name == binding.destination) && !is_exchange(binding)
    };
    let theirs = list.iter().filter(move |binding| binding.source == topology.exchange && !ours(binding));
    theirs.map(|LiveBinding { destination, routing_key, .. }| {
        let heard = topology.queues.iter().find(|queue| catches(routing_key, &queue.key));
        match heard {
            Some(queue) => Outcome::differs(
                format!(
                    "{destination} is bound to it with key {routing_key} and gets a copy of Overdue's own messages ({}): when it refuses one, the lanes are held up",
                    queue.key
                ),
                format!("remove that binding; for events, bind {destination} to {}", topology.events),
            ),
            None => Outcome::differs(
                format!("{destination} is bound to it with key {routing_key}; events are published to {}", topology.events),
                EVENTS_ARE_ELSEWHERE,
            ),
        }
    })
}

/// Whether a topic exchange routes a message with this key along a binding with this pattern: `*` stands for one word, `#`
/// for any number.
fn catches(pattern: &str, key: &str) -> bool {
    fn words(pattern: &[&str], key: &[&str]) -> bool {
        match (pattern.split_first(), key.split_first()) {
            (None, None) => true,
            (Some((&"#", rest)), _) => {
                words(rest, key) || key.split_first().is_some_and(|(_, later)| words(pattern, later))
            }
            (Some((&first, rest)), Some((&word, later))) => {
                (first == "*" || first == word) && words(rest, later)
            }
            (None, Some(_)) | (Some(_), None) => false,
        }
    }
    let (mut pattern, key): (Vec<_>, Vec<_>) = (pattern.split('.').collect(), key.split('.').collect());
    // Several `#` in a row match the same as one.
    pattern.dedup_by(|one, other| *one == "#" && *other == "#");
    words(&pattern, &key)
}

#[cfg(test)]
mod tests {
    use super::catches;

    #[test]
    fn a_binding_catches_what_a_topic_exchange_would_route_along_it() {
        for (pattern, key, caught) in [
            ("order.process", "order.process", true),
            ("order.*", "order.process", true),
            ("order.*", "order.delay.1s", false),
            ("order.#", "order.delay.1s", true),
            ("#", "order.parked", true),
            ("#.1s", "order.delay.1s", true),
            ("*.*.*", "order.delay.1s", true),
            ("*.*.*", "order.delay", false),
            ("order.#.#.process", "order.process", true),
            ("order.closed", "order.process", false),
            ("", "order.process", false),
        ] {
            assert_eq!(catches(pattern, key), caught, "{pattern} {key}");
        }
    }
}

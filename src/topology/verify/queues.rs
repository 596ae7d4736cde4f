//! The queues: arguments, policies, majority; and queues with Overdue's names that belong to no configured lane.

use serde_json::Value;

use super::super::live::{Live, LiveQueue, Part};
use super::super::{Argument, Names, QueueSpec};
use super::policies::{self, Kind};
use super::{DECLARE, NO_OTHER_QUEUE, OTHER_USER, RECREATE, Topology, extra_arguments, must_be, not_shown};
use crate::finding::{Finding, Outcome, about};

const ARGUMENTS: &str = "arguments";
const LEFT_OVER: &str = "a lane that is no longer configured still delivers; when it is empty, delete it, or add its window to `lanes`";
const NODES: &str =
    "start the cluster's other nodes; `rabbitmq-queues quorum_status` shows which are missing";
/// States of a queue that does not work.
const BROKEN: [&str; 5] = ["down", "minority", "crashed", "stopped", "terminated"];

pub(super) fn findings(live: &Live, names: &Names, topology: &Topology) -> Vec<Finding> {
    let list = match &live.queues {
        Part::Seen(list) => list,
        Part::Unseen(why) => {
            let hidden = |queue: &QueueSpec| Finding::cannot_tell(&queue.name, ARGUMENTS, why, OTHER_USER);
            return topology.queues.iter().map(hidden).collect();
        }
    };
    let mut found = Vec::new();
    for wanted in &topology.queues {
        let name = wanted.name.as_str();
        match list.iter().find(|live| live.name == name) {
            Some(queue) => {
                found.extend(about(name, ARGUMENTS, arguments(queue, wanted)));
                found.extend(about(name, "policies", policies::troubles(live, name, Kind::Queue)));
                found.extend(about(name, "majority", majority(queue)));
            }
            None if is_bound(live, name) => found.push(Finding::cannot_tell(
                name,
                ARGUMENTS,
                "the management API shows its bindings, but not the queue",
                OTHER_USER,
            )),
            None => found.push(Finding::differs(name, ARGUMENTS, "the queue is missing", DECLARE)),
        }
    }
    found.extend(left_over(list, names, topology));
    found
}

/// Whether a binding shows that the queue exists: every queue has one, if only to the default exchange.
fn is_bound(live: &Live, queue: &str) -> bool {
    let Part::Seen(bindings) = &live.bindings else { return false };
    bindings.iter().any(|binding| {
        binding.destination == queue && binding.destination_type.as_deref() != Some("exchange")
    })
}

fn arguments(live: &LiveQueue, wanted: &QueueSpec) -> Vec<Outcome> {
    let mut troubles = Vec::new();
    troubles.extend(must_be("durable", live.durable, true, "is not durable", RECREATE));
    let auto_delete = "goes away with its last consumer (auto-delete)";
    troubles.extend(must_be("auto_delete", live.auto_delete, false, auto_delete, RECREATE));
    let Some(got) = &live.arguments else {
        troubles.push(not_shown("arguments"));
        return troubles;
    };
    for (name, value) in &wanted.arguments {
        let value = match value {
            Argument::Text(text) => Value::from(text.as_str()),
            Argument::Number(number) => Value::from(*number),
        };
        match got.get(*name) {
            Some(got) if *got == value => {}
            Some(got) => {
                let problem = format!("argument {name} is {got}, not {value}");
                troubles.push(Outcome::differs(problem, RECREATE));
            }
            None => {
                let problem = format!("argument {name} is missing; it must be {value}");
                troubles.push(Outcome::differs(problem, RECREATE));
            }
        }
    }
    troubles.extend(extra_arguments(
        got,
        |name| wanted.arguments.iter().any(|(wanted, _)| *wanted == name),
        RECREATE,
    ));
    troubles
}

/// Whether a quorum queue works: more than half of its members run.
fn majority(live: &LiveQueue) -> Vec<Outcome> {
    let kind = live.arguments.as_ref().and_then(|arguments| arguments.get("x-queue-type"));
    if kind.is_some_and(|kind| kind != "quorum") {
        // The finding about its arguments reports the type.
        return Vec::new();
    }
    match &live.state {
        Some(state) if BROKEN.contains(&state.as_str()) => {
            return vec![Outcome::differs(format!("its state is {state}"), NODES)];
        }
        _ => {}
    }
    match (&live.members, &live.online) {
        (Some(members), Some(online)) if online.len() * 2 > members.len() => Vec::new(),
        (Some(members), Some(online)) => {
            let problem = format!("{} of its {} members run: no majority", online.len(), members.len());
            vec![Outcome::differs(problem, NODES)]
        }
        (None, _) => vec![not_shown("members")],
        (_, None) => vec![not_shown("online")],
    }
}

fn left_over(list: &[LiveQueue], names: &Names, topology: &Topology) -> Vec<Finding> {
    let stem = names.stem();
    let ours = |name: &str| name.starts_with(&stem) && name.rsplit('.').next() == Some("queue");
    let known = |name: &str| topology.queues.iter().any(|queue| queue.name == name);
    let unknown = list.iter().filter(|live| ours(&live.name) && !known(&live.name));
    let problem = "the queue is not one of the configured ones";
    let found: Vec<_> =
        unknown.map(|live| Finding::differs(&live.name, NO_OTHER_QUEUE, problem, LEFT_OVER)).collect();
    if found.is_empty() { vec![Finding::fine(&format!("{stem}*.queue"), NO_OTHER_QUEUE)] } else { found }
}

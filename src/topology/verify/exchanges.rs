//! The two exchanges: their properties, and the policies that change them.

use super::super::live::{Live, LiveExchange, Part};
use super::policies::{self, Kind};
use super::{DECLARE, OTHER_USER, RECREATE_EXCHANGE, Topology, extra_arguments, must_be, not_shown};
use crate::finding::{Finding, Outcome, about};

const EXISTENCE: &str = "kind and arguments";

pub(super) fn findings(live: &Live, topology: &Topology) -> Vec<Finding> {
    let list = match &live.exchanges {
        Part::Seen(list) => list,
        Part::Unseen(why) => {
            let hidden = |name| Finding::cannot_tell(name, EXISTENCE, why, OTHER_USER);
            return topology.exchanges().into_iter().map(hidden).collect();
        }
    };
    let one = |name| match list.iter().find(|live| live.name == name) {
        Some(exchange) => {
            let mut found = about(name, EXISTENCE, troubles(exchange));
            found.extend(about(name, "policies", policies::troubles(live, name, Kind::Exchange)));
            found
        }
        // Every vhost has exchanges that RabbitMQ made itself, so an empty list means that they cannot be seen.
        None if list.is_empty() => vec![Finding::cannot_tell(
            name,
            EXISTENCE,
            "the management API shows no exchange, not even RabbitMQ's own",
            OTHER_USER,
        )],
        None => vec![Finding::differs(name, EXISTENCE, "the exchange is missing", DECLARE)],
    };
    topology.exchanges().into_iter().flat_map(one).collect()
}

fn troubles(live: &LiveExchange) -> Vec<Outcome> {
    let mut troubles = Vec::new();
    match (live.r#type.as_deref(), live.durable) {
        (Some("topic"), Some(true)) => {}
        (Some(kind), Some(durable)) => {
            let durable = if durable { "durable" } else { "transient" };
            let problem = format!("is a {durable} {kind} exchange, not a durable topic exchange");
            troubles.push(Outcome::differs(problem, RECREATE_EXCHANGE));
        }
        (None, _) => troubles.push(not_shown("type")),
        (_, None) => troubles.push(not_shown("durable")),
    }
    let internal = "is internal: no client may publish to it";
    troubles.extend(must_be("internal", live.internal, false, internal, RECREATE_EXCHANGE));
    let auto_delete = "goes away with its last binding (auto-delete)";
    troubles.extend(must_be("auto_delete", live.auto_delete, false, auto_delete, RECREATE_EXCHANGE));
    match &live.arguments {
        Some(arguments) => troubles.extend(extra_arguments(arguments, |_| false, RECREATE_EXCHANGE)),
        None => troubles.push(not_shown("arguments")),
    }
    troubles
}

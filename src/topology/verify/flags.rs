//! RabbitMQ's version, and the feature flags without which RabbitMQ silently does less than the topology asks for.

use super::super::live::{Live, Part};
use super::OTHER_USER;
use crate::finding::{Finding, Outcome, about};

/// The first version that Overdue works with.
const OLDEST: (u32, u32) = (3, 10);

/// A flag, the first version in which it cannot be off, and what happens while it is off.
const NEEDED: [(&str, (u32, u32), &str); 2] = [
    ("quorum_queue", (3, 11), "is off: there are no quorum queues"),
    (
        "stream_queue",
        (3, 12),
        "is off: expired messages are dead-lettered at most once, so wakes are lost while their target cannot take them",
    ),
];
/// Measured on 3.10.8: existing queues notice the flag when their node restarts, not by a declaration or a policy.
const ENABLE: &str = "run `rabbitmqctl enable_feature_flag all` on one of the broker's nodes, then restart its nodes one after the other: existing queues notice the flag only at a restart";
const LOOK: &str = "this version shows them only to a user with the tag `administrator` (management_url); or look at `rabbitmqctl list_feature_flags name state`";
const PLACE: &str = "feature flags";

pub(super) fn version(live: &Live) -> Vec<Finding> {
    let trouble = match (&live.version, known(live)) {
        (Some(_), Some(version)) if version >= OLDEST => None,
        (Some(shown), Some(_)) => Some(Outcome::differs(
            format!("is {shown}, older than {}.{}", OLDEST.0, OLDEST.1),
            "upgrade RabbitMQ",
        )),
        (Some(shown), None) => {
            Some(Outcome::cannot_tell(format!("`{shown}` is not a version of RabbitMQ"), OTHER_USER))
        }
        (None, _) => Some(Outcome::cannot_tell("the management API does not show the version", OTHER_USER)),
    };
    about("RabbitMQ", "version", trouble.into_iter().collect())
}

pub(super) fn findings(live: &Live) -> Vec<Finding> {
    let one = |(flag, required, off): &(&str, (u32, u32), &str)| {
        about(PLACE, flag, trouble(live, flag, *required, off).into_iter().collect())
    };
    NEEDED.iter().flat_map(one).collect()
}

fn trouble(live: &Live, flag: &str, required: (u32, u32), off: &str) -> Option<Outcome> {
    let always_on = known(live).is_some_and(|version| version >= required);
    let list = match &live.feature_flags {
        Part::Seen(list) => list,
        Part::Unseen(_) if always_on => return None,
        Part::Unseen(why) => return Some(Outcome::cannot_tell(why, LOOK)),
    };
    let state = list.iter().find(|live| live.name == flag).map(|live| live.state.as_deref());
    match state {
        Some(Some("enabled")) => None,
        Some(Some("disabled" | "unavailable")) => Some(Outcome::differs(off, ENABLE)),
        Some(Some(state)) => Some(Outcome::cannot_tell(format!("its state is `{state}`"), LOOK)),
        // A later version no longer lists a flag that cannot be off.
        None if always_on => None,
        Some(None) => Some(Outcome::cannot_tell("the management API does not show its state", LOOK)),
        None => Some(Outcome::cannot_tell("the management API does not show it", LOOK)),
    }
}

/// Major and minor version.
fn known(live: &Live) -> Option<(u32, u32)> {
    let mut parts = live.version.as_deref()?.split(['.', '-', '+']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

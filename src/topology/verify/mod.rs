//! Compares a live broker with the code: every exchange, queue, binding, policy and feature flag that Overdue relies on.
//!
//! What the broker does not show is reported as "cannot tell", never as "fine".

mod bindings;
mod exchanges;
mod flags;
mod policies;
mod queues;
#[cfg(test)]
mod tests;

use super::live::{Live, Values};
use super::{Names, Topology};
use crate::finding::{Finding, Outcome};

/// The part that a finding names for a queue without a configured lane: such a queue is left over and harmless.
pub const NO_OTHER_QUEUE: &str = "no other queue of this name";

const DECLARE: &str = "run `overdue topology declare`";
const RECREATE: &str = "arguments cannot be changed: stop the pods, let the queue run empty or move its messages, delete it, and run `overdue topology declare`";
const RECREATE_EXCHANGE: &str = "an exchange cannot be changed: stop the pods, delete it, run `overdue topology declare`, and have other services bind their queues to it again";
const OTHER_USER: &str = "name a user in management_url (OVERDUE_MANAGEMENT_URL) that has the tag `monitoring` and access to the vhost";

/// Every finding about what a broker has.
#[must_use]
pub fn findings(live: &Live, names: &Names, topology: &Topology) -> Vec<Finding> {
    let mut found = flags::version(live);
    found.extend(flags::findings(live));
    found.extend(exchanges::findings(live, topology));
    found.extend(queues::findings(live, names, topology));
    found.extend(bindings::findings(live, topology));
    found
}

/// A field that the broker did not show.
fn not_shown(field: &str) -> Outcome {
    Outcome::cannot_tell(format!("the management API does not show `{field}`"), OTHER_USER)
}

/// A field that must have this value.
fn must_be(
    field: &str,
    shown: Option<bool>,
    wanted: bool,
    problem: &str,
    remedy: &'static str,
) -> Option<Outcome> {
    match shown {
        None => Some(not_shown(field)),
        Some(shown) if shown == wanted => None,
        Some(_) => Some(Outcome::differs(problem, remedy)),
    }
}

/// Arguments that are not wanted.
fn extra_arguments(got: &Values, wanted: impl Fn(&str) -> bool, remedy: &'static str) -> Vec<Outcome> {
    let extra = got.iter().filter(|(name, _)| !wanted(name));
    let problem = |(name, got)| {
        Outcome::differs(format!("has the argument {name} = {got}, which it must not have"), remedy)
    };
    extra.map(problem).collect()
}

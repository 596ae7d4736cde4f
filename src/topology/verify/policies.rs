//! Policies: which of them a broker applies, and which of these change what Overdue relies on.
//!
//! The configured policies are read, not their effect in the statistics, which may be seconds old or absent.

use fancy_regex::Regex;

use super::super::live::{Live, LivePolicy, Part};
use super::OTHER_USER;
use crate::finding::Outcome;

/// What a policy may apply to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Exchange,
    Queue,
}

const EXEMPT: &str = "exempt it from the policy, which overrides what Overdue relies on";

/// Keys that drop messages, make them expire, route them elsewhere, or bring in foreign ones.
const HARMFUL_TO_QUEUES: [&str; 12] = [
    "message-ttl",
    "expires",
    "max-length",
    "max-length-bytes",
    "overflow",
    "dead-letter-exchange",
    "dead-letter-routing-key",
    "dead-letter-strategy",
    "delivery-limit",
    "delayed-retry-type",
    "federation-upstream",
    "federation-upstream-set",
];
const HARMFUL_TO_EXCHANGES: [&str; 3] =
    ["alternate-exchange", "federation-upstream", "federation-upstream-set"];

/// What the policies change about this exchange or queue.
pub(super) fn troubles(live: &Live, name: &str, kind: Kind) -> Vec<Outcome> {
    let mut troubles = of(&live.policies, "policy", name, kind);
    // Operator policies do not apply to exchanges.
    if kind == Kind::Queue {
        troubles.extend(of(&live.operator_policies, "operator policy", name, kind));
    }
    troubles
}

fn of(policies: &Part<LivePolicy>, title: &str, name: &str, kind: Kind) -> Vec<Outcome> {
    let list = match policies {
        Part::Seen(list) => list,
        Part::Unseen(why) => return vec![Outcome::cannot_tell(why, OTHER_USER)],
    };
    let mut troubles = Vec::new();
    let mut applied: Vec<&LivePolicy> = Vec::new();
    for policy in list {
        match applies(policy, name, kind) {
            Some(true) => applied.push(policy),
            Some(false) => {}
            None => troubles.push(Outcome::cannot_tell(
                format!("whether the {title} {} applies cannot be told from its pattern and what it applies to", policy.name),
                "look it up in the management UI: it must set nothing about expiry, length or dead letters there",
            )),
        }
    }
    // The broker applies the matching policy with the highest priority; among equal priorities it may be any.
    let highest = applied.iter().map(|policy| policy.priority).max().flatten();
    for policy in applied.iter().filter(|policy| policy.priority.is_none() || policy.priority == highest) {
        let Some(definition) = &policy.definition else {
            troubles.push(Outcome::cannot_tell(
                format!("the management API does not show what the {title} {} sets", policy.name),
                OTHER_USER,
            ));
            continue;
        };
        for (key, value) in definition.iter().filter(|(key, _)| harmful(kind).contains(&key.as_str())) {
            let problem = format!("the {title} {} sets {key} = {value}", policy.name);
            troubles.push(Outcome::differs(problem, EXEMPT));
        }
    }
    troubles
}

fn harmful(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Exchange => &HARMFUL_TO_EXCHANGES,
        Kind::Queue => &HARMFUL_TO_QUEUES,
    }
}

/// Whether a policy applies to this exchange or quorum queue; `None` when that is unknown and the policy may be harmful.
fn applies(policy: &LivePolicy, name: &str, kind: Kind) -> Option<bool> {
    let sets = policy.definition.as_ref();
    if sets.is_some_and(|sets| !sets.keys().any(|key| harmful(kind).contains(&key.as_str()))) {
        // The priority of a harmless policy still matters: it may override a harmful one.
        return Some(matches(policy, name, kind).unwrap_or(false));
    }
    matches(policy, name, kind)
}

fn matches(policy: &LivePolicy, name: &str, kind: Kind) -> Option<bool> {
    // RabbitMQ's patterns are PCRE, and match anywhere in the name.
    let by_name = policy.pattern.as_deref().and_then(|pattern| Regex::new(pattern).ok()?.is_match(name).ok());
    let by_kind = match policy.apply_to.as_deref() {
        Some("all") => Some(true),
        Some("exchanges") => Some(kind == Kind::Exchange),
        Some("queues" | "quorum_queues") => Some(kind == Kind::Queue),
        Some("classic_queues" | "streams") => Some(false),
        Some(_) | None => None,
    };
    match (by_name, by_kind) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (Some(true), Some(true)) => Some(true),
        (None, _) | (_, None) => None,
    }
}

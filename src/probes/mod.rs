//! Probes: small messages that go through the delay lanes to show that the lanes deliver, and what follows from them.
//!
//! A queue expires messages only at its head, so a probe comes out when everything ahead of it has: at the latest the
//! lane's length after it was placed. A probe that is not back by then is behind messages that stay after their expiry.
//! Probes come back the same way as wakes, and the pod that takes one records it. They decide nothing about any order.

pub mod depth;
mod table;

use std::time::Duration;

use lapin::BasicProperties;

use crate::clock::DbTime;
use crate::config::Config;
use crate::wire::outgoing::Outgoing;

pub use table::{announce, confirmed, forget, of_another_shop, read, returned};

/// The `type` property of probes.
const PROBE_TYPE: &str = "overdue.probe";

/// Maximum probes in flight in a lane that delivers: a long lane gets one each eighth of its length, so that a blockage is
/// noticed after an eighth of its length and not after all of it.
const IN_FLIGHT: u32 = 8;

/// A stuck lane gets another probe when it has been stuck for twice as long, or after this time if that is sooner, but not
/// before the usual interval. Earlier probes may be lost (the queue was purged), and there must not be many of them.
const RETRY_AT_LEAST: Duration = Duration::from_secs(600);

/// A probe that the broker did not take is followed by another one after this time.
const RETRY_NOT_TAKEN: Duration = Duration::from_secs(5);

/// The message that goes through the lane with this routing key.
#[must_use]
pub fn message(key: String, token: &str, expiration: Duration) -> Outgoing {
    let properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_type(PROBE_TYPE.into())
        .with_expiration(expiration.as_millis().to_string().into());
    Outgoing { key, body: format!(r#"{{"probe":"{token}"}}"#).into_bytes(), properties, mandatory: true }
}

/// How late a probe may be before its lane counts as stuck: 10 s, less where probes follow each other faster, and not before the
/// sweep takes orders.
#[must_use]
pub fn grace(config: &Config) -> Duration {
    const LEAST: Duration = Duration::from_secs(1);
    const MOST: Duration = Duration::from_secs(10);
    config.sweep_grace.max(config.probe_every.clamp(LEAST, MOST))
}

/// The probe's token, if this is a message of ours or one that looks exactly like it.
#[must_use]
pub fn token(body: &[u8], kind: Option<&str>) -> Option<String> {
    if kind != Some(PROBE_TYPE) {
        return None;
    }
    let token = body.strip_prefix(br#"{"probe":""#)?.strip_suffix(br#""}"#)?;
    let fine = token.len() <= 80 && token.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-');
    if fine { String::from_utf8(token.to_vec()).ok() } else { None }
}

/// What is known of one probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Its place in the order of announcing.
    pub number: i64,
    /// The lane's queue.
    pub queue: String,
    /// When it was about to be published.
    pub announced_at: DbTime,
    /// Until when it must be back; `None` while the broker has not confirmed it.
    pub due_at: Option<DbTime>,
    /// When a pod took it from the process queue.
    pub returned_at: Option<DbTime>,
}

/// Whether a lane delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Its last probe came back.
    Well { at: DbTime },
    /// Its first probe is in flight.
    Waiting {
        /// When the probe must be back.
        until: DbTime,
    },
    /// Messages stay in it after their expiry.
    Stuck {
        /// When the oldest probe in flight should have been back.
        since: DbTime,
    },
    /// The broker accepts no probe for it: no route leads into it.
    CutOff {
        /// When the first probe that was not accepted was announced.
        since: DbTime,
    },
    /// No probe has been placed yet.
    Unknown,
}

/// Whether a lane delivers, judged by its probes.
#[must_use]
pub fn health(probes: &[&Probe], now: DbTime, grace: Duration) -> Health {
    let due = away(probes).filter_map(|probe| probe.due_at).min();
    // A single one may come from a pod that died between announcing and placing it.
    if let [first, _, ..] = not_taken(probes)[..]
        && first.announced_at.plus(grace) < now
    {
        return Health::CutOff { since: first.announced_at };
    }
    match (due, last_returned(probes).and_then(|probe| probe.returned_at)) {
        (Some(since), _) if since.plus(grace) < now => Health::Stuck { since },
        (_, Some(at)) => Health::Well { at },
        (Some(until), None) => Health::Waiting { until },
        (None, None) => Health::Unknown,
    }
}

/// When a lane gets its next probe.
#[must_use]
pub fn next_at(probes: &[&Probe], length: Duration, every: Duration, now: DbTime) -> DbTime {
    let Some(last) = probes.iter().map(|probe| probe.announced_at).max() else {
        return now;
    };
    // Measured when the last probe was announced: measured now, it would grow as fast as the wait.
    let overdue = away(probes).filter_map(|probe| probe.due_at).min().map(|due| last.since(due));
    let wait = match overdue {
        None if !not_taken(probes).is_empty() => every.min(RETRY_NOT_TAKEN),
        None => every,
        Some(overdue) => every.max(length / IN_FLIGHT).max(overdue.min(RETRY_AT_LEAST)),
    };
    last.plus(wait)
}

fn last_returned<'a>(probes: &[&'a Probe]) -> Option<&'a Probe> {
    probes.iter().filter(|probe| probe.returned_at.is_some()).max_by_key(|probe| probe.number).copied()
}

/// The probes in flight. A probe that a later one has overtaken is lost, because messages leave a lane in order.
fn away<'a>(probes: &[&'a Probe]) -> impl Iterator<Item = &'a Probe> {
    let last = last_returned(probes).map_or(0, |probe| probe.number);
    probes.iter().copied().filter(move |probe| probe.returned_at.is_none() && probe.number > last)
}

/// Whether the broker has accepted the last probe.
#[must_use]
pub fn is_taken(probes: &[&Probe]) -> bool {
    not_taken(probes).is_empty()
}

/// The probes after the last one that the broker accepted: announced, and never placed.
fn not_taken<'a>(probes: &[&'a Probe]) -> Vec<&'a Probe> {
    let placed = probes.iter().filter(|probe| probe.due_at.is_some()).map(|probe| probe.number).max();
    let mut last: Vec<_> = probes.iter().copied().filter(|probe| Some(probe.number) > placed).collect();
    last.sort_by_key(|probe| probe.number);
    last
}

/// Whether a token names another shop. A genuine token begins with a shop; one without a shop was forged.
fn is_of_another_shop(token: &str, shop: &str) -> bool {
    token.split_once('-').is_some_and(|(of, _)| of.len() == shop.len() && of != shop)
}

/// Probes that tell nothing more: those before the last one that came back, and those that the broker did not accept, except
/// the first, which shows since when, and the last.
fn forgettable(probes: &[&Probe]) -> Vec<i64> {
    let last = last_returned(probes).map_or(0, |probe| probe.number);
    let old = probes.iter().map(|probe| probe.number).filter(|number| *number < last);
    let between = match not_taken(probes)[..] {
        [_, ref between @ .., _] => between.iter().map(|probe| probe.number).collect(),
        _ => Vec::new(),
    };
    old.chain(between).collect()
}

#[cfg(test)]
mod tests;

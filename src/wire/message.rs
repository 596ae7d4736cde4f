//! Reads messages: every body form of the contract, and Overdue's own wakes, become a list of orders to look at.
//!
//! A message is a hint and may come from anywhere, so it is trusted no further than "look at this order then". A message
//! that cannot be understood is [`Malformed`], with a reason that tells the sender what to change.

use std::time::Duration;

use serde_json::{Map, Value};

use super::dialects::{content, delay, frameworks, ids, java, json, times};
use super::envelope::Envelope;
use super::malformed::{Malformed, not_json, shape, shorten, wrong};
use super::wake::{MAX_ORDERS_PER_WAKE, WAKE_TYPE, Wake};
use crate::clock::DbTime;

/// The context in which a body is read: the time, its origin, and what the operator allows.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// On the database's clock.
    pub now: DbTime,
    /// How far ahead a deadline may lie.
    pub max_window: Duration,
    /// Whether a message without deadline and delay means "look now": true where the broker has already removed the
    /// delay, as it does when a message expires from a queue.
    pub delay_is_over: bool,
    /// Whether the message comes from a service: services may not use the form of Overdue's own wakes.
    pub from_service: bool,
}

/// No order-created message needs more; larger bodies are parked unread.
pub const MAX_BODY: usize = 256 * 1024;

/// The most that the setting `max_attempts` may be.
pub const MOST_ATTEMPTS: u32 = 1_000;

/// 3000-01-01T00:00:00Z in microseconds since 1970.
const YEAR_3000: i64 = 32_503_680_000_000_000;

/// Reads a message.
///
/// # Errors
/// A [`Malformed`] that tells the sender what is wrong.
pub fn read(body: &[u8], envelope: Envelope<'_>, reading: Reading) -> Result<Vec<Wake>, Malformed> {
    if body.len() > MAX_BODY {
        return Err(Malformed::TooLarge { bytes: body.len(), most: MAX_BODY });
    }
    if let Some(why) = envelope.unreadable {
        return Err(Malformed::Properties(shorten(why)));
    }
    match envelope.kind {
        Some(WAKE_TYPE) => return read_wake(body, reading),
        Some(frameworks::AMQP_1_0_TYPE) => return Err(frameworks::amqp_1_0()),
        _ => content::check(envelope)?,
    }
    let value = if java::is_java(body) { java::value(body)? } else { json::value(body)? };
    match value {
        Value::Object(object) if object.contains_key("order_id") => read_order(&object, envelope, reading),
        Value::Object(object) if object.contains_key("wake") => read_wake(body, reading),
        Value::Object(object) if object.contains_key("specversion") => {
            read_cloud_event(&object, envelope, reading)
        }
        Value::Object(object) => read_order(&object, envelope, reading),
        other => match ids::order_id(&other) {
            Ok(order_id) => Ok(vec![Wake {
                due: due_by_delay(envelope, reading)?,
                order_id,
                attempt: 0,
                announced: true,
            }]),
            Err(wrong_number) if other.is_number() => Err(wrong_number),
            Err(_) => Err(frameworks::of_value(&other).unwrap_or(Malformed::Shape(shape(&other)))),
        },
    }
}

#[derive(serde::Deserialize)]
struct WakeBody {
    wake: Vec<WakeItem>,
}

/// Order, due time in microseconds since 1970, attempt, and 1 where a service's message named the order.
#[derive(serde::Deserialize)]
struct WakeItem(i64, i64, u32, #[serde(default)] u8);

fn read_wake(body: &[u8], reading: Reading) -> Result<Vec<Wake>, Malformed> {
    // One such message could name a thousand orders that do not exist, each of which would be retried for minutes.
    if reading.from_service {
        return Err(Malformed::OwnForm);
    }
    let WakeBody { wake } = serde_json::from_slice(body).map_err(not_json)?;
    if wake.is_empty() || wake.len() > MAX_ORDERS_PER_WAKE {
        return Err(Malformed::WakeSize(wake.len()));
    }
    wake.into_iter()
        .map(|WakeItem(order_id, due, attempt, announced)| {
            let expected = "a whole number from 1 on";
            if order_id < 1 {
                return Err(Malformed::Field { field: "wake", expected, got: order_id.to_string() });
            }
            // The schema allows no deadline from the year 3000 on, so such a wake would only circulate in the lanes.
            if due >= YEAR_3000 {
                return Err(Malformed::Field {
                    field: "wake",
                    expected: "before the year 3000",
                    got: due.to_string(),
                });
            }
            // `max_attempts` allows no more, so a larger number is forged, and a reason that quoted it would be false.
            if attempt > MOST_ATTEMPTS {
                let expected = "an attempt up to 1000";
                return Err(Malformed::Field { field: "wake", expected, got: attempt.to_string() });
            }
            let due = DbTime(due);
            Ok(Wake { due, order_id, attempt, announced: announced != 0 })
        })
        .collect()
}

fn read_cloud_event(
    event: &Map<String, Value>,
    envelope: Envelope<'_>,
    reading: Reading,
) -> Result<Vec<Wake>, Malformed> {
    let expected = "`1.0` (CloudEvents, structured JSON)";
    match event.get("specversion").and_then(Value::as_str) {
        Some(version) if version.starts_with("1.") => {}
        _ => return Err(wrong("specversion", expected, &event["specversion"])),
    }
    match event.get("data") {
        Some(Value::Object(data)) => read_order(data, envelope, reading),
        Some(other) => Err(wrong("data", "an object with `order_id`", other)),
        None => Err(Malformed::Missing("data")),
    }
}

fn read_order(
    order: &Map<String, Value>,
    envelope: Envelope<'_>,
    reading: Reading,
) -> Result<Vec<Wake>, Malformed> {
    let Some(order_id) = order.get("order_id") else {
        return Err(frameworks::of_object(order).unwrap_or(Malformed::Missing("order_id")));
    };
    let order_id = ids::order_id(order_id)?;
    let due = match order.get("payment_deadline") {
        // Some libraries write every field that is empty.
        Some(Value::Null) => match due_by_delay(envelope, reading) {
            Err(Malformed::NoDeadline) => times::deadline(&Value::Null)?,
            due => due?,
        },
        Some(deadline) => {
            let due = times::deadline(deadline)?;
            within("payment_deadline", due.since(reading.now), reading)?;
            due
        }
        None => due_by_delay(envelope, reading)?,
    };
    Ok(vec![Wake { due, order_id, attempt: 0, announced: true }])
}

/// When an order is due whose body has no deadline.
fn due_by_delay(envelope: Envelope<'_>, reading: Reading) -> Result<DbTime, Malformed> {
    if let Some(delay) = delay::expiration(envelope)? {
        return within("expiration", delay, reading).map(|delay| reading.now.plus(delay));
    }
    // The header outlives the delay: a message that was waited for still has it.
    if reading.delay_is_over {
        return Ok(reading.now);
    }
    let delay = delay::x_delay(envelope)?.ok_or(Malformed::NoDeadline)?;
    within("x-delay", delay, reading).map(|delay| reading.now.plus(delay))
}

fn within(field: &'static str, ahead: Duration, reading: Reading) -> Result<Duration, Malformed> {
    if ahead > reading.max_window {
        Err(Malformed::too_far(field, ahead, reading.max_window))
    } else {
        Ok(ahead)
    }
}

#[cfg(test)]
mod tests;

//! Reads messages: every body form of the contract, and Overdue's own wakes, become a list of orders to look at.
//!
//! A message is a hint and may come from anywhere, so it is trusted no further than "look at this order then". A message
//! that cannot be understood is [`Malformed`], with a reason that tells the sender what to change.

use std::time::Duration;

use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::headers::UNREADABLE;
use super::malformed::{Malformed, not_json, shape, shorten, wrong};
use super::wake::{MAX_ORDERS_PER_WAKE, WAKE_TYPE, Wake};
use crate::clock::DbTime;

/// The AMQP properties that decide how a body is read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Envelope<'a> {
    pub content_type: Option<&'a str>,
    pub content_encoding: Option<&'a str>,
    /// The delay in milliseconds where the body has no deadline.
    pub expiration: Option<&'a str>,
    /// The property `type`.
    pub kind: Option<&'a str>,
    /// Why the properties cannot be read; the other fields are then `None`.
    pub unreadable: Option<&'a str>,
}

/// The properties of a message that decide how its body is read.
#[must_use]
pub fn envelope(properties: &lapin::BasicProperties) -> Envelope<'_> {
    fn text(value: &Option<lapin::types::ShortString>) -> Option<&str> {
        value.as_ref().map(lapin::types::ShortString::as_str)
    }
    Envelope {
        content_type: text(properties.content_type()),
        content_encoding: text(properties.content_encoding()),
        expiration: text(properties.expiration()),
        kind: text(properties.kind()),
        unreadable: properties.headers().as_ref().and_then(|headers| {
            let why = headers.inner().get(UNREADABLE)?.as_long_string()?;
            Some(std::str::from_utf8(why.as_bytes()).unwrap_or_default())
        }),
    }
}

/// Whether a message was once dead-lettered by this queue, as the broker notes in `x-death`. Overdue never rejects a message
/// of its queues, so the message expired there.
#[must_use]
pub fn expired_in(properties: &lapin::BasicProperties, queue: &str) -> bool {
    let deaths = properties.headers().as_ref().and_then(|headers| headers.inner().get("x-death")?.as_array());
    deaths.is_some_and(|deaths| {
        deaths.as_slice().iter().any(|death| {
            let of = death.as_field_table().and_then(|death| death.inner().get("queue")?.as_long_string());
            of.is_some_and(|of| of.as_bytes() == queue.as_bytes())
        })
    })
}

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
    check_content(envelope)?;
    if envelope.kind == Some(WAKE_TYPE) {
        return read_wake(body, reading);
    }
    match serde_json::from_slice(body).map_err(not_json)? {
        Value::Object(object) if object.contains_key("wake") => read_wake(body, reading),
        Value::Object(object) if object.contains_key("specversion") => {
            read_cloud_event(&object, envelope, reading)
        }
        Value::Object(object) => read_order(&object, envelope, reading),
        number @ Value::Number(_) => {
            let order_id = order_id(&number)?;
            Ok(vec![Wake { due: delay(envelope, reading)?, order_id, attempt: 0, announced: true }])
        }
        other => Err(Malformed::Shape(shape(&other))),
    }
}

fn check_content(envelope: Envelope<'_>) -> Result<(), Malformed> {
    if let Some(encoding) = envelope.content_encoding
        && !["", "utf-8", "identity"].contains(&encoding.to_ascii_lowercase().as_str())
    {
        return Err(Malformed::ContentEncoding(shorten(encoding)));
    }
    let Some(content_type) = envelope.content_type else {
        return Ok(());
    };
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let known = essence.is_empty()
        || essence.ends_with("/json")
        || essence.ends_with("+json")
        || essence == "text/plain"
        || essence == "application/octet-stream";
    if known { Ok(()) } else { Err(Malformed::ContentType(shorten(content_type))) }
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
    let order_id = order_id(order.get("order_id").ok_or(Malformed::Missing("order_id"))?)?;
    let due = match order.get("payment_deadline") {
        Some(deadline) => self::deadline(deadline, reading)?,
        None => delay(envelope, reading)?,
    };
    Ok(vec![Wake { due, order_id, attempt: 0, announced: true }])
}

fn order_id(value: &Value) -> Result<i64, Malformed> {
    let expected = "a whole number from 1 to 9223372036854775807";
    value.as_i64().filter(|id| *id > 0).ok_or_else(|| wrong("order_id", expected, value))
}

fn deadline(value: &Value, reading: Reading) -> Result<DbTime, Malformed> {
    const FIELD: &str = "payment_deadline";
    let expected = "a time with its offset (RFC 3339), such as \"2026-01-01T12:00:00Z\"";
    let text = value.as_str().ok_or_else(|| wrong(FIELD, expected, value))?;
    let at = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| wrong(FIELD, expected, value))?;
    if at.year() < 2000 {
        return Err(wrong(FIELD, "in the year 2000 or later", value));
    }
    let due = DbTime::from(at);
    within(FIELD, due.since(reading.now), reading).map(|_| due)
}

fn delay(envelope: Envelope<'_>, reading: Reading) -> Result<DbTime, Malformed> {
    let Some(expiration) = envelope.expiration else {
        return if reading.delay_is_over { Ok(reading.now) } else { Err(Malformed::NoDeadline) };
    };
    let millis = expiration.parse().map_err(|_| Malformed::Field {
        field: "expiration",
        expected: "a whole number of milliseconds",
        got: format!("`{}`", shorten(expiration)),
    })?;
    within("expiration", Duration::from_millis(millis), reading).map(|delay| reading.now.plus(delay))
}

fn within(field: &'static str, ahead: Duration, reading: Reading) -> Result<Duration, Malformed> {
    const DAY: u64 = 86_400;
    if ahead > reading.max_window {
        let (days, max) = (ahead.as_secs() / DAY, reading.max_window.as_secs() / DAY);
        return Err(Malformed::TooFar { field, days, max });
    }
    Ok(ahead)
}

#[cfg(test)]
mod tests;

//! The properties of a message that decide how its body is read.

use lapin::types::{AMQPValue, ShortString};

use super::headers::{COMPRESSION, UNREADABLE, X_DELAY};

#[derive(Clone, Copy, Debug, Default)]
pub struct Envelope<'a> {
    pub content_type: Option<&'a str>,
    pub content_encoding: Option<&'a str>,
    /// The header `compression`, in which kombu says how it compressed a body.
    pub compression: Option<&'a str>,
    /// The delay in milliseconds where the body has no deadline.
    pub expiration: Option<&'a str>,
    /// The header `x-delay`: the delay where there is no expiration either.
    pub x_delay: Option<Header<'a>>,
    /// The property `type`.
    pub kind: Option<&'a str>,
    /// Why the properties cannot be read; the other fields are then `None`.
    pub unreadable: Option<&'a str>,
}

/// A header that should be a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header<'a> {
    Number(i64),
    Text(&'a str),
    /// Neither a number that counts something nor text.
    Other,
}

/// Takes from the properties what decides how the body is read.
#[must_use]
pub fn envelope(properties: &lapin::BasicProperties) -> Envelope<'_> {
    fn short(value: &Option<ShortString>) -> Option<&str> {
        value.as_ref().map(ShortString::as_str)
    }
    let header = |name| properties.headers().as_ref().and_then(|headers| headers.inner().get(name));
    Envelope {
        content_type: short(properties.content_type()),
        content_encoding: short(properties.content_encoding()),
        compression: header(COMPRESSION).and_then(text),
        expiration: short(properties.expiration()),
        x_delay: header(X_DELAY).map(number),
        kind: short(properties.kind()),
        unreadable: header(UNREADABLE)
            .and_then(AMQPValue::as_long_string)
            .map(|why| std::str::from_utf8(why.as_bytes()).unwrap_or_default()),
    }
}

fn text(value: &AMQPValue) -> Option<&str> {
    match value {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        AMQPValue::ShortString(text) => Some(text.as_str()),
        AMQPValue::ByteArray(bytes) => std::str::from_utf8(bytes.as_slice()).ok(),
        _ => None,
    }
}

/// Each client library has its own idea of the smallest type that holds a number.
fn number(value: &AMQPValue) -> Header<'_> {
    // What an infinite number looks like cannot be parsed.
    let cut = |number: f64| number.trunc().to_string().parse().map_or(Header::Other, Header::Number);
    match value {
        AMQPValue::ShortShortInt(number) => Header::Number((*number).into()),
        AMQPValue::ShortShortUInt(number) => Header::Number((*number).into()),
        AMQPValue::ShortInt(number) => Header::Number((*number).into()),
        AMQPValue::ShortUInt(number) => Header::Number((*number).into()),
        AMQPValue::LongInt(number) => Header::Number((*number).into()),
        AMQPValue::LongUInt(number) => Header::Number((*number).into()),
        AMQPValue::LongLongInt(number) => Header::Number(*number),
        // A duration of .NET in milliseconds. The plugin cuts off the fraction, too.
        AMQPValue::Double(number) => cut(*number),
        AMQPValue::Float(number) => cut((*number).into()),
        other => text(other).map_or(Header::Other, Header::Text),
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

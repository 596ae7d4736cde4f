//! Why a message cannot be understood, in words that tell its sender what to change.

use std::time::Duration;

use serde_json::Value;

use super::wake::MAX_ORDERS_PER_WAKE;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Larger than any order-created message needs to be.
    #[error("the body has {bytes} bytes; an order-created message has at most {most}")]
    TooLarge { bytes: usize, most: usize },
    /// The properties are not UTF-8, nested too deeply, too large, or broken; see [`crate::broker::frames`].
    #[error("its properties cannot be read: {0}")]
    Properties(String),
    /// The sender declares another content type.
    #[error("content_type is `{0}`; send application/json, application/cloudevents+json or text/plain")]
    ContentType(String),
    /// The sender declares an encoding that is neither a charset nor a compression, as far as is known.
    #[error(
        "content_encoding is `{0}`, which is not known; send JSON in UTF-8, with content_encoding `utf-8` or without one"
    )]
    ContentEncoding(String),
    /// Declared, or seen in the body's first bytes.
    #[error("the body is compressed ({0}); send it uncompressed")]
    Compressed(&'static str),
    /// Declared, or seen in the body's bytes.
    #[error("the body is written in {0}; send JSON in UTF-8")]
    Charset(String),
    /// A serialized Java object, with its class.
    #[error(
        "the body is a serialized Java object ({0}); send JSON (Spring: Jackson2JsonMessageConverter), or a Long, an Integer or \
         a String with one"
    )]
    Java(String),
    /// The envelope of a framework, or another format.
    #[error("the body is {what}; {send}")]
    Foreign { what: &'static str, send: &'static str },
    #[error("the body is not JSON: {0}")]
    NotJson(String),
    /// JSON of another shape.
    #[error("the body is {0}; send an object with `order_id`, or the bare order number")]
    Shape(&'static str),
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// A field has the wrong type or value.
    #[error("`{field}` is {got}; it must be {expected}")]
    Field {
        /// The field of the body, or the property.
        field: &'static str,
        expected: &'static str,
        /// Shortened.
        got: String,
    },
    /// Neither a deadline nor a delay.
    #[error(
        "there is neither a `payment_deadline` in the body nor an `expiration` property or `x-delay` header: when should \
         the order close?"
    )]
    NoDeadline,
    /// A deadline or delay that no shop can mean.
    #[error("`{field}` lies {ahead} {unit} ahead; at most {most} {unit} are allowed (setting max_window)")]
    TooFar { field: &'static str, ahead: u128, most: u128, unit: &'static str },
    /// A service used the form of Overdue's own wakes.
    #[error("`wake` is the form of Overdue's own messages; send an object with `order_id`")]
    OwnForm,
    /// A wake with too many orders, or none.
    #[error("`wake` names {0} orders; 1 to {MAX_ORDERS_PER_WAKE} are allowed")]
    WakeSize(usize),
}

impl Malformed {
    /// In the largest unit in which the limit is whole, and the other one shows to be more.
    pub(super) fn too_far(field: &'static str, ahead: Duration, most: Duration) -> Self {
        const UNITS: [(u128, &str); 4] =
            [(86_400_000, "days"), (3_600_000, "hours"), (60_000, "minutes"), (1_000, "seconds")];
        let (ahead, most) = (ahead.as_millis(), most.as_millis());
        let shows = |(millis, _): &(u128, &str)| most % millis == 0 && ahead / millis > most / millis;
        let (millis, unit) = UNITS.into_iter().find(shows).unwrap_or((1, "milliseconds"));
        Self::TooFar { field, ahead: ahead / millis, most: most / millis, unit }
    }
}

pub(super) fn wrong(field: &'static str, expected: &'static str, value: &Value) -> Malformed {
    let got = match value {
        Value::Array(_) | Value::Object(_) => shape(value).to_owned(),
        scalar => shorten(&scalar.to_string()),
    };
    Malformed::Field { field, expected, got }
}

pub(super) fn not_json(error: serde_json::Error) -> Malformed {
    // The library's text of a type error quotes the value, however long it is.
    Malformed::NotJson(shorten(&error.to_string()))
}

pub(super) fn shape(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Shortens a foreign value for a reason, which travels in a header and is read on a screen.
pub(super) fn shorten(text: &str) -> String {
    const MOST: usize = 80;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

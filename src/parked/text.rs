//! Headers as text for a person, and why the broker gave up on a message, according to its own headers.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A header's value, in a form like JSON. Bytes that are not UTF-8 are shown as � or in hexadecimal.
pub(super) fn value(value: &AMQPValue) -> String {
    match value {
        AMQPValue::LongString(text) => String::from_utf8_lossy(text.as_bytes()).into_owned(),
        AMQPValue::ShortString(text) => text.to_string(),
        AMQPValue::Boolean(truth) => truth.to_string(),
        AMQPValue::ShortShortInt(number) => number.to_string(),
        AMQPValue::ShortShortUInt(number) => number.to_string(),
        AMQPValue::ShortInt(number) => number.to_string(),
        AMQPValue::ShortUInt(number) => number.to_string(),
        AMQPValue::LongInt(number) => number.to_string(),
        AMQPValue::LongUInt(number) => number.to_string(),
        AMQPValue::LongLongInt(number) => number.to_string(),
        AMQPValue::Float(number) => number.to_string(),
        AMQPValue::Double(number) => number.to_string(),
        AMQPValue::DecimalValue(number) => format!("{}e-{}", number.value, number.scale),
        AMQPValue::Timestamp(seconds) => date(*seconds),
        AMQPValue::FieldArray(list) => {
            format!("[{}]", list.as_slice().iter().map(self::value).collect::<Vec<_>>().join(", "))
        }
        AMQPValue::FieldTable(table) => {
            let entry = |(name, value): (&_, &_)| format!("{name}: {}", self::value(value));
            format!("{{{}}}", table.inner().iter().map(entry).collect::<Vec<_>>().join(", "))
        }
        AMQPValue::ByteArray(bytes) => match std::str::from_utf8(bytes.as_slice()) {
            Ok(text) => text.to_owned(),
            Err(_) => {
                bytes.as_slice().iter().fold(String::from("0x"), |hex, byte| format!("{hex}{byte:02x}"))
            }
        },
        AMQPValue::Void => "null".to_owned(),
    }
}

fn date(seconds: u64) -> String {
    let date =
        i64::try_from(seconds).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    date.and_then(|date| date.format(&Rfc3339).ok()).unwrap_or_else(|| seconds.to_string())
}

/// Why the broker parked a message by itself. The last of its deaths counts: the first may have been in a lane, where every
/// wake expires.
pub(super) fn of_broker(properties: &BasicProperties) -> String {
    let Some((reason, queue)) = properties.headers().as_ref().and_then(last_death) else {
        return "the broker gave up delivering it".to_owned();
    };
    let reason = match reason.as_str() {
        "delivery_limit" => "it was delivered too often and never acknowledged (delivery limit)",
        "expired" => "it expired",
        "rejected" => "it was rejected",
        "maxlen" => "the queue was full",
        other => other,
    };
    let place = queue.map(|queue| format!(", in {queue}")).unwrap_or_default();
    format!("the broker gave up delivering it: {reason}{place}")
}

/// Reason and queue of the last death. RabbitMQ puts the newest first in x-death; since 3.13 it also sets
/// x-last-death headers.
fn last_death(headers: &FieldTable) -> Option<(String, Option<String>)> {
    let text = |table: &FieldTable, name: &str| table.inner().get(name).map(value);
    if let Some(reason) = text(headers, "x-last-death-reason") {
        return Some((reason, text(headers, "x-last-death-queue")));
    }
    let Some(AMQPValue::FieldArray(deaths)) = headers.inner().get("x-death") else {
        return text(headers, "x-first-death-reason")
            .map(|reason| (reason, text(headers, "x-first-death-queue")));
    };
    let AMQPValue::FieldTable(newest) = deaths.as_slice().first()? else { return None };
    Some((text(newest, "reason")?, text(newest, "queue")))
}

#[cfg(test)]
mod tests {
    use lapin::types::{ByteArray, DecimalValue, FieldArray, LongString};

    use super::*;

    fn text(text: &str) -> AMQPValue {
        AMQPValue::LongString(LongString::from(text))
    }

    fn table(entries: &[(&str, AMQPValue)]) -> FieldTable {
        let mut table = FieldTable::default();
        for (name, value) in entries {
            table.insert((*name).into(), value.clone());
        }
        table
    }

    #[test]
    fn values_are_shown_as_what_they_are() {
        let death = table(&[("count", AMQPValue::LongLongInt(3)), ("reason", text("expired"))]);
        for (shown, expected) in [
            (AMQPValue::LongLongInt(3), "3"),
            (AMQPValue::Boolean(true), "true"),
            (AMQPValue::Double(0.5), "0.5"),
            (AMQPValue::DecimalValue(DecimalValue { scale: 2, value: 1999 }), "1999e-2"),
            (AMQPValue::Timestamp(0), "1970-01-01T00:00:00Z"),
            (AMQPValue::Timestamp(u64::MAX), "18446744073709551615"),
            (AMQPValue::ByteArray(ByteArray::from(b"text".as_slice())), "text"),
            (AMQPValue::ByteArray(ByteArray::from([0, 255].as_slice())), "0x00ff"),
            (AMQPValue::Void, "null"),
            (
                AMQPValue::FieldArray(FieldArray::from(vec![AMQPValue::FieldTable(death), text("x")])),
                "[{count: 3, reason: expired}, x]",
            ),
        ] {
            assert_eq!(value(&shown), expected);
        }
    }

    #[test]
    fn the_last_death_tells_why_the_broker_parked_a_message() {
        let death = |reason: &str, queue: &str| {
            AMQPValue::FieldTable(table(&[("reason", text(reason)), ("queue", text(queue))]))
        };
        let deaths = |of: Vec<AMQPValue>| ("x-death", AMQPValue::FieldArray(FieldArray::from(of)));
        let first = ("x-first-death-reason", text("expired"));
        let both =
            vec![death("delivery_limit", "order.process.queue"), death("expired", "order.delay.1s.queue")];
        let limit = "the broker gave up delivering it: it was delivered too often and never acknowledged (delivery limit), in \
                     order.process.queue";
        for (headers, expected) in [
            (vec![deaths(both), first.clone()], limit),
            (vec![first.clone()], "the broker gave up delivering it: it expired"),
            (vec![deaths(vec![]), first.clone()], "the broker gave up delivering it"),
            (vec![deaths(vec![text("forged")])], "the broker gave up delivering it"),
            (
                vec![("x-last-death-reason", text("rejected")), first],
                "the broker gave up delivering it: it was rejected",
            ),
            (vec![], "the broker gave up delivering it"),
        ] {
            let properties = BasicProperties::default().with_headers(table(&headers));
            assert_eq!(of_broker(&properties), expected);
        }
    }
}

//! Envelopes of frameworks: whose they are, and how to publish the object itself.
//!
//! They are refused: which part of an envelope is the order, and whether a worker of the framework should get it, is not for
//! Overdue to guess.

use serde_json::{Map, Value};

use crate::wire::malformed::Malformed;

/// What the body is, the fields by which it is recognized, and what to do instead.
type Framework = (&'static str, &'static [&'static str], &'static str);

const OBJECTS: [Framework; 8] = [
    (
        "a Laravel job",
        &["displayName", "job", "data"],
        "publish the object itself with php-amqplib, because a queue's jobs are only for Laravel's own workers",
    ),
    (
        "a NestJS message",
        &["pattern", "data"],
        "publish its `data` alone: give the ClientProxy a `serializer` that returns it",
    ),
    ("a MassTransit envelope", &["messageType", "message"], "publish raw JSON: UseRawJsonSerializer()"),
    ("a Celery task", &["task", "args", "kwargs"], KOMBU),
    (
        "an Active Job",
        &["job_class", "job_id", "arguments"],
        "publish the object itself with bunny, because jobs are only for Rails' own workers",
    ),
    (
        "a Dramatiq message",
        &["actor_name", "args", "kwargs"],
        "publish the object itself with pika, because actors are only for Dramatiq's own workers",
    ),
    (
        "a Kafka Connect record with its schema",
        &["schema", "payload"],
        "publish its payload alone: value.converter.schemas.enable=false",
    ),
    (
        "an SNS notification",
        &["Type", "TopicArn", "Message"],
        "publish its message alone: RawMessageDelivery=true",
    ),
];

const KOMBU: &str = "publish the object itself with kombu's Producer and serializer=\"json\", because tasks are only for \
                     Celery's own workers";

/// An object without `order_id` that is a framework's envelope.
#[must_use]
pub fn of_object(object: &Map<String, Value>) -> Option<Malformed> {
    let fits = |(_, fields, _): &&Framework| fields.iter().all(|field| object.contains_key(*field));
    OBJECTS.iter().find(fits).map(|(what, _, send)| Malformed::Foreign { what, send })
}

/// JSON of another shape that is a framework's, or an object that was encoded twice.
#[must_use]
pub fn of_value(value: &Value) -> Option<Malformed> {
    match value {
        // Celery's protocol 2: arguments, named arguments, and what comes after the task.
        Value::Array(parts) => match parts.as_slice() {
            [Value::Array(_), Value::Object(_), Value::Object(after)] if after.contains_key("callbacks") => {
                Some(Malformed::Foreign { what: "a Celery task", send: KOMBU })
            }
            _ => None,
        },
        Value::String(text) if text.trim_start().starts_with('{') => Some(Malformed::Foreign {
            what: "a JSON string that holds JSON",
            send: "it was encoded twice: send the object itself",
        }),
        _ => None,
    }
}

/// Bytes that are not JSON, of a form that is recognized by how it begins.
#[must_use]
pub fn of_bytes(body: &[u8]) -> Option<Malformed> {
    let (what, send) = match body {
        [0x80, 2..=5, ..] => ("a Python pickle", "publish with serializer=\"json\", or json.dumps()"),
        [0x04, 0x08, ..] => ("Ruby's Marshal format", "publish with to_json"),
        [b'O' | b'a' | b's' | b'i', b':', b'0'..=b'9', ..] => {
            ("PHP's serialization format", "publish with json_encode(), or Symfony's JSON serializer")
        }
        [0, 0x53, 0x73..=0x78, ..] => AMQP_1_0,
        [b'<', ..] => ("XML", "publish JSON"),
        _ => return None,
    };
    Some(Malformed::Foreign { what, send })
}

/// What RabbitMQ makes the property `type` where a body of AMQP 1.0 is not made of data sections.
pub const AMQP_1_0_TYPE: &str = "amqp-1.0";

const AMQP_1_0: (&str, &str) = (
    "an AMQP 1.0 value or sequence",
    "send the JSON as a data section, such as `data` of the client's message",
);

/// A body of AMQP 1.0 that is not made of data sections.
#[must_use]
pub fn amqp_1_0() -> Malformed {
    Malformed::Foreign { what: AMQP_1_0.0, send: AMQP_1_0.1 }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_envelope_is_called_by_its_name_and_says_what_to_send() {
        for (body, whose) in [
            (
                json!({"uuid": "u", "displayName": "App\\Jobs\\Close", "job": "…", "data": {"commandName": "x"}}),
                "Laravel",
            ),
            (json!({"pattern": "order.created", "data": {"order_id": 7}}), "NestJS"),
            (json!({"messageId": "m", "messageType": ["urn:x"], "message": {"order_id": 7}}), "MassTransit"),
            (json!({"task": "close", "id": "t", "args": [7], "kwargs": {}}), "Celery"),
            (json!([[7], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]), "Celery"),
            (json!("{\"order_id\":7}"), "encoded twice"),
        ] {
            let found = body.as_object().map_or_else(|| of_value(&body), of_object);
            let reason = found.expect(whose).to_string();
            assert!(reason.contains(whose), "{reason}");
        }
        assert_eq!(of_value(&json!([7])), None);
        assert_eq!(of_object(json!({"data": {}}).as_object().expect("an object")), None);
    }
}

//! Bad messages, as many as wanted: broken, foreign, forged, absurd. The same seed makes the same messages.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldArray, FieldTable, LongString};
use overdue_testkit::random::{Random, Rng, one};

/// A message that no well-behaved service sends.
pub struct Hostile {
    pub key: &'static str,
    pub body: Vec<u8>,
    pub properties: BasicProperties,
    /// How many messages it leaves in the parked queue: none when it is a hint about an order that needs nothing.
    pub parks: usize,
}

/// Bodies that nobody understands.
const BROKEN: [&str; 26] = [
    "",
    " ",
    "{",
    "{\"order_id\":",
    "[1,2",
    "\"one\"",
    "null",
    "true",
    "NaN",
    "-Infinity",
    "1e400",
    "-1",
    "0",
    "1.5",
    "9223372036854775808",
    "{}",
    "{\"order_id\":null}",
    "{\"order_id\":\"01\"}",
    "{\"order_id\":[1]}",
    "{\"order_id\":1e99}",
    "{\"order_id\":1,\"payment_deadline\":false}",
    "{\"order_id\":1,\"payment_deadline\":\"soon\"}",
    "{\"order_id\":1,\"payment_deadline\":\"9999-12-31T23:59:59Z\"}",
    "{\"specversion\":\"1.0\",\"data\":null}",
    "{\"wake\":null}",
    "{\"wake\":[[1,99999999999999999,0]]}",
];

impl Hostile {
    /// The next one. `unknown` numbers an order that does not exist, `settled` one that needs nothing any more.
    pub fn new(dice: &mut Random, unknown: i64, settled: i64) -> Self {
        let key = one(dice, &["order.delay", "order.process"]);
        let from_service = usize::from(key == "order.delay");
        let mut properties = BasicProperties::default().with_headers(forged(dice));
        if dice.random_range(0..4) == 0 {
            let id = dice.random_range(0..100).to_string();
            properties = properties.with_message_id(id.into()).with_type("overdue.wake".into());
        }
        let deadline =
            one(dice, &["2000-01-01T00:00:00Z", "2020-02-29T23:59:60Z", "2024-01-01T00:00:00+14:00"]);
        let (body, parks) = match dice.random_range(0..16) {
            // The form of our own wakes, which services may not use: about nothing, or about what is settled already.
            0 => (format!("{{\"wake\":[[{unknown},0,0]]}}").into_bytes(), from_service),
            1 => (format!("{{\"wake\":[[{unknown},-9223372036854775808,4294967295]]}}").into_bytes(), 1),
            2 | 3 => (format!("{{\"wake\":[[{settled},0,0],[{settled},1,7]]}}").into_bytes(), from_service),
            4 => {
                properties = properties.with_type("order.created".into());
                (format!("{{\"order_id\":{settled},\"payment_deadline\":\"{deadline}\"}}").into_bytes(), 0)
            }
            // Bytes, depth, size.
            5 => (
                (0..dice.random_range(0..200))
                    .map(|_| dice.random::<u64>().to_be_bytes()[0] | 0x80)
                    .collect(),
                1,
            ),
            6 => ("[".repeat(1 + dice.random_range(0..5_000)).into_bytes(), 1),
            7 => ("{\"data\":".repeat(1 + dice.random_range(0..5_000)).into_bytes(), 1),
            8 => (
                format!("{{\"order_id\":\"{}\"}}", "\u{1F525}".repeat(dice.random_range(0..300)))
                    .into_bytes(),
                1,
            ),
            // Properties that say that it is something else.
            9 => {
                let kind =
                    one(dice, &["image/png", "application/x-python-serialize", "\u{1b}[2J", "text/html"]);
                properties = properties.with_content_type(kind.into());
                (b"1".to_vec(), 1)
            }
            10 => {
                properties = properties.with_content_encoding(one(dice, &["gzip", "br", "\u{202e}"]).into());
                (b"{\"order_id\":1}".to_vec(), 1)
            }
            // The largest that the broker accepts is further than anybody's window.
            11 => {
                properties = properties.with_expiration("4294967295".into());
                (one(dice, &BROKEN).as_bytes().to_vec(), 1)
            }
            12 => {
                // With a forged x-death, RabbitMQ before 4.0.1 would see a cycle when it expires, and keep it to itself.
                let mut headers = FieldTable::default();
                for (name, value) in properties.headers().iter().flat_map(|headers| headers.inner()) {
                    if name.as_str() != "x-death" {
                        headers.insert(name.clone(), value.clone());
                    }
                }
                properties = properties
                    .with_headers(headers)
                    .with_expiration(dice.random_range(0..3).to_string().into());
                (one(dice, &BROKEN).as_bytes().to_vec(), 1)
            }
            _ => (one(dice, &BROKEN).as_bytes().to_vec(), 1),
        };
        Self { key, body, properties, parks }
    }

    /// One of this many bytes.
    pub fn large(dice: &mut Random, bytes: usize) -> Self {
        let key = one(dice, &["order.delay", "order.process"]);
        Self { key, body: vec![b'7'; bytes], properties: BasicProperties::default(), parks: 1 }
    }
}

/// Headers in the broker's name, and in ours.
fn forged(dice: &mut Random) -> FieldTable {
    let text = |text: &str| AMQPValue::LongString(LongString::from(text));
    let mut headers = FieldTable::default();
    let mut death = FieldTable::default();
    death.insert("queue".into(), text("order.process.queue"));
    death.insert("reason".into(), text("expired"));
    death.insert("count".into(), AMQPValue::LongLongInt(i64::MAX));
    let all: [(&str, AMQPValue); 9] = [
        ("x-death", AMQPValue::FieldArray(FieldArray::from(vec![AMQPValue::FieldTable(death)]))),
        ("x-delivery-count", AMQPValue::LongLongInt(i64::MAX)),
        ("x-first-death-queue", text("order.parked.queue")),
        ("overdue-retry-key", text("order.closed")),
        ("overdue-reason", text("\u{1b}]0;all is well\u{7}")),
        ("overdue-expiration", text("-1")),
        ("overdue-user-id", text("root")),
        ("attempt", AMQPValue::Double(-1e308)),
        ("tenant", AMQPValue::Void),
    ];
    for (name, value) in all {
        if dice.random_range(0..4) == 0 {
            headers.insert(name.into(), value);
        }
    }
    headers
}

//! Bad messages, as many as wanted: broken, foreign, forged, absurd. The same seed makes the same messages.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldArray, FieldTable, LongString};

/// SplitMix64: numbers that look random, from a seed.
pub struct Dice(pub u64);

impl Dice {
    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `sides`.
    pub fn below(&mut self, sides: usize) -> usize {
        usize::try_from(self.roll() % sides as u64).expect("it fits")
    }

    fn one<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }
}

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
    "\"1\"",
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
    "{\"order_id\":\"1\"}",
    "{\"order_id\":[1]}",
    "{\"order_id\":1e99}",
    "{\"order_id\":1,\"payment_deadline\":null}",
    "{\"order_id\":1,\"payment_deadline\":\"soon\"}",
    "{\"order_id\":1,\"payment_deadline\":\"9999-12-31T23:59:59Z\"}",
    "{\"specversion\":\"1.0\",\"data\":null}",
    "{\"wake\":null}",
    "{\"wake\":[[1,99999999999999999,0]]}",
];

impl Hostile {
    /// The next one. `unknown` numbers an order that does not exist, `settled` one that needs nothing any more.
    pub fn new(dice: &mut Dice, unknown: i64, settled: i64) -> Self {
        let key = dice.one(&["order.delay", "order.process"]);
        let from_service = usize::from(key == "order.delay");
        let mut properties = BasicProperties::default().with_headers(forged(dice));
        if dice.below(4) == 0 {
            let id = dice.below(100).to_string();
            properties = properties.with_message_id(id.into()).with_type("overdue.wake".into());
        }
        let deadline =
            dice.one(&["2000-01-01T00:00:00Z", "2020-02-29T23:59:60Z", "2024-01-01T00:00:00+14:00"]);
        let (body, parks) = match dice.below(16) {
            // The form of our own wakes, which services may not use: about nothing, or about what is settled already.
            0 => (format!("{{\"wake\":[[{unknown},0,0]]}}").into_bytes(), from_service),
            1 => (format!("{{\"wake\":[[{unknown},-9223372036854775808,4294967295]]}}").into_bytes(), 1),
            2 | 3 => (format!("{{\"wake\":[[{settled},0,0],[{settled},1,7]]}}").into_bytes(), from_service),
            4 => {
                properties = properties.with_type("order.created".into());
                (format!("{{\"order_id\":{settled},\"payment_deadline\":\"{deadline}\"}}").into_bytes(), 0)
            }
            // Bytes, depth, size.
            5 => ((0..dice.below(200)).map(|_| dice.roll().to_be_bytes()[0] | 0x80).collect(), 1),
            6 => ("[".repeat(1 + dice.below(5_000)).into_bytes(), 1),
            7 => ("{\"data\":".repeat(1 + dice.below(5_000)).into_bytes(), 1),
            8 => (format!("{{\"order_id\":\"{}\"}}", "\u{1F525}".repeat(dice.below(300))).into_bytes(), 1),
            // Properties that say that it is something else.
            9 => {
                let kind = dice.one(&[
                    "image/png",
                    "application/x-java-serialized-object",
                    "\u{1b}[2J",
                    "text/html",
                ]);
                properties = properties.with_content_type(kind.into());
                (b"1".to_vec(), 1)
            }
            10 => {
                properties = properties.with_content_encoding(dice.one(&["gzip", "br", "\u{202e}"]).into());
                (b"{\"order_id\":1}".to_vec(), 1)
            }
            // The largest that the broker accepts is further than anybody's window.
            11 => {
                properties = properties.with_expiration("4294967295".into());
                (dice.one(&BROKEN).as_bytes().to_vec(), 1)
            }
            12 => {
                // With a forged x-death, RabbitMQ before 4.0.1 would see a cycle when it expires, and keep it to itself.
                let mut headers = FieldTable::default();
                for (name, value) in properties.headers().iter().flat_map(|headers| headers.inner()) {
                    if name.as_str() != "x-death" {
                        headers.insert(name.clone(), value.clone());
                    }
                }
                properties =
                    properties.with_headers(headers).with_expiration(dice.below(3).to_string().into());
                (dice.one(&BROKEN).as_bytes().to_vec(), 1)
            }
            _ => (dice.one(&BROKEN).as_bytes().to_vec(), 1),
        };
        Self { key, body, properties, parks }
    }

    /// One of this many bytes.
    pub fn large(dice: &mut Dice, bytes: usize) -> Self {
        let key = dice.one(&["order.delay", "order.process"]);
        Self { key, body: vec![b'7'; bytes], properties: BasicProperties::default(), parks: 1 }
    }
}

/// Headers in the broker's name, and in ours.
fn forged(dice: &mut Dice) -> FieldTable {
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
        if dice.below(4) == 0 {
            headers.insert(name.into(), value);
        }
    }
    headers
}

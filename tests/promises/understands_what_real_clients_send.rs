//! Messages of real client libraries and frameworks (`tests/dialects.txt`, written by `dev/dialects`) are read where their
//! meaning is certain; the others are parked with a reason that says what to send.

use std::time::Duration;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use overdue::clock::DbTime;
use overdue::stats::Count;
use overdue::wire::envelope::envelope;
use overdue::wire::message::{Reading, read};
use serde_json::{Value, json};

use crate::harness::{World, eventually};

/// 2026-01-01T00:00:00Z, a quarter of an hour before the deadline of every message.
const NOW: DbTime = DbTime(1_767_225_600_000_000);
const DEADLINE: DbTime = DbTime(1_767_226_500_000_000);

struct Captured {
    /// The client, and what it was asked to send.
    name: String,
    /// The order's number, or a part of the reason with which the message is refused.
    outcome: String,
    properties: BasicProperties,
    body: Vec<u8>,
}

fn captured() -> Vec<Captured> {
    let file = include_str!("../dialects.txt");
    file.lines().filter(|line| !line.starts_with('#')).map(|line| parse(line).expect(line)).collect()
}

fn parse(line: &str) -> Option<Captured> {
    let [key, properties, body] = line.splitn(3, " | ").collect::<Vec<_>>().try_into().ok()?;
    let (name, outcome) = key.split_once(" => ")?;
    let mut all = BasicProperties::default();
    let mut headers = FieldTable::default();
    let properties: serde_json::Map<String, Value> = serde_json::from_str(properties).ok()?;
    for (name, value) in properties {
        let text = value.as_str().unwrap_or_default();
        all = match name.as_str() {
            "content_type" => all.with_content_type(text.into()),
            "content_encoding" => all.with_content_encoding(text.into()),
            "expiration" => all.with_expiration(text.into()),
            "type" => all.with_type(text.into()),
            header => {
                let number = value.as_i64().map(AMQPValue::LongLongInt);
                headers.insert(header.into(), number.unwrap_or_else(|| AMQPValue::LongString(text.into())));
                all
            }
        };
    }
    let digits = body.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok());
    let body = digits.map(|pair| u8::from_str_radix(pair?, 16).ok()).collect::<Option<_>>()?;
    Some(Captured {
        name: name.to_owned(),
        outcome: outcome.to_owned(),
        properties: all.with_headers(headers),
        body,
    })
}

impl Captured {
    fn order(&self) -> Option<i64> {
        self.outcome.parse().ok()
    }
}

#[test]
fn every_message_is_one_order_and_its_deadline_or_has_a_reason_that_names_what_it_is() {
    let reading = Reading {
        now: NOW,
        max_window: Duration::from_secs(86_400),
        delay_is_over: false,
        from_service: true,
    };
    for message in captured() {
        let name = &message.name;
        match (message.order(), read(&message.body, envelope(&message.properties), reading)) {
            (Some(order), Ok(wakes)) => {
                let read: Vec<_> = wakes.iter().map(|wake| (wake.order_id, wake.due)).collect();
                assert_eq!(read, [(order, DEADLINE)], "{name}");
            }
            (None, Err(reason)) => {
                assert!(reason.to_string().contains(&message.outcome), "{name} said: {reason}");
            }
            (_, outcome) => panic!("{name}: {outcome:?} instead of {}", message.outcome),
        }
    }
}

#[tokio::test]
async fn through_the_broker_they_are_understood_or_parked_as_they_came() {
    World::with(async |world| {
        let pod = world.pod(&[]);
        world.ready().await;
        let (understood, refused): (Vec<_>, Vec<_>) =
            captured().into_iter().partition(|message| message.order().is_some());
        for message in understood.iter().chain(&refused) {
            let properties = message.properties.clone().with_message_id(message.name.as_str().into());
            world.publish("order.delay", &message.body, properties).await;
        }
        let parked = world.parked(refused.len()).await;
        for message in &refused {
            let id = json!(["message_id", message.name]);
            let is_it =
                |parked: &&Value| parked["properties"].as_array().is_some_and(|all| all.contains(&id));
            let reason = parked.iter().find(is_it);
            let reason = reason.and_then(|parked| parked["reason"].as_str()).unwrap_or("not parked");
            assert!(reason.contains(&message.outcome), "{}: {reason}", message.name);
        }
        let taken = async || pod.shared.stats.get(Count::Intake) == understood.len() as u64;
        eventually("every other message has become a wake", taken).await;
    })
    .await;
}

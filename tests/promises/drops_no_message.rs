//! Invariant 5: a message is acknowledged after its work is committed; until then it is in a lane, in a queue, or
//! parked with its reason. One that cannot be understood is parked as it came, and the next one is processed.

use std::collections::BTreeMap;
use std::time::Duration;

use lapin::BasicProperties;
use lapin::message::BasicGetMessage;
use lapin::options::{BasicAckOptions, BasicGetOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldArray, FieldTable, LongString};
use overdue::stats::Count;
use serde_json::{Value, json};

use crate::harness::{World, eventually};

const SECOND: Duration = Duration::from_secs(1);

/// A body that nobody can make sense of, and words that its reason must contain.
const MALFORMED: &[(&[u8], &str)] = &[
    (b"", "not JSON"),
    (b"\xff\xfe\x00", "written in UTF-16"),
    (b"1\x00", "the byte 0x00"),
    (b"{\"order_id\": 1", "not JSON"),
    (b"[1, 2]", "the body is a list"),
    (b"\"order 1\"", "the body is a string"),
    (b"null", "the body is null"),
    (b"{}", "`order_id` is missing"),
    (b"{\"order_id\": \"one\"}", "`order_id` is \"one\""),
    (b"{\"order_id\": 1.5}", "`order_id` is 1.5"),
    (b"-1", "`order_id` is -1"),
    (b"99999999999999999999", "`order_id` is"),
    (b"{\"order_id\": 1, \"payment_deadline\": \"tomorrow\"}", "`payment_deadline` is \"tomorrow\""),
    (b"{\"order_id\": 1, \"payment_deadline\": \"9999-12-31T23:59:59Z\"}", "days ahead"),
    (b"{\"specversion\": \"1.0\", \"type\": \"order.created\"}", "`data` is missing"),
    (b"{\"wake\": []}", "`wake` names 0 orders"),
    (b"{\"wake\": [[1]]}", "not JSON"),
];

#[tokio::test]
async fn what_cannot_be_understood_is_parked_with_its_reason_and_the_next_message_is_processed() {
    World::with(async |world| {
        let pod = world.pod(&[]);
        world.ready().await;
        let rebuilt = pod.shared.stats.get(Count::Rebuilt);
        let mut bodies: Vec<_> = MALFORMED.iter().map(|(body, reason)| (body.to_vec(), *reason)).collect();
        bodies.push((vec![b' '; 300 * 1024], "at most 262144"));
        for key in ["order.delay", "order.process"] {
            for (body, _) in &bodies {
                world.publish(key, body, BasicProperties::default().with_message_id("m".into())).await;
            }
        }
        // Only at the intake: straight in the process queue, a message without any delay means "look now".
        world.publish("order.delay", b"7", BasicProperties::default()).await;
        let packed = BasicProperties::default().with_content_type("application/x-msgpack".into());
        world.publish("order.delay", b"7", packed).await;

        let parked = world.parked(2 * bodies.len() + 2).await;
        let mut expected: Vec<_> = bodies
            .iter()
            .flat_map(|(body, reason)| {
                ["order.delay", "order.process"]
                    .map(|key| (key, String::from_utf8_lossy(body).into_owned(), *reason))
                    .map(|(key, body, reason)| match key {
                        // Whatever is wrong with it besides: services may not use the form of our own wakes.
                        "order.delay" if body.contains("wake") => (key, body, "Overdue's own messages"),
                        _ => (key, body, reason),
                    })
            })
            .collect();
        expected.push(("order.delay", "7".to_owned(), "neither a `payment_deadline`"));
        expected.push(("order.delay", "7".to_owned(), "application/x-msgpack"));
        for (key, body, reason) in expected {
            let found = parked.iter().any(|parked| {
                parked["retry_key"] == key
                    && parked["body"] == *body
                    && parked["reason"].as_str().is_some_and(|r| r.contains(reason))
            });
            assert!(found, "{key} {body:.80}: nothing parked with `{reason}`");
        }
        let order = world.place(SECOND, &[]).await;
        world.closed(order).await;
        assert_eq!(pod.shared.stats.get(Count::Parked), 2 * bodies.len() as u64 + 2);
        assert_eq!(pod.shared.stats.get(Count::Rebuilt), rebuilt, "a malformed message broke a session");
        pod.stop().await;
    })
    .await;
}

/// Takes the one parked message out, with everything the broker keeps of it.
async fn take_parked(world: &World) -> BasicGetMessage {
    let queue = world.names.parked();
    eventually("a message is parked", async || world.depth(&queue).await == 1).await;
    let (connection, channel) = world.channel().await;
    let got = channel.basic_get(queue.as_str().into(), BasicGetOptions::default()).await.expect("got");
    let got = got.expect("a message");
    channel.basic_ack(got.delivery.delivery_tag, BasicAckOptions::default()).await.expect("taken");
    connection.close(200, "done".into()).await.expect("closed");
    got
}

fn texts(properties: &BasicProperties) -> BTreeMap<String, String> {
    let headers = properties.headers().clone().unwrap_or_default();
    let text = |value: &AMQPValue| match value {
        AMQPValue::LongString(text) => text.to_string(),
        other => format!("{other:?}"),
    };
    headers.inner().iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}

#[tokio::test]
async fn a_parked_message_keeps_its_body_and_properties_and_nothing_that_would_move_it() {
    World::with(async |world| {
        let pod = world.pod(&[]);
        world.declared().await;
        let user = url::Url::parse(&world.amqp_url).expect("a URL").username().to_owned();
        let (connection, channel) = world.channel().await;
        channel
            .queue_declare("elsewhere".into(), QueueDeclareOptions::durable(), FieldTable::default())
            .await
            .expect("a queue");
        connection.close(200, "done".into()).await.expect("closed");
        world.bind("elsewhere", &world.names.exchange(), "copies").await;
        let text = |text: &str| AMQPValue::LongString(LongString::from(text));
        let mut headers = FieldTable::default();
        headers.insert("tenant".into(), text("berlin"));
        headers.insert("CC".into(), AMQPValue::FieldArray(FieldArray::from(vec![text("copies")])));
        headers.insert("BCC".into(), AMQPValue::FieldArray(FieldArray::from(vec![text("copies")])));
        let sent = BasicProperties::default()
            .with_headers(headers)
            .with_expiration("40000".into())
            .with_user_id(user.as_str().into())
            .with_message_id("m-1".into())
            .with_correlation_id("c-1".into())
            .with_reply_to("answers".into())
            .with_app_id("shop".into())
            .with_content_type("text/plain".into())
            .with_timestamp(1_767_225_600)
            .with_priority(3);
        world.publish("order.delay", b"hello", sent).await;

        let got = take_parked(world).await.delivery;
        assert_eq!(got.data, b"hello");
        let kept = &got.properties;
        assert_eq!(kept.message_id().as_ref().map(|id| id.as_str()), Some("m-1"));
        assert_eq!(kept.correlation_id().as_ref().map(|id| id.as_str()), Some("c-1"));
        assert_eq!(kept.reply_to().as_ref().map(|to| to.as_str()), Some("answers"));
        assert_eq!(kept.app_id().as_ref().map(|id| id.as_str()), Some("shop"));
        assert_eq!(kept.content_type().as_ref().map(|kind| kind.as_str()), Some("text/plain"));
        assert_eq!(
            (kept.timestamp(), kept.priority(), kept.delivery_mode()),
            (&Some(1_767_225_600), &Some(3), &Some(2))
        );
        assert_eq!(
            (kept.expiration(), kept.user_id()),
            (&None, &None),
            "these would make it expire or bounce"
        );
        let headers = texts(kept);
        let header = |name: &str| headers.get(name).map(String::as_str);
        assert_eq!(header("tenant"), Some("berlin"));
        assert_eq!(
            (header("overdue-expiration"), header("overdue-user-id")),
            (Some("40000"), Some(user.as_str()))
        );
        assert_eq!(header("overdue-retry-key"), Some("order.delay"));
        assert!(header("overdue-reason").is_some_and(|reason| reason.contains("not JSON")), "{headers:?}");
        assert!(header("overdue-parked-at").is_some_and(|at| at.starts_with("20")), "{headers:?}");
        // The broker itself sent two copies when it was published; parking it sent no third.
        assert_eq!(world.depth("elsewhere").await, 1, "a parked message was copied");

        // Through a lane, where the broker adds its x-death: it goes, or a retry would look like a cycle.
        world
            .publish("order.delay.1s", b"world", BasicProperties::default().with_expiration("1".into()))
            .await;
        let headers = texts(&take_parked(world).await.delivery.properties);
        assert!(!headers.keys().any(|name| name.contains("death")), "{headers:?}");
        pod.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_message_that_expires_while_no_pod_runs_closes_its_order_when_one_does() {
    World::with(async |world| {
        world.declare().await;
        let order = world.place(Duration::ZERO, &[]).await;
        world.sql("DELETE FROM outbox").await;
        world
            .publish(
                "order.delay",
                order.to_string().as_bytes(),
                BasicProperties::default().with_expiration("50".into()),
            )
            .await;
        eventually("it expired", async || world.depth(&world.names.process()).await == 1).await;
        let pod = world.pod(&[]);
        world.closed(order).await;
        assert_eq!(pod.shared.stats.get(Count::Swept), 0);
        eventually("acknowledged", async || world.depth(&world.names.process()).await == 0).await;
        pod.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_message_about_an_order_that_is_committed_later_closes_it() {
    World::with(async |world| {
        let pod = world.pod(&[("retry_base", "300ms")]);
        world.declared().await;
        let mut shop = world.pool.begin().await.expect("a transaction");
        let insert = "INSERT INTO orders (user_id, payment_deadline) VALUES (1, now()) RETURNING order_id";
        let order: i64 = sqlx::query_scalar(insert).fetch_one(&mut *shop).await.expect("placed");
        let body = json!({"order_id": order, "payment_deadline": "2020-01-01T00:00:00Z"}).to_string();
        world.publish("order.delay", body.as_bytes(), BasicProperties::default()).await;
        eventually("a pod has looked for it", async || pod.shared.stats.get(Count::Failed) >= 1).await;
        sqlx::query("DELETE FROM outbox").execute(&mut *shop).await.expect("no wake of its own");
        shop.commit().await.expect("committed");
        world.closed(order).await;
        assert_eq!(pod.shared.stats.get(Count::Swept), 0);
        pod.stop().await;
    })
    .await;
}

#[tokio::test]
async fn an_order_that_does_not_exist_is_parked_after_its_attempts_with_words_for_a_person() {
    World::with(async |world| {
        let pod = world.pod(&[("max_attempts", "3"), ("retry_base", "50ms")]);
        world.declared().await;
        let known = world.place(SECOND, &[]).await;
        world.publish("order.process", b"{\"wake\":[[404,0,0,1]]}", BasicProperties::default()).await;
        let parked = world.parked(1).await;
        assert_eq!(parked[0]["reason"], json!("order 404 does not exist (after 3 attempts)"));
        assert_eq!(parked[0]["order_ids"], json!([404]));
        world.closed(known).await;

        // It comes to exist, and a retry closes it.
        world.sql("INSERT INTO orders (order_id, user_id, payment_deadline) VALUES (404, 1, now())").await;
        world.sql("DELETE FROM outbox WHERE kind = 'wake'").await;
        let id = parked[0]["id"].as_str().expect("an id");
        let (code, shown, error) = world.run(&["parked", "retry", id, "--json"]).await;
        assert_eq!((code, error.as_str()), (0, ""));
        assert_eq!(serde_json::from_str::<Value>(&shown).expect("JSON")["ids"], json!([id]));
        world.closed(404).await;
        pod.stop().await;
    })
    .await;
}

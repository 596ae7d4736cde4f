//! Whoever looks at a parked message reads why it is there, also where the broker put it there, and in plain words.

use std::time::Duration;

use futures_util::StreamExt;
use lapin::BasicProperties;
use lapin::options::{BasicConsumeOptions, BasicRejectOptions};
use lapin::types::{AMQPValue, FieldTable};
use serde_json::json;

use crate::harness::{World, patiently};

#[tokio::test]
async fn a_message_that_was_delivered_too_often_says_so_and_not_that_it_expired_on_its_way() {
    World::with(async |world| {
        world.declare().await;
        let process = world.names.process();
        // The lower of this and the queue's own limit holds.
        let policy = json!({"pattern": "^order.process.queue$", "definition": {"delivery-limit": 1}, "apply-to": "queues"});
        world.management.put(&["operator-policies", &world.name, "limit"], policy).await;
        patiently("the limit holds", Duration::from_secs(60), async || {
            let queue = world.management.get(&["queues", &world.name, &process]).await;
            queue["operator_policy"] == "limit"
        })
        .await;
        let mut headers = FieldTable::default();
        headers.insert("attempt".into(), AMQPValue::LongLongInt(3));
        // Through a lane, where it dies for the first time.
        let delay = BasicProperties::default().with_expiration("10".into()).with_headers(headers);
        world.publish("order.delay.1s", b"{\"order_id\":1}", delay).await;
        let (_connection, channel) = world.channel().await;
        let consume = BasicConsumeOptions::default();
        let consumer = channel.basic_consume(process.as_str().into(), "".into(), consume, FieldTable::default());
        let mut consumer = consumer.await.expect("a consumer");
        for _ in 0..2 {
            let delivery = consumer.next().await.expect("a delivery").expect("a delivery");
            delivery.reject(BasicRejectOptions { requeue: true }).await.expect("rejected");
        }
        let parked = world.parked(1).await.remove(0);
        let reason = parked["reason"].as_str().expect("a reason");
        assert!(reason.contains("delivery limit") && reason.contains("order.process.queue"), "{reason}");
        assert!(!reason.contains("expired"), "{reason}");
        let id = parked["id"].as_str().expect("an id");
        let (_, text, _) = world.run(&["parked", "show", id]).await;
        assert!(text.contains("reason: delivery_limit") && text.contains("count: 1"), "{text}");
        assert!(text.lines().any(|line| line.starts_with("header attempt") && line.ends_with(" 3")), "{text}");
        for untold in ["LongLongInt", "LongString", "FieldTable", "[91"] {
            assert!(!text.contains(untold), "{text}");
        }
        let (_, text, _) = world.run(&["parked", "discard", id]).await;
        assert_eq!(text, "1 message discarded\n");
    })
    .await;
}

#[tokio::test]
async fn one_message_is_parked_once_though_the_parked_queue_was_away() {
    World::with(async |world| {
        for declares in ["true", "false"] {
            world.declare().await;
            let pod = world.pod(&[("max_attempts", "1"), ("declare_topology", declares)]);
            world.ready().await;
            let parked = world.names.parked();
            world.management.delete(&["queues", &world.name, &parked]).await;
            world.publish("order.process", b"{\"wake\":[[71,0,0,1]]}", BasicProperties::default()).await;
            patiently("it was tried", Duration::from_secs(60), async || {
                pod.shared.stats.get(overdue::stats::Count::Rebuilt) > 2 || declares == "true"
            })
            .await;
            if declares == "false" {
                world.declare().await;
            }
            patiently("parked", Duration::from_secs(60), async || {
                pod.shared.stats.get(overdue::stats::Count::Parked) > 0
            })
            .await;
            pod.stop().await;
            assert_eq!(world.depth(&parked).await, 1, "declare_topology={declares}");
            world.management.delete(&["queues", &world.name, &parked]).await;
        }
    })
    .await;
}

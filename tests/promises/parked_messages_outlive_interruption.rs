//! Retrying and discarding parked messages, killed in the middle again and again: no message is lost, whatever was sent
//! again is what was parked, and only what was in flight when the command was killed can be sent twice.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt;
use lapin::BasicProperties;
use lapin::options::{BasicConsumeOptions, QueueDeclareOptions};
use lapin::types::FieldTable;

use crate::harness::{World, eventually, patiently};

const MESSAGES: usize = 3_000;
/// A batch of the command: published, not yet taken out.
const IN_FLIGHT: usize = 200;
const KILLS: usize = 4;

/// Messages in the parked queue, half of them from each door, as pods would have parked them.
async fn park_many(world: &World) {
    world.declare().await;
    let (connection, channel) = world.channel().await;
    channel.confirm_select(lapin::options::ConfirmSelectOptions::default()).await.expect("confirms");
    let mut confirms = Vec::new();
    for n in 0..MESSAGES {
        let key = if n % 2 == 0 { "order.delay" } else { "order.process" };
        let original = BasicProperties::default().with_message_id(format!("m-{n}").into());
        let reason = format!("reason number {}", n % 2);
        let message = overdue::wire::parked::parked(
            n.to_string().into_bytes(),
            &original,
            &reason,
            key,
            overdue::clock::DbTime(0),
        );
        let publish = channel.basic_publish(
            world.names.exchange().into(),
            "order.parked".into(),
            lapin::options::BasicPublishOptions::default(),
            &message.body,
            message.properties.with_delivery_mode(2),
        );
        confirms.push(publish.await.expect("published"));
    }
    for confirm in confirms {
        confirm.await.expect("confirmed");
    }
    connection.close(200, "done".into()).await.expect("closed");
}

/// Starts the command and kills it as soon as some messages are gone, until `kills` have hit it.
async fn interrupted(world: &World, arguments: &[&str], kills: usize) {
    let queue = world.names.parked();
    for _ in 0..kills {
        // What a killed one held comes back when the broker has noticed.
        let before = settled_depth(world, &queue).await;
        let mut child = world.command(arguments).spawn().expect("started");
        eventually("it has begun", async || world.depth(&queue).await < before).await;
        child.kill().await.expect("killed");
    }
}

/// Messages in a queue that nobody holds.
async fn settled_depth(world: &World, queue: &str) -> u32 {
    let mut last = 0;
    eventually("nobody holds any", async || {
        let depth = world.depth(queue).await;
        // By the queue itself: the management API may still show the state of before.
        let settled = depth == last && world.consumers(queue).await == 0;
        last = depth;
        settled
    })
    .await;
    last
}

#[tokio::test]
async fn a_retry_that_is_killed_again_and_again_loses_nothing_and_doubles_only_what_was_in_flight() {
    World::with(async |world| {
        park_many(world).await;
        // A witness instead of a pod.
        let (_connection, channel) = world.channel().await;
        let (intake, process, exchange) =
            (world.names.intake(), world.names.process(), world.names.exchange());
        channel
            .queue_declare("seen".into(), QueueDeclareOptions::durable(), FieldTable::default())
            .await
            .expect("a queue");
        for (queue, key) in [(&intake, "order.delay"), (&process, "order.process")] {
            world.bind("seen", &world.names.exchange(), key).await;
            let unbind = channel.queue_unbind(
                queue.as_str().into(),
                exchange.as_str().into(),
                key.into(),
                FieldTable::default(),
            );
            unbind.await.expect("unbound");
        }
        interrupted(world, &["parked", "retry", "--all"], KILLS).await;
        let queue = world.names.parked();
        settled_depth(world, &queue).await;
        // What the last one that was killed had taken may come back only now.
        eventually("all are sent again", async || {
            let (code, _, error) = world.run(&["parked", "retry", "--all"]).await;
            assert_eq!((code, error.as_str()), (0, ""));
            world.depth(&queue).await == 0
        })
        .await;

        let there = world.depth("seen").await as usize;
        assert!((MESSAGES..=MESSAGES + KILLS * IN_FLIGHT).contains(&there), "{there} messages were sent");
        let no_ack = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let consume = channel.basic_consume("seen".into(), "".into(), no_ack, FieldTable::default());
        let mut seen: HashMap<String, usize> = HashMap::new();
        let mut deliveries = consume.await.expect("a consumer");
        for _ in 0..there {
            let delivery = deliveries.next().await.expect("a stream").expect("a delivery");
            let body = String::from_utf8(delivery.data).expect("text");
            let id = delivery.properties.message_id().as_ref().map(ToString::to_string);
            assert_eq!(id, Some(format!("m-{body}")), "a double is the very same message");
            let key = if body.parse::<usize>().expect("a number") % 2 == 0 {
                "order.delay"
            } else {
                "order.process"
            };
            assert_eq!(delivery.routing_key.as_str(), key);
            *seen.entry(body).or_default() += 1;
        }
        assert_eq!(seen.len(), MESSAGES, "a message is lost");
    })
    .await;
}

#[tokio::test]
async fn a_discard_that_is_killed_again_and_again_takes_only_what_was_meant() {
    World::with(async |world| {
        park_many(world).await;
        let queue = world.names.parked();
        let discard = ["parked", "discard", "--reason", "number 1"];
        let half = u32::try_from(MESSAGES / 2).expect("a number");
        for _ in 0..3 {
            let before = settled_depth(world, &queue).await;
            let mut child = world.command(&discard).spawn().expect("started");
            eventually("it has begun", async || world.depth(&queue).await < before).await;
            child.kill().await.expect("killed");
        }
        settled_depth(world, &queue).await;
        // Nothing may be left to discard: then it says so.
        let (code, _, error) = world.run(&discard).await;
        assert!(code == 0 || error.contains("no parked message matches"), "{error}");
        patiently("only what was not meant is left", Duration::from_secs(10), async || {
            world.depth(&queue).await == half
        })
        .await;
        let (_, list, _) =
            world.run(&["parked", "list", "--reason", "number 0", "--limit", "9999", "--json"]).await;
        let list: Vec<serde_json::Value> = serde_json::from_str(&list).expect("a list");
        assert_eq!(list.len(), MESSAGES / 2);
    })
    .await;
}

#[tokio::test]
async fn what_a_command_says_it_took_out_does_not_come_back() {
    World::with(async |world| {
        world.declare().await;
        // Far more than a channel passes on to the queue before it has heard of the first acknowledgement.
        world.publish_times(3_000, "order.parked", b"?", &BasicProperties::default()).await;
        let (code, _, error) = world.run(&["parked", "discard", "--all"]).await;
        assert_eq!((code, error.as_str()), (0, ""));
        assert_eq!(world.depth(&world.names.parked()).await, 0);
    })
    .await;
}

//! The code is the one truth for exchanges, queues and bindings: declare makes it, verify names every difference, export
//! is the file in the repository, and a pod does not start on anything else.

use std::collections::BTreeSet;

use lapin::ExchangeKind;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use overdue::config::settings::SETTINGS;
use serde_json::{Value, json};

use crate::harness::{World, eventually};

/// What verify finds: place and problem.
async fn verify(world: &World, arguments: &[&str]) -> (i32, BTreeSet<(String, String)>) {
    let (code, found) = world.verify(&[&["topology", "verify"], arguments].concat()).await;
    (code, found.into_iter().map(|(place, _, problem)| (place, problem)).collect())
}

fn default_lanes() -> &'static str {
    SETTINGS
        .iter()
        .find(|setting| setting.name == "lanes")
        .and_then(|setting| setting.default)
        .expect("default lanes")
}

#[tokio::test]
async fn declaring_twice_changes_nothing_and_verify_finds_nothing() {
    World::with(async |world| {
        for _ in 0..2 {
            world.declare().await;
            assert_eq!(verify(world, &[]).await, (0, BTreeSet::new()));
        }
        let (code, text, _) = world.run(&["topology", "verify"]).await;
        assert_eq!(code, 0);
        assert!(text.contains("Looked at:\n  RabbitMQ (version)"), "{text}");
        assert!(text.contains("order.exchange, order.events (kind and arguments, policies"), "{text}");
        assert!(text.trim().ends_with("are as Overdue needs them."), "{text}");
    })
    .await;
}

#[tokio::test]
async fn verify_names_each_difference() {
    World::with(async |world| {
        let (code, missing) = verify(world, &[]).await;
        assert_eq!(code, 4);
        let names: Vec<_> = missing.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "order.delay.1s.queue",
                "order.delay.2s.queue",
                "order.delay.5s.queue",
                "order.delay.queue",
                "order.events",
                "order.exchange",
                "order.parked.queue",
                "order.process.queue",
            ]
        );
        world.declare().await;

        let (connection, channel) = world.channel().await;
        let exchange = world.names.exchange();
        for queue in ["order.delay.1s.queue", "order.delay.5s.queue"] {
            channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.expect("deleted");
        }
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        for queue in ["order.delay.9s.queue", "order.delay.1s.queue"] {
            arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(5));
            channel
                .queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments.clone())
                .await
                .expect("made");
        }
        let unbind = channel.queue_unbind(
            "order.delay.2s.queue".into(),
            exchange.as_str().into(),
            "order.delay.2s".into(),
            FieldTable::default(),
        );
        unbind.await.expect("unbound");
        let bind = channel.queue_bind(
            "order.process.queue".into(),
            exchange.as_str().into(),
            "order.#".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        bind.await.expect("bound");
        let policy =
            json!({"pattern": "^order.parked", "definition": {"message-ttl": 60_000}, "apply-to": "queues"});
        world.management.put(&["policies", &world.name, "tidy"], policy).await;

        let difference = |name: &str, problem: &str| (name.to_owned(), problem.to_owned());
        let expected = BTreeSet::from([
            difference("order.delay.5s.queue", "the queue is missing"),
            difference("order.delay.9s.queue", "the queue is not one of the configured ones"),
            difference("order.delay.2s.queue", "not bound to order.exchange with key order.delay.2s"),
            difference("order.process.queue", "also bound with key order.#"),
            difference("order.parked.queue", "the policy tidy sets message-ttl = 60000"),
            difference("order.delay.1s.queue", "not bound to order.exchange with key order.delay.1s"),
            difference("order.delay.1s.queue", "has the argument x-max-length = 5, which it must not have"),
            difference("order.delay.1s.queue", "argument x-delivery-limit is missing; it must be 1000000000"),
            difference(
                "order.delay.1s.queue",
                "argument x-dead-letter-exchange is missing; it must be \"order.exchange\"",
            ),
            difference(
                "order.delay.1s.queue",
                "argument x-dead-letter-routing-key is missing; it must be \"order.process\"",
            ),
            difference(
                "order.delay.1s.queue",
                "argument x-dead-letter-strategy is missing; it must be \"at-least-once\"",
            ),
            difference(
                "order.delay.1s.queue",
                "argument x-overflow is missing; it must be \"reject-publish\"",
            ),
        ]);
        // A policy takes the broker a moment.
        eventually("the policy is in force", async || {
            verify(world, &[]).await.1.iter().any(|(name, _)| name == "order.parked.queue")
        })
        .await;
        assert_eq!(verify(world, &[]).await, (4, expected));

        // Each remedy helps.
        world.management.delete(&["policies", &world.name, "tidy"]).await;
        for queue in ["order.delay.9s.queue", "order.delay.1s.queue"] {
            channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.expect("deleted");
        }
        let unbind = channel.queue_unbind(
            "order.process.queue".into(),
            exchange.as_str().into(),
            "order.#".into(),
            FieldTable::default(),
        );
        unbind.await.expect("unbound");
        connection.close(200, "done".into()).await.expect("closed");
        world.declare().await;
        eventually("nothing differs", async || verify(world, &[]).await == (0, BTreeSet::new())).await;
    })
    .await;
}

#[tokio::test]
async fn an_exchange_of_another_type_is_named_and_not_used() {
    World::with(async |world| {
        let (connection, channel) = world.channel().await;
        let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let direct = channel.exchange_declare(
            "order.exchange".into(),
            ExchangeKind::Direct,
            durable,
            FieldTable::default(),
        );
        direct.await.expect("declared");
        connection.close(200, "done".into()).await.expect("closed");
        let (_, found) = verify(world, &[]).await;
        let problem = "is a durable direct exchange, not a durable topic exchange";
        assert!(found.contains(&("order.exchange".to_owned(), problem.to_owned())), "{found:?}");
        let (code, _, error) = world.run(&["topology", "declare"]).await;
        assert_eq!(code, 1);
        assert!(
            error.contains("declaring exchange order.exchange") && error.contains("topology verify"),
            "{error}"
        );
    })
    .await;
}

#[tokio::test]
async fn a_pod_does_not_start_on_a_queue_with_other_arguments_and_says_which_and_what_to_do() {
    World::with(async |world| {
        let (connection, channel) = world.channel().await;
        let plain = channel.queue_declare(
            "order.process.queue".into(),
            QueueDeclareOptions::durable(),
            FieldTable::default(),
        );
        plain.await.expect("declared");
        connection.close(200, "done".into()).await.expect("closed");
        let pod = world.process(&[]);
        let (code, log) = (pod.end().await, pod.text());
        assert_eq!(code, 1, "{log}");
        assert!(log.contains("declaring queue order.process.queue: it exists with other arguments"), "{log}");
        assert!(log.contains("overdue topology verify"), "{log}");
    })
    .await;
}

#[tokio::test]
async fn the_exported_definitions_are_the_file_in_the_repository_and_can_be_imported() {
    World::with(async |world| {
        let export = ["topology", "export", "--lanes", default_lanes(), "--amqp-url", "amqp://localhost/%2f"];
        let (code, exported, error) = world.run(&export).await;
        assert_eq!((code, error.as_str()), (0, ""));
        assert_eq!(exported, include_str!("../../rabbitmq/definitions.json"), "export it again");

        let mut definitions: Value = serde_json::from_str(&exported).expect("JSON");
        let mut importable = json!({});
        for part in ["exchanges", "queues", "bindings"] {
            importable[part] = definitions[part].take();
        }
        world.management.post(&["definitions", &world.name], importable).await;
        assert_eq!(verify(world, &["--lanes", default_lanes()]).await, (0, BTreeSet::new()));
    })
    .await;
}

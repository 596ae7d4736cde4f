//! `overdue verify` looks at broker and database, names what differs, and never takes what it cannot see for fine.

use lapin::ExchangeKind;
use lapin::options::{ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use serde_json::json;

use crate::harness::{World, eventually};

/// Place and problem.
async fn troubles(world: &World, arguments: &[&str]) -> (i32, Vec<(String, String)>) {
    let (code, found) = world.verify(arguments).await;
    (code, found.into_iter().map(|(place, _, problem)| (place, problem)).collect())
}

#[tokio::test]
async fn broker_and_database_are_looked_at_and_one_that_cannot_be_asked_hides_not_the_other() {
    World::with(async |world| {
        world.declare().await;
        assert_eq!(troubles(world, &["verify"]).await, (0, vec![]));
        let (_, text, _) = world.run(&["verify"]).await;
        assert!(text.contains("RabbitMQ (version)") && text.contains("database ("), "{text}");

        world.sql("ALTER TABLE orders DISABLE TRIGGER orders_inserted").await;
        let (code, found) = troubles(world, &["verify"]).await;
        assert_eq!((code, found.len()), (4, 1), "{found:?}");
        assert!(found[0].0 == "database" && found[0].1.contains("orders_inserted"), "{found:?}");
        world.sql("ALTER TABLE orders ENABLE TRIGGER orders_inserted").await;

        let nobody = ["verify", "--management-url", "http://nobody:hushhush@127.0.0.1:9/"];
        let (code, found) = troubles(world, &nobody).await;
        assert_eq!((code, found.len()), (5, 1), "{found:?}");
        assert!(found[0].0 == "broker" && found[0].1.contains("management_url"), "{found:?}");
        assert!(!found[0].1.contains("hushhush"), "{found:?}");
        let (code, found) =
            troubles(world, &["verify", "--database-url", "postgres://nobody:hushhush@127.0.0.1:9/none"])
                .await;
        assert_eq!((code, found.len()), (5, 1), "{found:?}");
        assert!(found[0].0 == "database" && !found[0].1.contains("hushhush"), "{found:?}");
        // A difference outweighs what cannot be seen, and both are shown.
        world.management.delete(&["exchanges", &world.name, "order.events"]).await;
        let away = ["verify", "--database-url", "postgres://nobody:hushhush@127.0.0.1:9/none"];
        let (code, text, _) = world.run(&away).await;
        assert_eq!(code, 4, "{text}");
        assert!(text.contains("Differs, 1:") && text.contains("Cannot tell, 1:"), "{text}");
    })
    .await;
}

#[tokio::test]
async fn an_exchange_that_swallows_what_is_unroutable_or_lets_nobody_publish_is_named() {
    World::with(async |world| {
        let (connection, channel) = world.channel().await;
        let internal = ExchangeDeclareOptions { durable: true, internal: true, ..ExchangeDeclareOptions::default() };
        let declare =
            channel.exchange_declare("order.events".into(), ExchangeKind::Topic, internal, FieldTable::default());
        declare.await.expect("declared");
        connection.close(200, "done".into()).await.expect("closed");
        let (code, _, error) = world.run(&["topology", "declare"]).await;
        assert_eq!(code, 1, "{error}");
        let (_, found) = troubles(world, &["topology", "verify"]).await;
        let internal = ("order.events".to_owned(), "is internal: no client may publish to it".to_owned());
        assert!(found.contains(&internal), "{found:?}");
        world.management.delete(&["exchanges", &world.name, "order.events"]).await;
        world.declare().await;

        let policy = json!({"pattern": "^order.exch", "definition": {"alternate-exchange": "amq.fanout"}, "apply-to": "exchanges"});
        world.management.put(&["policies", &world.name, "lost"], policy).await;
        let swallowed = "the policy lost sets alternate-exchange = \"amq.fanout\"";
        let expected = (4, vec![("order.exchange".to_owned(), swallowed.to_owned())]);
        assert_eq!(troubles(world, &["topology", "verify"]).await, expected);
    })
    .await;
}

#[tokio::test]
async fn an_operator_policy_and_a_listener_on_the_plumbing_are_named() {
    World::with(async |world| {
        world.declare().await;
        let policy = json!({"pattern": "process", "definition": {"max-length": 5}, "apply-to": "queues"});
        world.management.put(&["operator-policies", &world.name, "small"], policy).await;
        let limited = "the operator policy small sets max-length = 5";
        let expected = (4, vec![("order.process.queue".to_owned(), limited.to_owned())]);
        assert_eq!(troubles(world, &["topology", "verify"]).await, expected);
        world.management.delete(&["operator-policies", &world.name, "small"]).await;

        let (connection, channel) = world.channel().await;
        let declare =
            channel.queue_declare("audit".into(), QueueDeclareOptions::durable(), FieldTable::default());
        declare.await.expect("declared");
        let bind = channel.queue_bind(
            "audit".into(),
            "order.exchange".into(),
            "order.*".into(),
            lapin::options::QueueBindOptions::default(),
            FieldTable::default(),
        );
        bind.await.expect("bound");
        connection.close(200, "done".into()).await.expect("closed");
        let (code, found) = troubles(world, &["topology", "verify"]).await;
        assert_eq!((code, found.len()), (4, 1), "{found:?}");
        assert!(found[0].1.starts_with("audit is bound to it with key order.* and gets a copy"), "{found:?}");
        world.management.delete(&["queues", &world.name, "audit"]).await;
        eventually("nothing differs", async || troubles(world, &["topology", "verify"]).await.0 == 0).await;
    })
    .await;
}

#[tokio::test]
async fn a_user_that_may_not_see_the_feature_flags_cannot_tell_where_they_may_be_off() {
    World::with(async |world| {
        let shop = world.import_shop().await;
        let overview = world.management.get(&["overview"]).await;
        let version = overview["rabbitmq_version"].as_str().expect("a version").to_owned();
        let flags_may_be_off = version.starts_with("3.10.") || version.starts_with("3.11.");
        let mut management =
            url::Url::parse(&std::env::var("OVERDUE_MANAGEMENT_URL").expect("a URL")).expect("a URL");
        management.set_username(&shop.names.user("operator")).expect("a user");
        management.set_password(Some("secret")).expect("a password");
        let arguments =
            ["topology", "verify", "--prefix", &shop.prefix, "--management-url", management.as_str()];
        let (code, found) = troubles(world, &arguments).await;
        if flags_may_be_off {
            assert_eq!(code, 5, "{found:?}");
            assert!(found.iter().all(|(place, _)| place == "feature flags"), "{found:?}");
        } else {
            assert_eq!((code, found), (0, vec![]));
        }
    })
    .await;
}

//! While pods run, a policy or a binding by which the broker does less than Overdue needs is reported, and so is its end.

use std::time::Duration;

use lapin::options::{QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use overdue::roles::Role;
use overdue::stats::Count;
use serde_json::{Value, json};

use crate::harness::{TestPod, World, eventually};

/// Looks often.
const WATCHFUL: [(&str, &str); 1] = [("probe_every", "200ms")];

async fn troubles(pod: &TestPod, many: u64) {
    eventually("the watch knows of it", async || pod.shared.stats.get(Count::Troubles) == many).await;
}

#[tokio::test]
async fn a_policy_or_a_listener_that_takes_something_away_is_noticed_and_so_is_its_end() {
    World::with(async |world| {
        let pod = world.pod_with_roles(&[Role::Watch, Role::Close], &WATCHFUL);
        world.declared().await;
        let policy = json!({"pattern": "^order.delay.1s", "definition": {"dead-letter-strategy": "at-most-once"}, "apply-to": "queues"});
        world.management.put(&["policies", &world.name, "cheap"], policy).await;
        troubles(&pod, 1).await;
        let (connection, channel) = world.channel().await;
        let declare = channel.queue_declare("audit".into(), QueueDeclareOptions::durable(), FieldTable::default());
        declare.await.expect("declared");
        let bind = channel.queue_bind(
            "audit".into(),
            "order.exchange".into(),
            "order.#".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        bind.await.expect("bound");
        troubles(&pod, 2).await;
        connection.close(200, "done".into()).await.expect("closed");
        world.management.delete(&["policies", &world.name, "cheap"]).await;
        troubles(&pod, 1).await;
        world.management.delete(&["queues", &world.name, "audit"]).await;
        troubles(&pod, 0).await;
        assert_eq!(pod.shared.stats.get(Count::TroublesTotal), 2);
        pod.stop().await;
    })
    .await;
}

#[tokio::test]
async fn the_log_names_the_trouble_with_its_remedy() {
    World::with(async |world| {
        world.declare().await;
        let policy =
            json!({"pattern": "^order.parked", "definition": {"message-ttl": 5}, "apply-to": "queues"});
        world.management.put(&["policies", &world.name, "tidy"], policy).await;
        let pod = world.process(&["--probe-every", "200ms", "--roles", "watch,close"]);
        // As the command says it.
        let (code, shown, error) = world.run(&["topology", "verify", "--json"]).await;
        assert_eq!(code, 4, "{error}");
        let shown: Value = serde_json::from_str(&shown).expect("JSON");
        let findings = shown["findings"].as_array().expect("findings");
        let trouble = findings
            .iter()
            .find(|finding| finding["outcome"] == "differs" && finding["place"] == world.names.parked());
        let trouble = trouble.expect("the policy is found");
        pod.reports_with("broker_differs", |line| {
            ["place", "what", "problem", "remedy"].iter().all(|key| line.text(key) == trouble[key].as_str())
        })
        .await;
        world.management.delete(&["policies", &world.name, "tidy"]).await;
        pod.reports("broker_recovered").await;
        pod.stopped().await;
    })
    .await;
}

#[tokio::test]
async fn a_management_api_that_cannot_be_reached_is_told_once_and_holds_up_nothing() {
    World::with(async |world| {
        let nobody = "http://nobody:hushhush@127.0.0.1:9/";
        let pod = world.process(&["--probe-every", "200ms", "--management-url", nobody]);
        pod.reports("broker_unseen").await;
        let order = world.place(Duration::from_secs(2), &[]).await;
        world.closed(order).await;
        pod.stopped().await;
        let log = pod.text();
        assert_eq!(pod.reported("broker_unseen"), 1, "{log}");
        assert!(!log.contains("hushhush"), "{log}");
        assert!(!log.contains("broker_troubles"), "{log}");
    })
    .await;
}

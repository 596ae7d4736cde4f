//! What waits is announced again when its wakes are gone: by `overdue announce`, and by pods that create a queue.

use std::time::Duration;

use lapin::options::{QueueDeleteOptions, QueuePurgeOptions};
use overdue::stats::Count;
use serde_json::{Value, json};

use crate::harness::{World, eventually};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn after_a_purge_the_operator_announces_all_waiting_orders_and_none_is_swept() {
    World::with(async |world| {
        let pod = world.pod(&[]);
        world.ready().await;
        let orders = world.place_many(1_203, 8 * SECOND, 10 * SECOND, &[]).await;
        world.outbox_empty().await;
        let (_connection, channel) = world.channel().await;
        let lane = "order.delay.5s.queue";
        eventually("wakes wait in the lane", async || world.depth(lane).await > 0).await;
        channel.queue_purge(lane.into(), QueuePurgeOptions::default()).await.expect("purged");
        let (code, done, error) = world.run(&["announce", "--json"]).await;
        assert_eq!((code, error.as_str()), (0, ""));
        assert_eq!(serde_json::from_str::<Value>(&done).expect("JSON"), json!({"announced": orders.len()}));
        world.all_settled().await;
        assert_eq!(pod.shared.stats.get(Count::Swept), 0);
        // Nothing waits any more, and to say so once more is harmless.
        let (code, done, _) = world.run(&["announce"]).await;
        assert_eq!(code, 0);
        assert!(done.starts_with("announced 0 waiting orders"), "{done}");
        pod.stop().await;
    })
    .await;
}

#[tokio::test]
async fn pods_that_create_a_queue_announce_what_waits_by_themselves() {
    World::with(async |world| {
        // Placed before there was a broker: the wakes were published and lost with it.
        let first = world.place_many(10, 6 * SECOND, 6 * SECOND, &[]).await;
        world.sql("DELETE FROM outbox").await;
        let pod = world.pod(&[]);
        world.ready().await;
        eventually("they were announced", async || pod.shared.stats.get(Count::Woken) >= 10).await;
        // A lane is lost under a pod that runs, and another session declares it again.
        let second = world.place_many(10, 9 * SECOND, 9 * SECOND, &[]).await;
        world.outbox_empty().await;
        let (_connection, channel) = world.channel().await;
        channel
            .queue_delete("order.delay.5s.queue".into(), QueueDeleteOptions::default())
            .await
            .expect("deleted");
        eventually("sessions are made again", async || {
            world.close_connections().await;
            pod.shared.stats.get(Count::Woken) >= 30
        })
        .await;
        for order in first.into_iter().chain(second) {
            world.closed(order).await;
        }
        assert_eq!(pod.shared.stats.get(Count::Swept), 0);
        pod.stop().await;
    })
    .await;
}

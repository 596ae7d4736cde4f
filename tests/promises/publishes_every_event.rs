//! Invariant 6: every recorded event is published, at least once, with the same id each time, however often the relay
//! is interrupted.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::json;

use crate::harness::{World, eventually, order_of};

const SECOND: Duration = Duration::from_secs(1);
const EVENTS: usize = 3_000;

async fn closed_orders(world: &World) -> HashSet<i64> {
    let closed = sqlx::query_scalar("SELECT order_id FROM orders WHERE status = 'CLOSED'");
    closed.fetch_all(&world.pool).await.expect("the closed orders").into_iter().collect()
}

#[tokio::test]
async fn every_event_arrives_with_one_id_although_the_relay_is_cut_off_again_and_again() {
    World::with(async |world| {
        let settings = [("close_batch", "10"), ("relay_batch", "20")];
        let pod = world.pod(&settings);
        world.declared().await;
        let mut events = world.subscribe("order.closed").await;
        world.place_many(EVENTS, SECOND, 5 * SECOND, &[]).await;
        eventually("the relay is at work", async || !closed_orders(world).await.is_empty()).await;
        let mut cuts = 0;
        while world.statuses().await.contains_key("PENDING") && cuts < 100 {
            cuts += world.close_connections_named("overdue relay").await;
        }
        assert!(cuts >= 3, "the relay was cut off {cuts} times only");
        world.all_settled().await;
        let seen = events.all(world).await;
        // Were ids not stable, there would be more ids than orders.
        assert_eq!(seen.len(), EVENTS);
        assert_eq!(seen.keys().map(|id| order_of(id)).collect::<HashSet<_>>(), closed_orders(world).await);
        pod.stop().await;
    })
    .await;
}

#[tokio::test]
async fn an_event_published_twice_has_the_same_id_and_body() {
    World::with(async |world| {
        // A relay that publishes and then cannot delete, which is what a crash in between comes to.
        world
            .sql(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
                 CREATE TRIGGER sabotage BEFORE DELETE ON outbox FOR EACH ROW WHEN (old.kind = 'order.closed')
                 EXECUTE FUNCTION refuse()",
            )
            .await;
        let pod = world.pod(&[]);
        world.declared().await;
        let mut events = world.subscribe("order.closed").await;
        let order = world.place(SECOND, &[]).await;
        let first = events.next().await;
        let second = events.next().await;
        assert_eq!(first, second);
        assert_eq!(first.1["data"]["order_id"], json!(order));
        assert_eq!(first.1["specversion"], json!("1.0"));
        assert_eq!(first.1["subject"], json!(order.to_string()));
        world.sql("DROP FUNCTION refuse CASCADE").await;
        let rest = events.all(world).await;
        assert!(rest.keys().all(|id| *id == first.0), "{rest:?}");
        pod.stop().await;
    })
    .await;
}

#[tokio::test]
async fn the_events_of_one_order_come_in_the_order_in_which_things_happened() {
    World::with(async |world| {
        world.stock(1, 10).await;
        let pod = world.pod(&[]);
        world.declared().await;
        let mut events = world.subscribe("order.*").await;
        let cancelled = world.place(SECOND, &[(1, 1)]).await;
        overdue::shop::cancel(&world.pool, cancelled).await.expect("cancelled");
        let (_, event) = events.next().await;
        assert_eq!((&event["type"], &event["data"]["order_id"]), (&json!("order.cancelled"), &json!(cancelled)));
        assert!(event["data"].get("closed_at").is_none(), "{event}");
        let closed = world.place(SECOND, &[(1, 1)]).await;
        let (_, event) = loop {
            let next = events.next().await;
            // Wakes pass here too: they are nobody's events.
            if next.1.get("specversion").is_some() { break next }
        };
        assert_eq!((&event["type"], &event["data"]["order_id"]), (&json!("order.closed"), &json!(closed)));
        world.assert_stock_conserved(10).await;
        pod.stop().await;
    })
    .await;
}

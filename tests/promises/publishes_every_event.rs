//! Invariant 6: every recorded event is published, at least once, with the same id each time, however often the relay
//! is interrupted.

use std::collections::HashSet;
use std::time::Duration;

use overdue::roles::Role;
use overdue::stats::Count;
use serde_json::json;

use crate::harness::{Breaker, Line, World, eventually, order_of};

const SECOND: Duration = Duration::from_secs(1);
const EVENTS: usize = 1_000;

async fn closed_orders(world: &World) -> HashSet<i64> {
    let closed = sqlx::query_scalar("SELECT order_id FROM orders WHERE status = 'CLOSED'");
    closed.fetch_all(&world.pool).await.expect("the closed orders").into_iter().collect()
}

#[tokio::test]
async fn every_event_arrives_with_one_id_although_the_relay_is_cut_off_again_and_again() {
    World::with(async |world| {
        let breaker = Breaker::before(&world.amqp_url).await.expect("a breaker");
        let closing = world.pod_with_roles(&[Role::Close, Role::Sweep], &[("close_batch", "10")]);
        let relaying =
            world.pod_with_roles(&[Role::Relay], &[("amqp_url", &breaker.url), ("relay_batch", "1")]);
        world.declared().await;
        let mut events = world.subscribe(&["order.closed"]).await;
        world.place_many(EVENTS, SECOND, 4 * SECOND, &[]).await;
        let stats = &relaying.shared.stats;
        for cut in 1..=4 {
            let before = stats.get(Count::Events);
            eventually("the relay is at work", async || stats.get(Count::Events) > before).await;
            breaker.set(Line::Cut);
            eventually("it noticed", async || stats.get(Count::Rebuilt) >= cut).await;
            breaker.set(Line::Up);
        }
        world.all_settled().await;
        let seen = events.all(world).await;
        // Were ids not stable, there would be more ids than orders.
        assert_eq!(seen.len(), EVENTS);
        assert_eq!(seen.keys().map(|id| order_of(id)).collect::<HashSet<_>>(), closed_orders(world).await);
        for pod in [closing, relaying] {
            pod.stop().await;
        }
    })
    .await;
}

#[tokio::test]
async fn events_give_way_to_closing_but_not_for_ever() {
    World::with(async |world| {
        // One order after the other: it will not catch up for a long time.
        let pod = world.pod(&[("close_batch", "1"), ("close_concurrency", "1")]);
        world.declared().await;
        world.place_many(20_000, SECOND, SECOND, &[]).await;
        eventually("closing has begun", async || pod.shared.stats.get(Count::Closed) > 100).await;
        eventually("events are published", async || pod.shared.stats.get(Count::Events) > 100).await;
        assert!(world.statuses().await.contains_key("PENDING"), "it has caught up: this shows nothing");
        drop(pod);
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
        let pod = world.pod(&[("shop", "berlin")]);
        world.declared().await;
        let mut events = world.subscribe(&["order.closed"]).await;
        let order = world.place(SECOND, &[]).await;
        let first = events.next().await;
        let second = events.next().await;
        assert_eq!(first, second);
        assert_eq!(first.1["data"]["order_id"], json!(order));
        assert_eq!(first.1["specversion"], json!("1.0"));
        assert_eq!(first.1["source"], json!("/overdue/berlin"));
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
        let mut events = world.subscribe(&["order.closed", "order.cancelled"]).await;
        let order = world.place(Duration::ZERO, &[(1, 1)]).await;
        world.closed(order).await;
        for _ in 0..3 {
            // The shop revives it, taking the stock again; it is not paid this time either.
            world.sql("UPDATE inventory SET stock = stock - 1; UPDATE orders SET status = 'PENDING', closed_at = NULL").await;
            world.closed(order).await;
        }
        world.sql("UPDATE inventory SET stock = stock - 1").await;
        let last = "UPDATE orders SET status = 'PENDING', closed_at = NULL, payment_deadline = now() + interval '1 hour'";
        world.sql(last).await;
        overdue::orders::cancel(&world.database(), order).await.expect("cancelled");
        let mut told = Vec::new();
        while told.last().is_none_or(|(kind, _)| kind != "order.cancelled") {
            let (_, event) = events.next().await;
            let text = |field: &str| event[field].as_str().expect(field).to_owned();
            assert_eq!((event["data"]["order_id"].as_i64(), text("subject")), (Some(order), order.to_string()));
            assert_eq!(event["data"].get("closed_at").is_some(), text("type") == "order.closed", "{event}");
            told.push((text("type"), text("time")));
        }
        told.dedup();
        assert_eq!(told.len(), 5, "{told:?}");
        assert!(told.is_sorted_by_key(|(_, time)| time.clone()), "{told:?}");
        world.assert_stock_conserved(10).await;
        pod.stop().await;
    })
    .await;
}

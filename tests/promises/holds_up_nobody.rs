//! What is wrong with one order, one message or one product delays nothing else.

use std::time::Duration;

use lapin::BasicProperties;
use overdue::stats::Count;

use crate::harness::{World, eventually};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_stock_row_that_somebody_holds_keeps_only_its_own_orders_from_closing() {
    World::with(async |world| {
        world.stock(2, 1_000).await;
        let pod = world.pod(&[("sweep_every", "1h")]);
        world.declared().await;
        let mut holder = world.pool.begin().await.expect("a transaction");
        // Placed before the row is held: placing takes from it too.
        let held = world.place_many(3, 2 * SECOND, 2 * SECOND, &[(1, 1)]).await;
        let free = world.place_many(200, 2 * SECOND, 2 * SECOND, &[(2, 1)]).await;
        let hold = sqlx::query("SELECT FROM inventory WHERE product_id = 1 FOR UPDATE");
        hold.execute(&mut *holder).await.expect("held");

        eventually("all others are closed", async || world.statuses().await.get("CLOSED") == Some(&200))
            .await;
        for order in held {
            assert_eq!(world.status(order).await, "PENDING");
        }
        assert_eq!(world.status(free[0]).await, "CLOSED");
        holder.commit().await.expect("released");
        world.all_settled().await;
        world.assert_stock_conserved(1_000).await;
        assert_eq!(pod.shared.stats.get(Count::Failed), 0, "a lock is nobody's failure");
        pod.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_message_whose_mistake_is_longer_than_a_header_may_be_is_parked_like_any_other() {
    World::with(async |world| {
        let pod = world.pod(&[]);
        world.ready().await;
        let rebuilt = pod.shared.stats.get(Count::Rebuilt);
        // Once for each of the two consumers that read foreign messages.
        let body = format!(r#"{{"wake":["{}"]}}"#, "x".repeat(140_000));
        for key in ["order.delay", "order.process"] {
            world.publish(key, body.as_bytes(), BasicProperties::default()).await;
        }
        let order = world.place(2 * SECOND, &[]).await;
        world.closed(order).await;
        let parked = world.names.parked();
        eventually("both are parked", async || world.depth(&parked).await == 2).await;
        assert_eq!(pod.shared.stats.get(Count::Rebuilt), rebuilt);
        pod.stop().await;
    })
    .await;
}

#[tokio::test]
async fn wakes_that_come_early_leave_room_for_those_that_are_due() {
    World::with(async |world| {
        let pod = world.pod(&[("prefetch", "4"), ("sweep_every", "1h")]);
        world.ready().await;
        let early = world.place(4 * SECOND, &[]).await;
        let due =
            "SELECT (extract(epoch FROM payment_deadline) * 1e6)::bigint FROM orders ORDER BY order_id DESC";
        let body = format!("{{\"wake\":[[{early},{},0]]}}", world.number(due).await);
        // As often as the pod would hold if it held them all, and more.
        world.publish_times(40, "order.process", body.as_bytes(), &BasicProperties::default()).await;
        let order = world.place(SECOND / 2, &[]).await;
        let late = world.closed(order).await;
        assert!(late < SECOND, "closed {late:?} late, behind wakes that were not due");
        assert!(world.closed(early).await < SECOND);
        assert!(pod.shared.stats.get(Count::Rescheduled) > 0, "none was sent on");
        pod.stop().await;
    })
    .await;
}

#[tokio::test]
async fn large_batches_of_all_pods_take_turns_but_not_for_ever_and_small_ones_pass_them() {
    World::with(async |world| {
        let pod = world.pod(&[("close_concurrency", "2"), ("sweep_every", "1h")]);
        world.ready().await;
        // As if other pods were closing as many large batches as may be closed at one time.
        let mut others = world.pool.begin().await.expect("a transaction");
        let slots = sqlx::query(
            "SELECT pg_advisory_xact_lock(1331053906 + 100 + slot, 'outbox'::regclass::oid::int4)
             FROM generate_series(1, 2) AS slot",
        );
        slots.execute(&mut *others).await.expect("taken");
        world.place_many(20, SECOND, SECOND, &[]).await;
        let large = world.place_many(300, 2 * SECOND, 2 * SECOND, &[]).await;
        let overdue = "SELECT count(*) FROM orders WHERE status = 'PENDING' AND payment_deadline < now() - interval '1 s'";
        eventually("the large batch is late", async || world.number(overdue).await == 300).await;
        assert_eq!(world.statuses().await.get("CLOSED"), Some(&20), "the small batch");
        // Whoever has the slots may hang.
        world.all_settled().await;
        assert_eq!(world.status(large[0]).await, "CLOSED");
        others.rollback().await.expect("still ours");
        assert_eq!(pod.shared.stats.get(Count::Failed), 0);
        pod.stop().await;
    })
    .await;
}

//! Invariant 4, second half: an order whose wake was lost is closed by the sweep, with or without a broker, and counted.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use lapin::options::QueuePurgeOptions;
use overdue::closing::Closer;
use overdue::closing::sweep::{Look, Pace, Swept, sweep};
use overdue::roles::Role;
use overdue::stats::Count;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::harness::{Breaker, Line, Signal, TestPod, World, eventually};

const SECOND: Duration = Duration::from_secs(1);
/// The causes for which orders were swept: broker away, no consumer, waiting, missed.
fn causes(pod: &TestPod) -> [u64; 4] {
    let causes = [Count::SweptBrokerAway, Count::SweptNoConsumer, Count::SweptWaiting, Count::SweptMissed];
    causes.map(|cause| pod.shared.stats.get(cause))
}

const SOON: [(&str, &str); 2] = [("sweep_every", "200ms"), ("sweep_grace", "500ms")];

#[tokio::test]
async fn orders_whose_wakes_were_lost_are_closed_by_the_sweep_and_counted() {
    World::with(async |world| {
        world.stock(1, 1_000).await;
        // A pod that creates a queue would announce what waits.
        world.declare().await;
        world.place_many(300, SECOND / 2, SECOND, &[(1, 1)]).await;
        // As if the broker had lost them, or somebody had emptied a queue.
        world.sql("DELETE FROM outbox").await;
        let pod = world.pod(&[("sweep_every", "200ms"), ("sweep_grace", "2s")]);
        world.declared().await;
        let mut events = world.subscribe(&["order.closed"]).await;
        world.all_settled().await;
        // The relay works when it has told what the sweep closed: then a wake comes long before the sweep.
        world.outbox_empty().await;
        let heard = world.place(SECOND, &[(1, 1)]).await;
        world.closed(heard).await;
        let counted = || (pod.shared.stats.get(Count::Swept), pod.shared.stats.get(Count::Closed));
        // What a wake closed is not counted as swept.
        eventually("all are counted", async || counted() == (300, 301)).await;
        eventually("each by its cause", async || causes(&pod).iter().sum::<u64>() == 300).await;
        assert!(events.all(world).await.len() <= 301);
        world.assert_stock_conserved(1_000).await;
        pod.stop().await;
    })
    .await;
}

#[tokio::test]
async fn what_a_purged_lane_held_is_swept_in_batches_while_wakes_go_on_closing() {
    World::with(async |world| {
        world.stock(1, 10_000).await;
        let batches = [("close_batch", "100"), ("close_concurrency", "3"), ("lanes", "1s,30m")];
        let pod = world.pod(&[&batches[..], &[SOON[0], ("sweep_grace", "20s")]].concat());
        world.ready().await;
        world.place_many(2_000, 3_600 * SECOND, 3_600 * SECOND, &[(1, 1)]).await;
        world.outbox_empty().await;
        let (_connection, channel) = world.channel().await;
        let purged = channel.queue_purge("order.delay.30m.queue".into(), QueuePurgeOptions::default()).await;
        assert!(purged.expect("purged") >= 10, "the wakes were not in the lane");
        // Time passes, and nobody is told.
        world
            .sql(
                "ALTER TABLE orders DISABLE TRIGGER orders_updated;
                 UPDATE orders SET payment_deadline = now() - interval '1 minute';
                 ALTER TABLE orders ENABLE TRIGGER orders_updated",
            )
            .await;
        world.place_many(200, SECOND / 10, SECOND, &[(1, 1)]).await;
        world.all_settled().await;
        let counted = || (pod.shared.stats.get(Count::Swept), pod.shared.stats.get(Count::Closed));
        eventually("all are counted", async || counted() == (2_000, 2_201)).await;
        eventually("each by its cause", async || causes(&pod).iter().sum::<u64>() == 2_000).await;
        world.assert_stock_conserved(10_000).await;
        pod.stop().await;
    })
    .await;
}

#[tokio::test]
async fn the_sweep_needs_no_broker() {
    World::with(async |world| {
        // Port 9 (discard) has no listener on the machines of this century.
        let nowhere = [("amqp_url", "amqp://nobody@127.0.0.1:9/none"), SOON[0], SOON[1]];
        let pod = world.pod(&nowhere);
        world.place_many(50, SECOND / 2, SECOND, &[]).await;
        world.all_settled().await;
        eventually("they are counted", async || pod.shared.stats.get(Count::Swept) == 50).await;
        eventually("with the broker as the cause", async || causes(&pod) == [50, 0, 0, 0]).await;
        assert_eq!(
            world
                .number("SELECT sum(cardinality(order_ids))::bigint FROM outbox WHERE kind = 'order.closed'")
                .await,
            50
        );
        pod.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_pod_closes_the_orders_whose_wakes_a_frozen_one_holds_and_says_why() {
    World::with(async |world| {
        // With such lanes pods take the wakes at once. The frozen pod is the only one at first, and so has all of them.
        let frozen = world.process(&["--lanes", "5s"]);
        world.consumed(&world.names.process(), 1).await;
        let orders = world.place_many(20, 4 * SECOND, 4 * SECOND, &[]).await;
        world.outbox_empty().await;
        let queue = world.names.process();
        eventually("the wakes are in flight", async || world.depth(&queue).await == 0).await;
        frozen.send(Signal::STOP).await;
        let pod = world.pod(&[("lanes", "5s"), ("sweep_grace", "500ms")]);
        for order in orders {
            world.closed(order).await;
        }
        let counted = || pod.shared.stats.get(Count::Swept);
        eventually("they are counted", async || counted() == 20).await;
        eventually("each by its cause", async || causes(&pod).iter().sum::<u64>() == 20).await;
        assert_eq!(causes(&pod)[3], 0, "a pod that is silent is a cause");
        frozen.kill().await;
        pod.stop().await;
    })
    .await;
}

#[tokio::test]
async fn orders_that_cannot_be_closed_do_not_keep_the_sweep_from_the_others() {
    World::with(async |world| {
        world
            .sql(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
                 CREATE TRIGGER sabotage BEFORE UPDATE ON orders FOR EACH ROW WHEN (old.order_id <= 52)
                 EXECUTE FUNCTION refuse()",
            )
            .await;
        // The 52 that fail are the longest overdue, and fill more than a page, which is ten batches.
        world.place_many(80, SECOND / 10, SECOND / 2, &[]).await;
        let mut locked = world.pool.begin().await.expect("a transaction");
        sqlx::query("SELECT FROM orders WHERE order_id = 60 FOR UPDATE").execute(&mut *locked).await.expect("locked");
        let pod = world.pod_with_roles(&[Role::Sweep], &[SOON[0], ("sweep_grace", "0s"), ("close_batch", "5"), ("retry_base", "50ms")]);
        eventually("all others are closed", async || world.statuses().await["PENDING"] == 53).await;
        locked.rollback().await.expect("released");
        world.closed(60).await;
        eventually("they are counted", async || pod.shared.stats.get(Count::Swept) == 28).await;
        world.sql("DROP FUNCTION refuse CASCADE").await;
        world.all_settled().await;
        pod.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_dry_run_names_what_would_be_closed_and_changes_nothing() {
    World::with(async |world| {
        world.stock(1, 100).await;
        let due = world.place_many(3, Duration::ZERO, Duration::ZERO, &[(1, 1)]).await;
        world.place(60 * SECOND, &[(1, 1)]).await;
        let paid = world.place(Duration::ZERO, &[(1, 1)]).await;
        assert!(world.pay(paid).await);

        let (code, shown, error) = world.run(&["sweep", "--dry-run", "--grace", "0s", "--json"]).await;
        assert_eq!((code, error.as_str()), (0, ""));
        let shown: Value = serde_json::from_str(&shown).expect("JSON");
        assert_eq!(shown["would_close"], json!(3));
        let named: Vec<_> = shown["orders"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|order| order["order_id"].as_i64())
            .collect();
        assert_eq!(named, due.iter().copied().map(Some).collect::<Vec<_>>());
        let (_, text, _) = world.run(&["sweep", "--dry-run", "--grace", "0s"]).await;
        assert!(text.contains("3 orders would be closed; nothing was changed"), "{text}");
        assert_eq!(world.statuses().await["PENDING"], 4);

        let (code, done, _) = world.run(&["sweep", "--grace", "0s", "--json"]).await;
        assert_eq!(code, 0);
        assert_eq!(
            serde_json::from_str::<Value>(&done).expect("JSON"),
            json!({"closed": 3, "first_closed": due, "left": 0})
        );
        assert_eq!(world.statuses().await["CLOSED"], 3);
        world.assert_stock_conserved(100).await;
    })
    .await;
}

/// One sweep without a pod, ten orders to a page.
async fn sweep_once(closer: &Closer, look: Look<'_>) -> Swept {
    let pace = Pace { batch: 1, at_once: 1 };
    let (swept, outcome) = sweep(closer, Duration::ZERO, pace, look, &CancellationToken::new(), |_| {}).await;
    outcome.expect("swept");
    swept
}

async fn overdue_orders(world: &World, orders: usize) -> Closer {
    world.stock(1, 1_000).await;
    world.place_many(orders, Duration::ZERO, Duration::ZERO, &[(1, 1)]).await;
    let deadlines = "UPDATE orders SET payment_deadline = now() - interval '1 h' + interval '1 s' * order_id";
    world.sql(deadlines).await;
    let config = world.config(&[]);
    Closer::new(&config, world.database(), Arc::default(), Arc::default()).expect("a closer")
}

#[tokio::test]
async fn what_a_sweep_closed_before_an_error_is_counted_by_its_cause() {
    World::with(async |world| {
        let breaker = Breaker::before(&world.database_url).await.expect("a breaker");
        world.stock(1, 10_000).await;
        world.place_many(5_000, Duration::ZERO, Duration::ZERO, &[(1, 1)]).await;
        let pod = world.pod_with_roles(
            &[Role::Sweep],
            &[("database_url", &breaker.url), ("close_batch", "5"), ("outage_retry_for", "1s")],
        );
        let closed = "SELECT count(*) FROM orders WHERE status = 'CLOSED'";
        eventually("some are closed", async || world.number(closed).await > 200).await;
        breaker.set(Line::Cut);
        eventually("the session broke", async || pod.shared.stats.get(Count::Rebuilt) > 0).await;
        assert!(world.number(closed).await < 5_000, "all were closed before it broke");
        breaker.set(Line::Up);
        world.all_settled().await;
        let swept = || pod.shared.stats.get(Count::Swept);
        eventually("each has a cause", async || causes(&pod).iter().sum::<u64>() == swept()).await;
        pod.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_pod_whose_own_orders_wait_sweeps_one_page_and_the_next_look_goes_on_there() {
    World::with(async |world| {
        let closer = overdue_orders(world, 25).await;
        let behind = AtomicBool::new(true);
        let first = sweep_once(&closer, Look { behind: Some(&behind), ..Look::default() }).await;
        assert_eq!(first.closed, 10);
        assert!(first.reached.is_some(), "fifteen were not read");
        let rest = sweep_once(&closer, Look { from: first.reached, ..Look::default() }).await;
        assert_eq!((rest.closed, rest.reached), (15, None));
        closer.disconnect().await;
    })
    .await;
}

#[tokio::test]
async fn an_order_that_was_locked_or_had_failed_is_no_missed_one() {
    World::with(async |world| {
        let closer = overdue_orders(world, 5).await;
        let ids: Vec<i64> = sqlx::query_scalar("SELECT order_id FROM orders ORDER BY order_id")
            .fetch_all(&world.pool)
            .await
            .expect("orders");
        let failed = "INSERT INTO closing_failures (order_id, attempts, code, reason, next_try_at) VALUES ($1, 1, 'P0001', 'once', now())";
        sqlx::query(failed).bind(ids[0]).execute(&world.pool).await.expect("remembered");
        let mut shop = world.pool.begin().await.expect("a transaction");
        let lock = sqlx::query("SELECT FROM orders WHERE order_id = $1 FOR UPDATE").bind(ids[1]);
        lock.execute(&mut *shop).await.expect("locked");
        let first = sweep_once(&closer, Look::default()).await;
        assert_eq!((first.closed, first.held_up), (4, 1), "three whose wakes were lost, and the one that had failed");
        assert_eq!(first.locked.keys().collect::<Vec<_>>(), [&ids[1]]);
        shop.rollback().await.expect("released");
        let second = sweep_once(&closer, Look { locked: first.locked, ..Look::default() }).await;
        assert_eq!((second.closed, second.held_up), (1, 1));
        closer.disconnect().await;
    })
    .await;
}

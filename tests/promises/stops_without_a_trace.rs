//! A pod that is asked to stop in a burst finishes what the broker has given it, and soon: no message comes a second time.

use std::time::{Duration, Instant};

use lapin::BasicProperties;
use overdue::stats::Count;

use crate::harness::{Breaker, Process, World, eventually, stretched};

const SECOND: Duration = Duration::from_secs(1);
const BURST: usize = 8_000;

/// Asks a pod to stop; it does so in time and gives nothing back.
async fn stopped_in_time(pod: &Process) {
    let asked = Instant::now();
    pod.stopped().await;
    assert!(asked.elapsed() < stretched(5 * SECOND), "{:?}: {}", asked.elapsed(), pod.text());
    assert_eq!(pod.reported("gave_back"), 0, "{}", pod.text());
}

#[tokio::test]
async fn a_pod_told_to_stop_in_a_burst_is_gone_soon_and_makes_no_message_come_again() {
    World::with(async |world| {
        world.stock(1, 10_000).await;
        // Small messages, so that many are on their way to each pod, more than it has taken.
        let small = ["--sweep-grace", "1h", "--max-orders-per-wake", "20", "--max-in-flight-orders", "500"];
        let first = world.process(&small);
        let second = world.pod(&[("sweep_grace", "1h"), ("max_orders_per_wake", "20")]);
        world.consumed(&world.names.process(), 2).await;
        world.ready().await;
        world.place_many(BURST, 2 * SECOND, 2 * SECOND, &[(1, 1)]).await;
        eventually("the burst is on", async || {
            world.number("SELECT count(*) FROM orders WHERE status = 'CLOSED'").await > 500
        })
        .await;
        stopped_in_time(&first).await;
        world.all_settled().await;
        assert_eq!(second.shared.stats.get(Count::Redelivered), 0);
        assert!(second.shared.stats.get(Count::Closed) < BURST as u64, "the first had no part in it");
        world.assert_stock_conserved(10_000).await;
        second.stop().await;
    })
    .await;
}

#[tokio::test]
async fn an_intake_told_to_stop_passes_on_what_it_was_given() {
    World::with(async |world| {
        world.declare().await;
        let order = world.place(3600 * SECOND, &[]).await;
        let body = format!(r#"{{"order_id":{order}}}"#);
        let in_an_hour = BasicProperties::default().with_expiration("3600000".into());
        world.publish_times(10_000, "order.delay", body.as_bytes(), &in_an_hour).await;
        // There is more than it is given at one time, all the time.
        let first = world.process(&["--roles", "intake"]);
        world.consumed(&world.names.intake(), 1).await;
        first.stopped().await;
        let second = world.pod(&[]);
        let queue = world.names.intake();
        eventually("all are taken", async || world.depth(&queue).await == 0).await;
        eventually("some were left", async || second.shared.stats.get(Count::Intake) > 0).await;
        assert_eq!(second.shared.stats.get(Count::Redelivered), 0);
        second.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_pod_that_cannot_close_in_time_hands_its_orders_over() {
    World::with(async |world| {
        world.stock(1, 10_000).await;
        let first = world.process(&["--sweep-grace", "1h"]);
        world.ready().await;
        let second = world.pod(&[("sweep_grace", "1h")]);
        // Somebody holds the product for as long as the first pod stops.
        let mut somebody = world.pool.begin().await.expect("a transaction");
        let hold = sqlx::query("SELECT FROM inventory WHERE product_id = 1 FOR UPDATE");
        world.place_many(500, SECOND, 2 * SECOND, &[(1, 1)]).await;
        hold.execute(&mut *somebody).await.expect("held");
        // And nothing is on its way to it any more: what the broker sends in the moment of the cancel comes again.
        world.outbox_empty().await;
        let process = world.names.process();
        eventually("orders are due, and in the pods' hands", async || {
            let due = "SELECT count(*) FROM orders WHERE payment_deadline < now()";
            world.number(due).await == 500 && world.depth(&process).await == 0
        })
        .await;
        stopped_in_time(&first).await;
        assert_eq!(first.reported("handing_over"), 1, "{}", first.text());
        somebody.rollback().await.expect("let go");
        world.all_settled().await;
        assert_eq!(second.shared.stats.get(Count::Redelivered), 0);
        world.assert_stock_conserved(10_000).await;
        second.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_pod_that_the_broker_has_forgotten_stops_in_bounded_time() {
    World::with(async |world| {
        let broker = Breaker::before(&world.amqp_url).await.expect("a breaker");
        let pod =
            world.process(&["--amqp-url", &broker.url, "--drain-timeout", "10s", "--broker-timeout", "10s"]);
        world.ready().await;
        broker.silence();
        let asked = Instant::now();
        // Nothing is in flight.
        pod.stopped().await;
        // The drain, 3 s for giving back, and as many for the database's connections.
        assert!(asked.elapsed() < stretched(17 * SECOND), "{:?}: {}", asked.elapsed(), pod.text());
    })
    .await;
}

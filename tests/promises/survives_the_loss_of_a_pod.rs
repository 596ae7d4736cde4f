//! Invariants 5 and 8: a pod that is killed, asked to stop, or hangs in the middle of its work delays closing, and does
//! nothing else; leader work moves to another pod within seconds.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Breaker, Line, Process, Signal, Subscriber, World, eventually, order_of, stretched};

const SECOND: Duration = Duration::from_secs(1);
const BURST: usize = 4_000;
/// The sweep would hide that a wake was lost.
const NO_SWEEP: [&str; 2] = ["--sweep-grace", "1h"];
/// Small batches, so that a burst takes a while and its middle can be met.
const SLOWLY: [&str; 8] =
    ["--sweep-grace", "1h", "--close-batch", "20", "--close-concurrency", "1", "--max-orders-per-wake", "10"];

/// Waits until a burst is being closed: some orders are, most are not.
async fn in_the_middle(world: &World) {
    eventually("some orders are closed", async || {
        world.number("SELECT count(*) FROM orders WHERE status = 'CLOSED'").await > 100
    })
    .await;
    assert!(world.statuses().await.contains_key("PENDING"), "the burst was over before it was disturbed");
}

/// Nothing was lost: each order is closed, its stock is back, and its event was published.
async fn all_is_well(world: &World, events: &mut Subscriber) {
    world.all_settled().await;
    assert_eq!(world.statuses().await["CLOSED"], BURST);
    world.assert_stock_conserved(10_000).await;
    let told: HashSet<_> = events.all(world).await.keys().map(|id| order_of(id)).collect();
    assert_eq!(told.len(), BURST, "events are missing");
    let queue = world.names.process();
    eventually("every wake is acknowledged", async || world.depth(&queue).await == 0).await;
    assert_eq!(world.depth(&world.names.parked()).await, 0);
}

#[tokio::test]
async fn a_pod_killed_in_the_middle_of_a_burst_loses_nothing() {
    World::with(async |world| {
        world.stock(1, 10_000).await;
        let first = world.process(&SLOWLY);
        world.declared().await;
        let mut events = world.subscribe(&["order.closed"]).await;
        world.place_many(BURST, 2 * SECOND, 2 * SECOND, &[(1, 1)]).await;
        in_the_middle(world).await;
        first.kill().await;
        let second = world.process(&NO_SWEEP);
        all_is_well(world, &mut events).await;
        second.stopped().await;
    })
    .await;
}

/// Messages that the broker has given to somebody and that are not acknowledged.
async fn unacknowledged(world: &World) -> Option<i64> {
    let queue: Value = world.management.get(&["queues", &world.name, &world.names.process()]).await;
    queue["messages_unacknowledged"].as_i64()
}

#[tokio::test]
async fn a_pod_told_to_stop_finishes_what_it_has_and_leaves_the_rest_to_the_next() {
    World::with(async |world| {
        world.stock(1, 10_000).await;
        let first = world.process(&[&SLOWLY[..], &["--prefetch", "20"]].concat());
        world.declared().await;
        let mut events = world.subscribe(&["order.closed"]).await;
        world.place_many(BURST, 2 * SECOND, 2 * SECOND, &[(1, 1)]).await;
        in_the_middle(world).await;
        first.stopped().await;
        assert_eq!((first.reported("stopping"), first.reported("stopped")), (1, 1), "{}", first.text());
        assert!(world.statuses().await.contains_key("PENDING"), "nothing was left for the next pod");
        eventually("nothing is unacknowledged", async || unacknowledged(world).await == Some(0)).await;

        let second = world.process(&NO_SWEEP);
        all_is_well(world, &mut events).await;
        second.send(Signal::INT).await;
        assert_eq!(second.end().await, 0);
    })
    .await;
}

#[tokio::test]
async fn a_second_signal_ends_the_pod_at_once_and_loses_nothing() {
    World::with(async |world| {
        // With such lanes a pod takes the wake at once and holds it until the deadline.
        let pod = world.process(&["--drain-timeout", "1h", "--lanes", "5s"]);
        world.declared().await;
        let order = world.place(4 * SECOND, &[]).await;
        world.outbox_empty().await;
        let queue = world.names.process();
        eventually("the wake is in flight", async || world.depth(&queue).await == 0).await;
        pod.send(Signal::TERM).await;
        pod.reports_with("stopping", |line| line.number("orders") == Some(1)).await;
        let asked = Instant::now();
        pod.send(Signal::TERM).await;
        let code = pod.end().await;
        assert!(asked.elapsed() < 4 * SECOND, "{}", pod.text());
        assert_eq!((code, pod.reported("stopped")), (1, 1), "{}", pod.text());
        assert_eq!(world.status(order).await, "PENDING");
        let second = world.pod(&[("lanes", "5s"), ("sweep_grace", "1h")]);
        world.closed(order).await;
        second.stop().await;
    })
    .await;
}

/// Waits until another pod than this one leads the relay and the watch; its name.
async fn led_by_another(world: &World, than: &str) -> String {
    let mut leader = String::new();
    for role in ["relay", "watch"] {
        eventually("another pod leads", async || {
            leader = world.leader(role).await.unwrap_or_default();
            !leader.is_empty() && leader != than
        })
        .await;
    }
    leader
}

/// Starts two pods one after the other, the first of which leads, by this name.
async fn leader_and_follower(world: &World) -> (Process, Process, String) {
    let leader = world.process(&[]);
    let leading = led_by_another(world, "").await;
    let follower = world.process(&["--sweep-grace", "300ms"]);
    world.consumed(&world.names.process(), 2).await;
    (leader, follower, leading)
}

/// The relay works again when an order placed now is closed by its wake, and the sweep when one without a wake is.
async fn all_works(world: &World) {
    let order = world.place(SECOND, &[]).await;
    world.closed(order).await;
    world.sql("ALTER TABLE orders DISABLE TRIGGER orders_inserted").await;
    let unheard = world.place(Duration::ZERO, &[]).await;
    world.closed(unheard).await;
    world.outbox_empty().await;
}

#[tokio::test]
async fn leadership_moves_within_seconds_when_the_leader_is_killed() {
    World::with(async |world| {
        let (leader, follower, leading) = leader_and_follower(world).await;
        let killed = Instant::now();
        leader.kill().await;
        led_by_another(world, &leading).await;
        assert!(killed.elapsed() < stretched(10 * SECOND), "{:?}", killed.elapsed());
        all_works(world).await;
        follower.kill().await;
    })
    .await;
}

#[tokio::test]
async fn leadership_moves_within_seconds_when_the_leader_hangs_and_it_steps_down_when_it_wakes_up() {
    World::with(async |world| {
        let (leader, follower, leading) = leader_and_follower(world).await;
        leader.send(Signal::STOP).await;
        let stopped = Instant::now();
        let following = led_by_another(world, &leading).await;
        assert!(stopped.elapsed() < stretched(15 * SECOND), "{:?}", stopped.elapsed());
        leader.send(Signal::CONT).await;
        // It notices that its leases are gone, and waits for its turn.
        eventually("it steps down", async || leader.reported("session_broken") >= 2).await;
        all_works(world).await;
        follower.stopped().await;
        led_by_another(world, &following).await;
        leader.kill().await;
    })
    .await;
}

#[tokio::test]
async fn leadership_moves_when_the_leader_alone_cannot_reach_the_broker() {
    World::with(async |world| {
        let breaker = Breaker::before(&world.amqp_url).await.expect("a breaker");
        let mut cut_off = world.deployment();
        cut_off.amqp_urls = vec![breaker.url.clone()];
        let leader = world.process_of(cut_off, &["run", "--sweep-grace", "1h"]);
        let leading = led_by_another(world, "").await;
        let follower = world.process(&NO_SWEEP);
        world.consumed(&world.names.process(), 2).await;
        breaker.set(Line::Cut);
        // The relay notices when it has something to publish. Its lease is good all the time.
        let order = world.place(SECOND, &[]).await;
        eventually("another pod relays", async || {
            world.leader("relay").await.is_some_and(|now| now != leading)
        })
        .await;
        world.outbox_empty().await;
        world.closed(order).await;
        breaker.set(Line::Up);
        leader.stopped().await;
        follower.stopped().await;
    })
    .await;
}

#[tokio::test]
async fn the_row_of_a_pod_that_was_killed_goes_a_day_later() {
    World::with(async |world| {
        world
            .sql(
                "INSERT INTO pods (pod, version, roles, started_at, seen_at)
                 VALUES ('killed', '1', '{close}', now() - interval '3 days', now() - interval '25 hours'),
                        ('silent', '1', '{close}', now() - interval '3 days', now() - interval '23 hours')",
            )
            .await;
        let pod = world.pod(&[]);
        eventually("the older row is deleted", async || {
            world.number("SELECT count(*) FROM pods WHERE pod IN ('killed', 'silent')").await == 1
        })
        .await;
        assert_eq!(world.number("SELECT count(*) FROM pods WHERE pod = 'silent'").await, 1);
        pod.stop().await;
    })
    .await;
}

#[tokio::test]
async fn leases_that_are_taken_away_or_last_too_long_stop_nothing() {
    World::with(async |world| {
        let pods = [world.process(&[]), world.process(&[])];
        led_by_another(world, "").await;
        // Somebody empties the table, or restores a backup of it.
        world.sql("DELETE FROM leases").await;
        all_works(world).await;
        // The clock was an hour ahead when a pod that is gone renewed them, and was set back.
        world.sql("UPDATE leases SET holder = 'gone', expires_at = now() + interval '1 hour'").await;
        led_by_another(world, "gone").await;
        // The outbox is another table now, as after a repair.
        world
            .sql(
                "ALTER TABLE outbox RENAME TO old_outbox;
                 ALTER INDEX outbox_pkey RENAME TO old_outbox_pkey;
                 CREATE TABLE outbox (LIKE old_outbox INCLUDING ALL)",
            )
            .await;
        let order = world.place(SECOND, &[]).await;
        world.closed(order).await;
        world.outbox_empty().await;
        for pod in pods {
            pod.kill().await;
        }
    })
    .await;
}

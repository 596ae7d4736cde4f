//! Invariant 8: whatever breaks, a connection, a queue, a node, the database, delays closing, and does nothing else.
//! Sessions are built again, no attempt is burnt by an outage, nothing is parked and nothing is lost.

use std::time::Duration;

use futures_util::FutureExt;
use lapin::options::QueueDeleteOptions;
use overdue::database::{ErrorClass, error_class};
use overdue::stats::Count;
use sqlx::Row;

use crate::harness::{Breaker, Line, TestPod, World, eventually, order_of, stretched};

const SECOND: Duration = Duration::from_secs(1);
const LOAD: usize = 1_500;
/// One failure that is an order's own would park it: an outage must not count as one.
const NO_SECOND_CHANCE: (&str, &str) = ("max_attempts", "1");
/// The sweep would hide that a wake was lost.
const NO_SWEEP: (&str, &str) = ("sweep_grace", "1h");

/// All the load was closed, nothing is parked, and no event is missing.
async fn all_is_well(world: &World, pods: &[&TestPod], events: &mut crate::harness::Subscriber) {
    world.all_settled().await;
    assert_eq!(world.statuses().await["CLOSED"], LOAD);
    world.assert_stock_conserved(10_000).await;
    let told: std::collections::HashSet<_> = events.all(world).await.keys().map(|id| order_of(id)).collect();
    assert_eq!(told.len(), LOAD, "events are missing");
    for pod in pods {
        assert_eq!(pod.shared.stats.get(Count::Failed), 0, "an outage was held against an order");
        assert_eq!(pod.shared.stats.get(Count::Parked), 0);
    }
    assert_eq!(world.depth(&world.names.parked()).await, 0);
}

#[tokio::test]
async fn a_transaction_given_up_while_it_begins_is_open_in_no_connection_of_the_pool() {
    World::with(async |world| {
        let pool = world.database();
        for _ in 0..3 {
            let mut session = pool.acquire().await.expect("a connection");
            // Polled once: BEGIN is sent, and nobody waits for the answer.
            let answer = session.begin("SELECT pg_sleep(0.02)").now_or_never().map(|begun| begun.map(|_| ()));
            assert!(answer.is_none(), "{answer:?}");
        }
        // All connections at once, so that none is left out.
        let mut sessions = Vec::new();
        for _ in 0..world.config(&[]).database_connections {
            sessions.push(pool.acquire().await.expect("a connection"));
        }
        for mut session in sessions {
            let row = sqlx::raw_sql("SELECT now() = statement_timestamp()").fetch_one(&mut session).await;
            let outside: bool = row.expect("an answer").get(0);
            assert!(outside, "what is done here would not be committed");
        }
        pool.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_server_that_does_not_support_what_a_transaction_begins_with_is_away() {
    World::with(async |world| {
        let pool = world.database();
        let mut session = pool.acquire().await.expect("a connection");
        // As a standby behind a pooler refuses a transaction that may write: with 0A000, which says nothing about an order.
        let refused = session.begin("SELECT DISTINCT order_id FROM orders FOR UPDATE").await;
        assert_eq!(error_class(&refused.map(|_| ()).expect_err("refused")), ErrorClass::Away);
        drop(session);
        pool.close().await;
    })
    .await;
}

#[tokio::test]
async fn connections_closed_by_an_operator_during_load_lose_nothing() {
    World::with(async |world| {
        world.stock(1, 10_000).await;
        let pods = [world.pod(&[NO_SWEEP, NO_SECOND_CHANCE]), world.pod(&[NO_SWEEP, NO_SECOND_CHANCE])];
        world.declared().await;
        world.place_many(LOAD, SECOND, 6 * SECOND, &[(1, 1)]).await;
        for round in 1..=3 {
            eventually("some more are closed", async || {
                world.number("SELECT count(*) FROM orders WHERE status = 'CLOSED'").await > 200 * round
            })
            .await;
            eventually("connections were closed", async || world.close_connections().await > 0).await;
        }
        let rebuilt = || pods.iter().map(|pod| pod.shared.stats.get(Count::Rebuilt)).sum::<u64>();
        eventually("sessions were rebuilt", async || rebuilt() >= 3).await;
        // Only now: the test's own connection would have been closed with the others.
        let mut events = world.subscribe(&["order.closed"]).await;
        world.place_many(300, SECOND, 2 * SECOND, &[(1, 1)]).await;
        world.all_settled().await;
        assert_eq!(world.statuses().await["CLOSED"], LOAD + 300);
        assert!(events.all(world).await.len() >= 300, "events are missing");
        world.assert_stock_conserved(10_000).await;
        assert_eq!(
            pods.iter().map(|pod| pod.shared.stats.get(Count::Swept)).sum::<u64>(),
            0,
            "a wake was lost"
        );
        assert_eq!(world.depth(&world.names.parked()).await, 0);
        for pod in pods {
            pod.stop().await;
        }
    })
    .await;
}

#[tokio::test]
async fn channels_that_the_broker_closes_during_load_lose_nothing() {
    World::with(async |world| {
        world.stock(1, 10_000).await;
        let broker = Breaker::before(&world.amqp_url).await.expect("a breaker");
        let pod = world.pod(&[("amqp_url", &broker.url), NO_SWEEP, NO_SECOND_CHANCE]);
        world.declared().await;
        let mut events = world.subscribe(&["order.closed"]).await;
        world.place_many(LOAD, SECOND, 4 * SECOND, &[(1, 1)]).await;
        for round in 1..=3 {
            eventually("some more are closed", async || pod.shared.stats.get(Count::Closed) > 200 * round)
                .await;
            let rebuilt = pod.shared.stats.get(Count::Rebuilt);
            // Again until it is felt: sessions that are just being built have no channel yet.
            eventually("sessions were rebuilt", async || {
                broker.disturb();
                pod.shared.stats.get(Count::Rebuilt) > rebuilt
            })
            .await;
        }
        all_is_well(world, &[&pod], &mut events).await;
        assert_eq!(pod.shared.stats.get(Count::Swept), 0, "a wake was lost");
        pod.stop().await;
    })
    .await;
}

#[tokio::test]
async fn database_sessions_terminated_during_load_lose_nothing() {
    World::with(async |world| {
        world.stock(1, 10_000).await;
        let pods = [world.pod(&[NO_SWEEP, NO_SECOND_CHANCE]), world.pod(&[NO_SWEEP, NO_SECOND_CHANCE])];
        world.declared().await;
        let mut events = world.subscribe(&["order.closed"]).await;
        world.place_many(LOAD, SECOND, 4 * SECOND, &[(1, 1)]).await;
        for round in 1..=5 {
            eventually("some more are closed", async || {
                world.number("SELECT count(*) FROM orders WHERE status = 'CLOSED'").await > 150 * round
            })
            .await;
            let ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                         WHERE datname = current_database() AND application_name = 'overdue'";
            eventually("sessions were ended", async || world.number(ended).await > 0).await;
        }
        all_is_well(world, &[&pods[0], &pods[1]], &mut events).await;
        for pod in pods {
            pod.stop().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_database_that_is_away_for_seconds_delays_closing_and_burns_no_attempt() {
    World::with(async |world| {
        world.stock(1, 10_000).await;
        let breaker = Breaker::before(&world.database_url).await.expect("a breaker");
        // Longer away than a pod waits in place: it gives its messages back and stops taking any.
        let settings = [
            ("database_url", breaker.url.as_str()),
            ("outage_retry_for", "500ms"),
            NO_SWEEP,
            NO_SECOND_CHANCE,
        ];
        let pod = world.pod(&settings);
        world.declared().await;
        let mut events = world.subscribe(&["order.closed"]).await;
        world.place_many(LOAD, SECOND, 3 * SECOND, &[(1, 1)]).await;
        eventually("closing has begun", async || pod.shared.stats.get(Count::Closed) > 100).await;
        breaker.set(Line::Cut);
        let before = pod.shared.stats.get(Count::Closed);
        // All that is left becomes due, and the pod tries and tries.
        eventually("every deadline has passed", async || {
            world
                .number("SELECT count(*) FROM orders WHERE payment_deadline > now() - interval '2 seconds'")
                .await
                == 0
        })
        .await;
        assert!(pod.shared.stats.get(Count::Rebuilt) > 0, "the outage was not noticed");
        // What was committed just before the cut may not have been counted; nothing else was closed.
        let closed = world.statuses().await["CLOSED"] as u64;
        assert!(closed < LOAD as u64 && closed <= before + 1_000, "{closed} closed through a cut line");

        breaker.set(Line::Up);
        let back = std::time::Instant::now();
        world.all_settled().await;
        assert!(
            back.elapsed() < stretched(15 * SECOND),
            "closed {:?} after the database came back",
            back.elapsed()
        );
        all_is_well(world, &[&pod], &mut events).await;
        pod.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_database_or_broker_that_hangs_for_a_moment_delays_closing_and_does_nothing_else() {
    World::with(async |world| {
        world.stock(1, 10_000).await;
        let (database, broker) = (
            Breaker::before(&world.database_url).await.expect("a breaker"),
            Breaker::before(&world.amqp_url).await.expect("a breaker"),
        );
        let settings = [
            ("database_url", database.url.as_str()),
            ("amqp_url", broker.url.as_str()),
            NO_SWEEP,
            NO_SECOND_CHANCE,
        ];
        let pod = world.pod(&settings);
        world.declared().await;
        let mut events = world.subscribe(&["order.closed"]).await;
        world.place_many(LOAD, SECOND, 4 * SECOND, &[(1, 1)]).await;
        for (line, target) in [(&database, 200), (&broker, 400), (&database, 600), (&broker, 800)] {
            let closed = || pod.shared.stats.get(Count::Closed);
            eventually("closing goes on", async || closed() > target).await;
            line.set(Line::Stalled);
            let start = world.number("SELECT extract(epoch FROM clock_timestamp())::bigint").await;
            eventually("a second has passed", async || {
                world.number("SELECT extract(epoch FROM clock_timestamp())::bigint").await > start + 1
            })
            .await;
            line.set(Line::Up);
        }
        all_is_well(world, &[&pod], &mut events).await;
        pod.stop().await;
    })
    .await;
}

#[tokio::test]
async fn connections_that_go_silent_for_ever_are_given_up_and_replaced() {
    World::with(async |world| {
        let (database, broker) = (
            Breaker::before(&world.database_url).await.expect("a breaker"),
            Breaker::before(&world.amqp_url).await.expect("a breaker"),
        );
        // Sooner noticed than with the usual heartbeat; the few database connections are all in use when it happens.
        let amqp_url = format!("{}?heartbeat=2", broker.url);
        let settings = [
            ("database_url", database.url.as_str()),
            ("amqp_url", amqp_url.as_str()),
            ("close_concurrency", "1"),
            ("database_connections", "6"),
            NO_SWEEP,
            NO_SECOND_CHANCE,
        ];
        let pod = world.pod(&settings);
        world.ready().await;
        world.place_many(LOAD, Duration::ZERO, SECOND, &[]).await;
        eventually("closing has begun", async || pod.shared.stats.get(Count::Closed) > 100).await;
        database.silence();
        broker.silence();
        world.all_settled().await;
        assert_eq!(pod.shared.stats.get(Count::Parked), 0);
        pod.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_broker_that_is_away_delays_wakes_and_events_and_loses_none() {
    World::with(async |world| {
        world.stock(1, 10_000).await;
        let breaker = Breaker::before(&world.amqp_url).await.expect("a breaker");
        let pod = world.pod(&[("amqp_url", &breaker.url), NO_SWEEP, NO_SECOND_CHANCE]);
        world.declared().await;
        let mut events = world.subscribe(&["order.closed"]).await;
        world.place_many(LOAD - 500, SECOND, 4 * SECOND, &[(1, 1)]).await;
        eventually("closing has begun", async || pod.shared.stats.get(Count::Closed) > 100).await;
        breaker.set(Line::Cut);
        eventually("all roles noticed", async || pod.shared.stats.get(Count::Rebuilt) >= 3).await;
        // Orders are still placed: the shop needs no broker.
        world.place_many(500, Duration::ZERO, SECOND, &[(1, 1)]).await;
        breaker.set(Line::Up);
        // By their wakes alone: the sweep has an hour of grace.
        all_is_well(world, &[&pod], &mut events).await;
        assert_eq!(pod.shared.stats.get(Count::Swept), 0);
        pod.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_deleted_process_queue_is_declared_again_and_what_was_in_it_is_swept() {
    World::with(async |world| {
        let pod = world.pod(&[("sweep_every", "200ms"), ("sweep_grace", "1s")]);
        let queue = world.names.process();
        // A pod that takes no wakes yet would just declare it again.
        world.consumed(&queue, 1).await;
        world.place_many(100, SECOND / 10, SECOND / 2, &[]).await;
        world.outbox_empty().await;
        let (connection, channel) = world.channel().await;
        channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.expect("deleted");
        connection.close(200, "done".into()).await.expect("closed");
        world.all_settled().await;
        // The consumer ended without a word; the pod noticed, declared the queue again, and wakes pass as before.
        eventually("the session was rebuilt", async || pod.shared.stats.get(Count::Rebuilt) >= 1).await;
        let late = world.place(SECOND, &[]).await;
        assert!(world.closed(late).await < SECOND, "not its wake closed it, but the sweep");
        pod.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_pod_that_starts_before_broker_and_database_begins_when_they_are_there() {
    World::with(async |world| {
        let (database, broker) = (
            Breaker::before(&world.database_url).await.expect("a breaker"),
            Breaker::before(&world.amqp_url).await.expect("a breaker"),
        );
        database.set(Line::Cut);
        broker.set(Line::Cut);
        let pod = world.pod(&[("database_url", &database.url), ("amqp_url", &broker.url)]);
        let order = world.place(SECOND, &[]).await;
        eventually("every role has tried", async || pod.shared.stats.get(Count::Rebuilt) >= 8).await;
        database.set(Line::Up);
        broker.set(Line::Up);
        world.closed(order).await;
        pod.stop().await;
    })
    .await;
}

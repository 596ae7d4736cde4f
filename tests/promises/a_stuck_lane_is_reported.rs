//! Messages that stay in a queue after their moment are noticed and reported, whatever the reason; the sweep closes the
//! orders meanwhile, and a lane that delivers again is said to.

use std::time::Duration;

use lapin::BasicProperties;
use lapin::options::QueuePurgeOptions;
use lapin::types::FieldTable;
use overdue::roles::Role;
use overdue::stats::Count;
use serde_json::Value;

use crate::harness::{Process, World, eventually};

const SECOND: Duration = Duration::from_secs(1);
/// Often and impatient: a lane of a second is found out within a few.
const WATCHFUL: [(&str, &str); 3] =
    [("probe_every", "200ms"), ("sweep_grace", "1s"), ("sweep_every", "200ms")];
/// The same, and what is broken stays broken until somebody repairs it.
const AND_IDLE: [(&str, &str); 4] = [WATCHFUL[0], WATCHFUL[1], WATCHFUL[2], ("declare_topology", "false")];

/// The same for a pod of its own, with more arguments.
fn watchful(world: &World, more: &[&str]) -> Process {
    let quick = ["--probe-every", "200ms", "--sweep-grace", "1s", "--sweep-every", "200ms"];
    world.process(&[&quick, more].concat())
}

/// What `overdue lanes` says: its exit code, and the state of each queue.
async fn lanes(world: &World) -> (i32, Vec<(String, String)>) {
    let mut said = (1, String::new(), String::new());
    eventually("broker and database answer in time", async || {
        said = world.run(&["lanes", "--sweep-grace", "1s", "--probe-every", "200ms", "--json"]).await;
        said.0 != 1
    })
    .await;
    let (code, shown, error) = said;
    let shown: Vec<Value> = serde_json::from_str(&shown).unwrap_or_else(|_| panic!("{shown} {error}"));
    let text = |line: &Value, key: &str| line[key].as_str().expect("a text").to_owned();
    (code, shown.iter().map(|line| (text(line, "queue"), text(line, "state"))).collect())
}

async fn all_lanes_are_well(world: &World) {
    eventually("every lane is well", async || {
        let (code, lanes) = lanes(world).await;
        code == 0 && lanes.len() == 4 && lanes.iter().all(|(_, state)| state == "ok")
    })
    .await;
}

/// Nothing that expires finds its way any more.
async fn cut_off_the_process_queue(world: &World) {
    let (_connection, channel) = world.channel().await;
    let (process, exchange) = (world.names.process(), world.names.exchange());
    let unbind = channel.queue_unbind(
        process.as_str().into(),
        exchange.as_str().into(),
        "order.process".into(),
        FieldTable::default(),
    );
    unbind.await.expect("unbound");
}

#[tokio::test]
async fn a_lane_that_delivers_is_well_however_long_it_is_and_its_probes_disturb_nothing() {
    World::with(async |world| {
        world.stock(1, 1_000).await;
        let long = "1s,2s,15m";
        let pod = world.pod(&[WATCHFUL[0], ("sweep_grace", "1h"), ("lanes", long)]);
        world.declared().await;
        eventually("the empty lanes are well at once, that of 15 minutes too", async || {
            let (code, shown, _) = world.run(&["lanes", "--lanes", long]).await;
            code == 0 && shown.matches("a probe came through").count() == 3
        })
        .await;
        world.place_many(300, SECOND, 3 * SECOND, &[(1, 1)]).await;
        world.all_settled().await;
        world.outbox_empty().await;
        assert_eq!(pod.shared.stats.get(Count::Closed), 300);
        assert_eq!(pod.shared.stats.get(Count::StuckTotal) + pod.shared.stats.get(Count::Parked), 0);
        // Old probes are forgotten: of each lane the last that came back stays, and what is on its way.
        eventually("few rows", async || world.number("SELECT count(*) FROM lane_probes").await < 12).await;
        pod.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_dead_letter_blockage_is_reported_and_the_sweep_closes_what_is_behind_it() {
    World::with(async |world| {
        world.stock(1, 10_000).await;
        world.declare().await;
        // Each order has a message of its own: more than a broker moves at once, by default or with our settings.
        let pod = world.pod(&[&AND_IDLE[..], &[("max_orders_per_wake", "1")]].concat());
        all_lanes_are_well(world).await;
        cut_off_the_process_queue(world).await;
        world.place_many(1_200, 2 * SECOND, 2 * SECOND, &[(1, 1)]).await;
        world.all_settled().await;
        assert_eq!(world.statuses().await["CLOSED"], 1_200);
        world.assert_stock_conserved(10_000).await;
        eventually("it is noticed", async || pod.shared.stats.get(Count::Stuck) >= 3).await;
        let (code, shown) = lanes(world).await;
        assert_eq!(code, 4, "{shown:?}");
        assert_eq!(shown.iter().filter(|(_, state)| state == "stuck").count(), 3, "{shown:?}");
        assert_eq!(pod.shared.stats.get(Count::Swept), 1_200);
        pod.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_lane_whose_way_is_free_again_is_well_again() {
    World::with(async |world| {
        world.declare().await;
        let pod = watchful(world, &["--declare-topology", "false"]);
        all_lanes_are_well(world).await;
        cut_off_the_process_queue(world).await;
        let order = world.place(2 * SECOND, &[]).await;
        world.closed(order).await;
        pod.reports_with("lane_stuck", |line| line.text("queue") == Some("order.delay.2s.queue")).await;
        world.declare().await;
        pod.reports("lane_recovered").await;
        all_lanes_are_well(world).await;
        // The wake that was held up comes, sooner or later, and finds nothing to do.
        pod.stopped().await;
    })
    .await;
}

#[tokio::test]
async fn a_pod_that_may_declare_repairs_a_missing_binding_itself() {
    World::with(async |world| {
        let pod = world.pod_with_roles(&[Role::Watch, Role::Close], &WATCHFUL);
        all_lanes_are_well(world).await;
        cut_off_the_process_queue(world).await;
        eventually("it is noticed", async || pod.shared.stats.get(Count::StuckTotal) > 0).await;
        all_lanes_are_well(world).await;
        pod.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_lane_that_nothing_leads_into_is_told_and_counted_until_it_is_bound_again() {
    World::with(async |world| {
        world.declare().await;
        let pod = world.pod_with_roles(&[Role::Watch, Role::Close], &AND_IDLE);
        all_lanes_are_well(world).await;
        let (connection, channel) = world.channel().await;
        let (queue, exchange) = ("order.delay.2s.queue", world.names.exchange());
        let unbind = channel.queue_unbind(
            queue.into(),
            exchange.as_str().into(),
            "order.delay.2s".into(),
            FieldTable::default(),
        );
        unbind.await.expect("unbound");
        eventually("it is counted", async || pod.shared.stats.get(Count::Stuck) == 1).await;
        eventually("it is told", async || {
            let (code, shown) = lanes(world).await;
            code == 4 && shown.contains(&(queue.to_owned(), "cut off".to_owned()))
        })
        .await;
        let (_, shown) = lanes(world).await;
        assert_eq!(
            shown.iter().filter(|(_, state)| state == "ok").count(),
            3,
            "the others are well: {shown:?}"
        );
        // Of the probes that were not taken only two are kept, and perhaps one that has just been announced.
        let rows = format!("SELECT count(*) FROM lane_probes WHERE queue = '{queue}'");
        eventually("few rows", async || world.number(&rows).await <= 4).await;
        world.declare().await;
        all_lanes_are_well(world).await;
        eventually("no lane is stuck", async || pod.shared.stats.get(Count::Stuck) == 0).await;
        assert_eq!(pod.shared.stats.get(Count::StuckTotal), 1);
        assert_eq!(pod.shared.stats.get(Count::Rebuilt), 0, "the watch goes on");
        connection.close(200, "done".into()).await.expect("closed");
        pod.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_message_that_never_expires_is_noticed_and_a_purge_that_takes_the_probes_along_heals_the_lane() {
    World::with(async |world| {
        let pod = world.pod(&WATCHFUL);
        all_lanes_are_well(world).await;
        // As a service might that publishes into a lane by itself.
        world.publish("order.delay.1s", b"{\"order_id\":1}", BasicProperties::default()).await;
        eventually("it is noticed", async || pod.shared.stats.get(Count::Stuck) == 1).await;
        let (code, shown) = lanes(world).await;
        assert_eq!(code, 4, "{shown:?}");
        let stuck: Vec<_> = shown.into_iter().filter(|(_, state)| state != "ok").collect();
        assert_eq!(stuck, [("order.delay.1s.queue".to_owned(), "stuck".to_owned())]);
        let (_connection, channel) = world.channel().await;
        channel
            .queue_purge("order.delay.1s.queue".into(), QueuePurgeOptions::default())
            .await
            .expect("purged");
        all_lanes_are_well(world).await;
        eventually("no lane is stuck", async || pod.shared.stats.get(Count::Stuck) == 0).await;
        assert_eq!(pod.shared.stats.get(Count::StuckTotal), 1);
        pod.stop().await;
    })
    .await;
}

#[tokio::test]
async fn wakes_that_nobody_takes_are_reported_as_that_and_not_as_a_stuck_lane() {
    World::with(async |world| {
        let watcher = watchful(world, &["--roles", "relay,sweep,watch"]);
        watcher.reports("watching").await;
        let order = world.place(SECOND, &[]).await;
        world.closed(order).await;
        watcher.reports("wakes_not_taken").await;
        let (code, shown) = lanes(world).await;
        assert_eq!(code, 4);
        assert!(shown.contains(&(world.names.process(), "stuck".to_owned())), "{shown:?}");
        assert_eq!(watcher.reported("lane_stuck"), 0, "{}", watcher.text());
        let pod = world.pod_with_roles(&[Role::Close], &[]);
        watcher.reports("wakes_taken_again").await;
        all_lanes_are_well(world).await;
        pod.stop().await;
        watcher.stopped().await;
    })
    .await;
}

#[tokio::test]
async fn a_forged_probe_is_harmless() {
    World::with(async |world| {
        let probe = |kind: &str| BasicProperties::default().with_type(kind.into());
        let pod = world.pod_with_roles(&[Role::Close, Role::Intake], &[]);
        world.declared().await;
        for body in ["{\"probe\":\"0\"}", "{\"probe\":\"00000000-0000-0000-0000-000000000000\"}"] {
            world.publish("order.process", body.as_bytes(), probe("overdue.probe")).await;
        }
        let queue = world.names.process();
        eventually("they are gone", async || {
            let queue: Value = world.management.get(&["queues", &world.name, &queue]).await;
            queue["messages"].as_i64() == Some(0)
        })
        .await;
        assert_eq!(world.number("SELECT count(*) FROM lane_probes").await, 0);
        // What only resembles one is parked, as whatever else cannot be understood; so is one that a service sends.
        world.publish("order.process", b"{\"probe\":\"' OR 1=1\"}", probe("overdue.probe")).await;
        world.publish("order.delay", b"{\"probe\":\"0\"}", probe("overdue.probe")).await;
        world.parked(2).await;
        pod.stop().await;
    })
    .await;
}

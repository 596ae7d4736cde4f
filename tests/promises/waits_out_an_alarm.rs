//! Invariant 8: a broker that blocks publishers (a memory or disk alarm) delays wakes and events, and nothing else.
//! Closing goes on, nothing is built again, and everything is published when the alarm is over.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Alarm, World, eventually, stretched};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn closing_goes_on_while_publishers_are_blocked_and_everything_is_published_afterwards() {
    World::with(async |world| {
        world.stock(1, 10_000).await;
        let alarm = Alarm::before(&world.amqp_url).await;
        // The sweep would hide that wakes do not close; the watch would publish at moments of its own.
        let mut arguments = vec!["--amqp-url", &alarm.url, "--broker-timeout", "1500ms"];
        arguments.extend(["--sweep-grace", "1h", "--roles", "relay,intake,close,sweep"]);
        // One hop for every wake, however slow the machine: another would wait for the alarm to be over, or for the sweep.
        arguments.extend(["--lanes", "2s,5s", "--lead", "900ms", "--lane-tolerance", "900ms"]);
        let pod = world.process(&arguments);
        world.ready().await;
        let mut events = world.subscribe(&["order.closed"]).await;
        world.place_many(300, SECOND * 49 / 10, 5 * SECOND, &[(1, 1)]).await;
        world.outbox_empty().await;
        let opened = alarm.opened();

        alarm.set(true);
        world.all_settled().await;
        // Acknowledgements pass: nothing is left of the wakes.
        eventually("every wake is acknowledged", async || {
            let queue: Value = world.management.get(&["queues", &world.name, &world.names.process()]).await;
            queue["messages"].as_i64() == Some(0) && queue["messages_unacknowledged"].as_i64() == Some(0)
        })
        .await;
        // A buyer is not held up, and the pod waits for longer than it waits for any answer.
        let later = world.place_many(50, SECOND / 2, SECOND, &[(1, 1)]).await;
        eventually("it waits", async || pod.reported("publishers_blocked") >= 3).await;
        assert!(alarm.blocked() <= 2, "only the relay had anything to publish, wakes and events");
        assert_eq!(alarm.opened(), opened, "connections were opened in vain: {}", pod.text());
        assert_eq!(world.status(later[0]).await, "PENDING");

        alarm.set(false);
        world.all_settled().await;
        assert_eq!(events.all(world).await.len(), 350);
        assert_eq!(alarm.opened(), opened, "a session was built again: {}", pod.text());
        world.assert_stock_conserved(10_000).await;
        pod.stopped().await;
    })
    .await;
}

#[tokio::test]
async fn a_pod_told_to_stop_while_publishers_are_blocked_stops_in_time() {
    World::with(async |world| {
        let alarm = Alarm::before(&world.amqp_url).await;
        let pod =
            world.process(&["--amqp-url", &alarm.url, "--drain-timeout", "1s", "--probe-every", "200ms"]);
        world.ready().await;
        alarm.set(true);
        let order = world.place(SECOND, &[]).await;
        eventually("relay and watch are blocked", async || alarm.blocked() >= 2).await;
        let asked = Instant::now();
        // Nothing of any order is in flight.
        pod.stopped().await;
        assert!(asked.elapsed() < stretched(5 * SECOND), "{:?}: {}", asked.elapsed(), pod.text());
        alarm.set(false);
        let next = world.pod(&[("sweep_grace", "1h")]);
        world.closed(order).await;
        next.stop().await;
    })
    .await;
}

//! Every signal that asks a pod to go makes it drain, and a second one that cuts nothing off is no failure.

use std::time::Duration;

use overdue_testkit::deployment::Deployment;

use crate::harness::{Process, Signal, World};

/// A pod that another program starts.
fn started_by(world: &World, launcher: &[&str]) -> Process {
    let overdue = world.deployment();
    let arguments = [&launcher[1..], &[overdue.binary.to_str().expect("a path"), "run"]].concat();
    world.process_of(Deployment { binary: launcher[0].into(), ..world.deployment() }, &arguments)
}

#[tokio::test]
async fn a_pod_drains_when_its_terminal_goes_as_when_it_is_terminated() {
    World::with(async |world| {
        for signal in [Signal::HUP, Signal::INT, Signal::TERM] {
            // Whoever runs the tests may ignore signals, and a child inherits that.
            let pod = started_by(world, &["env", "--default-signal"]);
            world.consumed(&world.names.process(), 1).await;
            pod.send(signal).await;
            assert_eq!(pod.end().await, 0, "{signal:?}: {}", pod.text());
            assert_eq!(pod.reported("stopping"), 1, "{signal:?}: {}", pod.text());
        }
    })
    .await;
}

#[tokio::test]
async fn a_second_signal_with_nothing_in_hand_is_no_failure() {
    World::with(async |world| {
        let pod = world.process(&[]);
        world.consumed(&world.names.process(), 1).await;
        pod.send(Signal::TERM).await;
        pod.reports("stopping").await;
        pod.stopped().await;
    })
    .await;
}

#[tokio::test]
async fn a_pod_under_nohup_outlives_its_terminal() {
    World::with(async |world| {
        let pod = started_by(world, &["nohup"]);
        world.ready().await;
        pod.send(Signal::HUP).await;
        let order = world.place(Duration::from_millis(300), &[]).await;
        world.closed(order).await;
        pod.stopped().await;
    })
    .await;
}

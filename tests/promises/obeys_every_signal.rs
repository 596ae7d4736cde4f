//! Every signal that asks a pod to go makes it drain, and a second one that cuts nothing off is no failure.

use std::time::Duration;

use tokio::process::Command;

use crate::harness::{Process, World};

/// A pod that another program starts.
fn started_by(world: &World, launcher: &[&str]) -> Process {
    let pod = world.command(&["run"]);
    let mut command = Command::new(launcher[0]);
    command.args(&launcher[1..]).arg(pod.as_std().get_program()).args(pod.as_std().get_args());
    command.envs(pod.as_std().get_envs().filter_map(|(name, value)| Some((name, value?))));
    Process::start(command.kill_on_drop(true))
}

#[tokio::test]
async fn a_pod_drains_when_its_terminal_goes_as_when_it_is_terminated() {
    World::with(async |world| {
        for signal in ["HUP", "INT", "TERM"] {
            // Whoever runs the tests may ignore signals, and a child inherits that.
            let pod = started_by(world, &["env", "--default-signal"]);
            world.consumed(&world.names.process(), 1).await;
            pod.send(signal).await;
            let (code, log) = pod.end().await;
            assert_eq!(code, 0, "{signal}: {log}");
            assert!(log.contains("event=stopping"), "{signal}: {log}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_second_signal_with_nothing_in_hand_is_no_failure() {
    World::with(async |world| {
        let pod = world.process(&[]);
        world.consumed(&world.names.process(), 1).await;
        pod.send("TERM").await;
        pod.says("event=stopping").await;
        pod.send("TERM").await;
        let (code, log) = pod.end().await;
        assert_eq!(code, 0, "{log}");
    })
    .await;
}

#[tokio::test]
async fn a_pod_under_nohup_outlives_its_terminal() {
    World::with(async |world| {
        let pod = started_by(world, &["nohup"]);
        world.ready().await;
        pod.send("HUP").await;
        let order = world.place(Duration::from_millis(300), &[]).await;
        world.closed(order).await;
        pod.send("TERM").await;
        let (code, log) = pod.end().await;
        assert_eq!(code, 0, "{log}");
    })
    .await;
}

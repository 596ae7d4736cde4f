//! Invariant 8, for as long as it takes: a broker that accepts connections and says nothing (it hangs, or its disk does)
//! may do so for days, and a pod tries again every two seconds.

use overdue::role::Role;

use crate::harness::{Breaker, Line, World, eventually};

#[tokio::test]
async fn a_connection_that_was_given_up_leaves_neither_thread_nor_socket() {
    World::with(async |world| {
        let broker = Breaker::before(&world.amqp_url).await.expect("a breaker");
        broker.set(Line::Stalled);
        let pod = world.process(&["--amqp-url", &broker.url, "--confirm-timeout", "300ms"]);
        let given_up = || pod.log().matches("no answer from the broker").count();
        let many = 4 * Role::ALL.len();
        eventually("every role has given up several times", async || given_up() >= many).await;
        // Each role is trying once more.
        eventually("what was given up is gone", async || pod.threads("lapin-io-loop") <= Role::ALL.len())
            .await;
        pod.kill().await;
    })
    .await;
}

//! Invariant 8, for as long as it takes: a broker that accepts connections and says nothing (it hangs, or its disk does)
//! may do so for days, and a pod tries again every two seconds.

use lapin::options::BasicConsumeOptions;
use lapin::types::FieldTable;
use overdue::broker::{Broker, BrokerError};
use overdue::roles::Role;

use crate::harness::{Breaker, Line, World, eventually};

#[tokio::test]
async fn a_connection_that_was_given_up_leaves_neither_thread_nor_socket() {
    World::with(async |world| {
        let broker = Breaker::before(&world.amqp_url).await.expect("a breaker");
        broker.set(Line::Stalled);
        let pod = world.process(&["--amqp-url", &broker.url, "--broker-timeout", "300ms"]);
        let many = 4 * Role::ALL.len();
        eventually("every role has given up several times", async || pod.reported("session_broken") >= many)
            .await;
        // Each role is trying once more.
        eventually("what was given up is gone", async || {
            pod.threads("lapin-io-loop").await <= Role::ALL.len()
        })
        .await;
        pod.kill().await;
    })
    .await;
}

#[tokio::test]
async fn a_session_that_gave_up_leaves_no_consumer_behind_to_take_what_nobody_reads() {
    World::with(async |world| {
        world.declare().await;
        let line = Breaker::before(&world.amqp_url).await.expect("a breaker");
        let config = world.config(&[("amqp_url", &line.url), ("broker_timeout", "300ms")]);
        let broker = Broker::new(&config);
        let connection = broker.connect("test").await.expect("a connection");
        let channel = broker.channel(&connection).await.expect("a channel");
        let connections = async || {
            let listed = world.management.get(&["vhosts", &world.name, "connections"]).await;
            listed.as_array().expect("a list").len()
        };
        eventually("the connection is listed", async || connections().await == 1).await;

        // A node that is cut off from the queue's leader answers nothing either, and then does what it was told.
        line.set(Line::Stalled);
        let (queue, options) = (world.names.process(), BasicConsumeOptions::default());
        let consume = channel.basic_consume(queue.as_str().into(), "".into(), options, FieldTable::default());
        let given_up = broker.bounded("consuming", consume).await;
        assert!(matches!(given_up, Err(BrokerError::Timeout { .. })), "{given_up:?}");
        drop((channel, connection));
        line.set(Line::Up);
        eventually("what was given up is gone", async || connections().await == 0).await;
    })
    .await;
}

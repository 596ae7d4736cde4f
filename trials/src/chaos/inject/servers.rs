//! What happens to the servers. Each holds its server's lock until that works again.

use std::time::Duration;

use anyhow::Result;
use lapin::types::AMQPValue;
use overdue_testkit::broker::{Broker, EVENTS};
use sqlx::Executor;
use tokio::time::sleep;

use super::delete_queue;
use crate::arena::Arena;

pub async fn kill_broker(arena: &Arena, node: usize, back_after: Duration) -> Result<()> {
    let mut rabbit = arena.servers.rabbit.lock().await;
    rabbit.kill(node).await?;
    sleep(back_after).await;
    rabbit.start(node).await
}

/// A subscriber's quorum queue loses its majority: its only member is on this node, which is killed. Nothing that is published to
/// it is confirmed meanwhile.
pub async fn lose_a_subscriber(arena: &Arena, node: usize, lasting: Duration) -> Result<()> {
    let queue = format!("trial.lost.{}", rand::random::<u32>());
    let alone = [
        ("x-queue-type", AMQPValue::LongString("quorum".into())),
        ("x-quorum-initial-group-size", AMQPValue::LongLongInt(1)),
    ];
    let there = Broker::new(&arena.deployment.amqp_urls[node..=node], &arena.deployment.prefix);
    there.subscribe(&queue, EVENTS, &["order.*"], &alone).await?;
    kill_broker(arena, node, lasting).await?;
    delete_queue(arena, &queue).await
}

pub async fn restart_broker(arena: &Arena, node: usize) -> Result<()> {
    let mut rabbit = arena.servers.rabbit.lock().await;
    rabbit.stop(node).await?;
    rabbit.start(node).await
}

pub async fn freeze_broker(arena: &Arena, node: usize, lasting: Duration) -> Result<()> {
    let rabbit = arena.servers.rabbit.lock().await;
    rabbit.freeze(node)?;
    sleep(lasting).await;
    rabbit.thaw(node)
}

pub async fn close_connections(arena: &Arena) -> Result<()> {
    let rabbit = arena.servers.rabbit.lock().await;
    rabbit.ctl(0, &["close_all_connections", "maintenance"]).await.map(drop)
}

/// Above its limit a broker blocks every publisher.
pub async fn raise_alarm(
    arena: &Arena,
    node: usize,
    lasting: Duration,
    setting: &str,
    [on, off]: [&str; 2],
) -> Result<()> {
    let rabbit = arena.servers.rabbit.lock().await;
    let raised = rabbit.ctl(node, &[setting, on]).await;
    sleep(lasting).await;
    // In any case: it may have taken effect although no answer came.
    let cleared = rabbit.ctl(node, &[setting, off]).await;
    raised.and(cleared).map(drop)
}

pub async fn isolate_node(arena: &Arena, node: usize, lasting: Duration) -> Result<()> {
    let rabbit = arena.servers.rabbit.lock().await;
    rabbit.isolate(node).await?;
    sleep(lasting).await;
    rabbit.reunite(node).await
}

/// Windows are drawn evenly, so most wakes take the longest lane that is shorter than the longest window.
const BUSIEST: &str = "2s";

/// Somebody deletes the queue that all lanes lead to. Nothing else happens to the broker meanwhile, because RabbitMQ 3.10.8 does not
/// survive that: where a node dies in the middle, half of the queue is left, declared and led by nobody; right after a start, the
/// dead-letter workers of all lanes crash together, and no queue of this name works any more. In both cases somebody must
/// delete the queue again, or restart the node; nothing of ours can.
pub async fn delete_process_queue(arena: &Arena) -> Result<()> {
    let free = arena.servers.rabbit.try_lock().ok();
    let late = free.is_none();
    let _rabbit = match free {
        Some(rabbit) => rabbit,
        None => arena.servers.rabbit.lock().await,
    };
    if late {
        sleep(Duration::from_secs(2)).await;
    }
    arena.till.broker.delete("order.process.queue").await
}

pub async fn kill_lane_leader(arena: &Arena, back_after: Duration) -> Result<()> {
    let mut rabbit = arena.servers.rabbit.lock().await;
    let node = rabbit.leader_of(&arena.till.broker.name(&format!("order.delay.{BUSIEST}.queue"))).await?;
    arena.timeline.note(format!("the busiest lane is led by node {node}"));
    rabbit.kill(node).await?;
    sleep(back_after).await;
    rabbit.start(node).await
}

pub async fn restart_cluster(arena: &Arena) -> Result<()> {
    let mut rabbit = arena.servers.rabbit.lock().await;
    for node in 0..rabbit.nodes() {
        if !rabbit.wait_until_dispensable(node).await? {
            arena.timeline.note(format!("node {node} answers no question; it is restarted all the same"));
        }
        arena.timeline.note(format!("restarting node {node}"));
        rabbit.stop(node).await?;
        rabbit.start(node).await?;
    }
    Ok(())
}

pub async fn kill_database(arena: &Arena, back_after: Duration) -> Result<()> {
    let mut postgres = arena.servers.postgres.lock().await;
    postgres.kill().await?;
    sleep(back_after).await;
    postgres.start().await
}

pub async fn freeze_database(arena: &Arena, lasting: Duration) -> Result<()> {
    let postgres = arena.servers.postgres.lock().await;
    postgres.freeze()?;
    sleep(lasting).await;
    postgres.thaw()
}

pub async fn slow_database(arena: &Arena, lasting: Duration) -> Result<()> {
    let postgres = arena.servers.postgres.lock().await;
    postgres.slow_down(true).await?;
    sleep(lasting).await;
    postgres.slow_down(false).await
}

pub async fn terminate_sessions(arena: &Arena) -> Result<()> {
    let others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                  WHERE datname = current_database() AND pid <> pg_backend_pid()";
    arena.pool().execute(others).await?;
    Ok(())
}

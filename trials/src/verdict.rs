//! The end of a trial: everything settles, the pods stop, and the checker judges.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use tokio::time::sleep;

use crate::arena::Arena;
use crate::checker::{self, Evidence};
use crate::pods::TriedPod;
use crate::shop::Letter;
use crate::shop::letter::Parked;

/// Fails when a promise was broken; returns how long it took to settle. `rubbish` was sent and cannot be understood.
pub async fn conclude(arena: &Arena, patience: Duration, rubbish: &[Letter]) -> Result<Duration> {
    let settled = arena.wait_until_idle(patience).await?;
    arena.timeline.note(format!("settled after {settled:?}"));
    stop(arena).await?;
    // What the broker had given to somebody who has not heard it, over a line that was silent, comes back only now.
    arena.pods.iter().for_each(TriedPod::cut);
    sleep(Duration::from_millis(100)).await;
    if !rubbish.is_empty() {
        restart_the_broker(arena).await.context("parked messages must outlive the broker")?;
    }
    for pod in &arena.pods {
        pod.heal().await?;
    }
    arena.wait_until_idle(patience).await?;
    stop(arena).await?;
    // What a pod had in flight and gave back would be seen now.
    let left = arena.unsettled().await?;
    ensure!(left.is_empty(), "when the pods had stopped, there were {}", left.join(", "));
    let parked = arena.till.broker.take("order.parked.queue", 10_000).await?;
    let parked: Vec<_> = parked.into_iter().map(Parked::from).collect();
    let (ledger, news) = (arena.till.ledger(), arena.subscriber.news());
    let evidence = Evidence { pool: arena.pool(), ledger: &ledger, news: &news, parked: &parked, rubbish };
    let broken = checker::judge(&evidence).await?;
    ensure!(broken.is_empty(), "broken promises:\n  {}", broken.join("\n  "));
    Ok(settled)
}

/// Kills every node and starts it again; in a cluster when the others can do without it.
async fn restart_the_broker(arena: &Arena) -> Result<()> {
    let mut rabbit = arena.servers.rabbit.lock().await;
    for node in 0..rabbit.nodes() {
        if rabbit.nodes() > 1 && !rabbit.wait_until_dispensable(node).await? {
            arena.timeline.note(format!("node {node} answers no question; it is restarted all the same"));
        }
        rabbit.kill(node).await?;
        rabbit.start(node).await?;
    }
    Ok(())
}

async fn stop(arena: &Arena) -> Result<()> {
    for pod in &arena.pods {
        pod.check().await?;
        pod.stop_cleanly().await?;
    }
    Ok(())
}

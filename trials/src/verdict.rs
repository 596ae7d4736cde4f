//! The end of a trial: everything settles, the pods stop, and the checker judges.

use std::time::Duration;

use anyhow::{Result, ensure};

use tokio::time::sleep;

use crate::arena::Arena;
use crate::checker::{self, Evidence};
use crate::pods::Pod;

/// Fails when a promise was broken; returns how long it took to settle. `rubbish` was sent and cannot be understood.
pub async fn conclude(arena: &Arena, patience: Duration, rubbish: &[Vec<u8>]) -> Result<Duration> {
    let settled = arena.settle(patience).await?;
    arena.timeline.note(format!("settled after {settled:?}"));
    stop(arena).await?;
    // What the broker had given to somebody who has not heard it, over a line that was silent, comes back only now.
    arena.pods.iter().for_each(Pod::cut);
    sleep(Duration::from_millis(100)).await;
    for pod in &arena.pods {
        pod.heal().await?;
    }
    arena.settle(patience).await?;
    stop(arena).await?;
    // What a pod had in hand and gave back would be seen now.
    let left = arena.unsettled().await?;
    ensure!(left.is_empty(), "when the pods had stopped, there were {}", left.join(", "));
    let parked = arena.till.announcer.take("order.parked.queue", 10_000).await?;
    let parked: Vec<Vec<u8>> = parked.into_iter().map(|message| message.data).collect();
    let (ledger, news) = (arena.till.ledger(), arena.subscriber.news());
    let evidence = Evidence { pool: arena.pool(), ledger: &ledger, news: &news, parked: &parked, rubbish };
    let broken = checker::judge(&evidence).await?;
    ensure!(broken.is_empty(), "broken promises:\n  {}", broken.join("\n  "));
    Ok(settled)
}

async fn stop(arena: &Arena) -> Result<()> {
    for pod in &arena.pods {
        pod.check().await?;
        pod.stop_cleanly().await?;
    }
    Ok(())
}

//! The broker is killed and comes back: when do pods consume again, and when is what fell due meanwhile closed?

use std::time::Duration;

use anyhow::Result;
use tokio::time::sleep;

use super::{Measure, PATIENCE, quiet};
use crate::arena::Arena;
use crate::measure::{now, overdue, until};

/// How long it is away, besides what it takes to start.
const AWAY: Duration = Duration::from_secs(2);

pub async fn play(arena: &Arena, times: usize) -> Result<Vec<Measure>> {
    let mut consuming = Measure::seconds("the broker answers again: a pod consumes", Some(5.0));
    let mut all_consuming = Measure::seconds("the broker answers again: every pod consumes", None);
    let mut closed = Measure::seconds("the broker answers again: all that fell due is closed by wakes", None);
    for _ in 0..times {
        {
            let mut rabbit = arena.servers.rabbit.lock().await;
            rabbit.kill(0).await?;
            sleep(AWAY).await;
            rabbit.start(0).await?;
        }
        arena.timeline.note("the broker is back");
        let (pool, pods) = (&arena.eyes, u32::try_from(arena.pods.len())?);
        let returned = now(pool).await?;
        let consumers = async || arena.till.announcer.consumers("order.process.queue").await;
        let (one, all, due) = tokio::try_join!(
            until("a consumer", PATIENCE, async || Ok(consumers().await? > 0)),
            until("all consumers", PATIENCE, async || Ok(consumers().await? == pods)),
            until("all closed", PATIENCE, async || Ok(overdue(pool, returned).await? == 0)),
        )?;
        arena.timeline.note(format!("consuming after {one:?}, all after {all:?}, closed after {due:?}"));
        consuming.values.push(one.as_secs_f64());
        all_consuming.values.push(all.as_secs_f64());
        closed.values.push(due.as_secs_f64());
        quiet(arena).await?;
    }
    Ok(vec![consuming, all_consuming, closed])
}

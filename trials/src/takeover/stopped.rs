//! A pod is asked to stop while tens of thousands of orders are due.

use std::time::Duration;

use anyhow::Result;
use tokio::time::sleep;

use super::{Measure, PATIENCE, quiet};
use crate::arena::Arena;
use crate::load::bulk;
use crate::measure::{now, overdue, until};

/// All due at one moment.
const BURST: u32 = 30_000;
/// From placing them until they are due.
const WINDOW: Duration = Duration::from_secs(8);

pub async fn play(arena: &Arena, times: usize) -> Result<Vec<Measure>> {
    let pool = &arena.eyes;
    let mut stopping =
        Measure::seconds("a pod is asked to stop in a burst of 30,000: it has ended", Some(5.0));
    let mut open =
        Measure { what: "  of which still open when it was told", unit: "", goal: None, values: Vec::new() };
    for n in 0..times {
        let began = now(pool).await?;
        bulk(pool, BURST, WINDOW, Duration::ZERO).await?;
        let burst = sqlx::query_scalar(
            "SELECT extract(epoch FROM max(payment_deadline))::float8 FROM orders WHERE user_id = 2",
        );
        let due: f64 = burst.fetch_one(pool).await?;
        sleep(Duration::from_secs_f64((due - now(pool).await? + 0.3).max(0.0))).await;
        let waiting = overdue(pool, due + 0.1).await?;
        let pod = &arena.pods[n % arena.pods.len()];
        let took = pod.stop().await?;
        arena.timeline.note(format!("{} stopped in {took:?}; {waiting} were open", pod.name));
        open.values.push(waiting as f64);
        stopping.values.push(took.as_secs_f64());
        until("the burst closed", PATIENCE, async || Ok(overdue(pool, due + 0.1).await? == 0)).await?;
        arena.timeline.note(format!("the burst took {:.1} s from placing", now(pool).await? - began));
        quiet(arena).await?;
    }
    Ok(vec![stopping, open])
}

/// What came again to a pod although nobody was killed: each pod of it was asked to stop, and gave nothing back.
pub fn redeliveries(arena: &Arena, times: usize) -> Measure {
    let redelivered: u64 = arena.pods.iter().map(|pod| pod.count("redelivered")).sum();
    let what = "  messages that came again, in all of them together";
    Measure { what, unit: "", goal: Some(0.0), values: vec![redelivered as f64; times.min(1)] }
}

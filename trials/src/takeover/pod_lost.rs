//! A pod is gone with wakes in its hands: how late are they, when others have closed them?

use std::time::Duration;

use anyhow::Result;
use rustix::process::Signal;
use tokio::time::sleep;

use super::{Measure, PATIENCE, quiet};
use crate::arena::Arena;
use crate::measure::{lateness, now, overdue, until};

/// Orders that fell due so shortly before may have been in its hands.
const BEFORE: f64 = 1.0;
/// Whatever it had is due by then.
const AFTER: Duration = Duration::from_secs(5);

pub async fn play(arena: &Arena, times: usize, signal: Signal) -> Result<Vec<Measure>> {
    let mut measures = if signal == Signal::KILL {
        vec![Measure::seconds("a pod is killed: the latest of the orders due around it", Some(5.0))]
    } else {
        // The broker takes its wakes back after half a minute. The sweep of the other pod need not wait for that.
        vec![
            Measure::seconds("a pod hangs: the latest of the orders due around it", Some(3.0)),
            Measure::seconds("  99 of 100 of them", Some(1.0)),
        ]
    };
    for n in 0..times {
        let pod = &arena.pods[n % arena.pods.len()];
        let lost = now(&arena.eyes).await?;
        arena.timeline.note(format!("{signal:?} to {}", pod.name));
        if signal == Signal::KILL {
            pod.kill().await?;
        } else {
            pod.signal(signal).await?;
        }
        sleep(AFTER).await;
        let until_then = now(&arena.eyes).await?;
        until("its orders closed by others", PATIENCE, async || {
            Ok(overdue(&arena.eyes, until_then).await? == 0)
        })
        .await?;
        let lateness = lateness(&arena.eyes, lost - BEFORE, until_then).await?;
        arena.timeline.note(format!("{lateness:?}"));
        for (measure, late) in measures.iter_mut().zip([lateness.max, lateness.p99]) {
            measure.values.push(late / 1e3);
        }
        quiet(arena).await?;
    }
    Ok(measures)
}

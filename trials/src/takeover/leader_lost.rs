//! The pod that leads, or one that sweeps, is killed: when does another do its work?

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::sleep;

use super::{Measure, PATIENCE, quiet};
use crate::arena::Arena;
use crate::load::bulk;
use crate::measure::{newest_outbox_row, outbox_until, until};
use crate::pods::TriedPod;

/// What the lost pod did.
#[derive(Clone, Copy, Debug)]
pub enum Led {
    Relay,
    Sweep,
}

pub async fn play(arena: &Arena, times: usize, led: Led) -> Result<Vec<Measure>> {
    let mut measure = match led {
        Led::Relay => {
            Measure::seconds("the relay's leader is killed: its outbox drained by the next", Some(10.0))
        }
        Led::Sweep => {
            Measure::seconds("a pod that sweeps is killed: an overdue order closed by the other", Some(3.0))
        }
    };
    for n in 0..times {
        let lost = match led {
            Led::Relay => leader(arena).await?,
            Led::Sweep => &arena.pods[n % arena.pods.len()],
        };
        arena.timeline.note(format!("{} is killed: {led:?}", lost.name));
        lost.kill().await?;
        // What is recorded from now on is the next leader's work alone.
        let pool = &arena.eyes;
        let took = match led {
            Led::Relay => {
                bulk(pool, 1, Duration::from_secs(1), Duration::ZERO).await?;
                let row = newest_outbox_row(pool).await?;
                until("outbox drained", PATIENCE, async || Ok(outbox_until(pool, row).await? == 0)).await?
            }
            Led::Sweep => {
                let order = forgotten(arena).await?;
                until("an overdue order closed", PATIENCE, async || {
                    let closed =
                        sqlx::query_scalar("SELECT status = 'CLOSED' FROM orders WHERE order_id = $1");
                    Ok(closed.bind(order).fetch_one(pool).await?)
                })
                .await?
            }
        };
        arena.timeline.note(format!("taken over after {took:?}"));
        measure.values.push(took.as_secs_f64());
        quiet(arena).await?;
    }
    Ok(vec![measure])
}

/// The pod that said last that it leads the relay.
async fn leader(arena: &Arena) -> Result<&TriedPod> {
    for _ in 0..100 {
        let mut leading = Vec::new();
        for pod in &arena.pods {
            leading.extend(pod.leads_since("relay").await.map(|since| (since, pod)));
        }
        // In RFC 3339, later is greater.
        leading.sort_by(|(one, _), (other, _)| one.cmp(other));
        if let Some((_, pod)) = leading.pop() {
            return Ok(pod);
        }
        sleep(Duration::from_millis(100)).await;
    }
    None.context("no pod leads")
}

/// An order that is due and that no wake tells of; no items, and so no stock.
async fn forgotten(arena: &Arena) -> Result<i64> {
    let mut transaction = arena.eyes.begin().await?;
    sqlx::query("SET LOCAL session_replication_role = replica").execute(&mut *transaction).await?;
    let order = sqlx::query_scalar(
        "INSERT INTO orders (user_id, payment_deadline) VALUES (3, now()) RETURNING order_id",
    );
    let order = order.fetch_one(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(order)
}

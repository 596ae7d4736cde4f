//! The broker is killed and comes back: when do pods consume again, and when is what fell due meanwhile closed?

use std::time::Duration;

use anyhow::Result;
use sqlx::PgPool;
use tokio::time::{Instant, sleep};

use super::{Measure, PATIENCE, quiet};
use crate::arena::Arena;
use crate::measure::{Moment, now, overdue, until};

/// How long it is away, besides what it takes to start.
const AWAY: Duration = Duration::from_secs(2);

pub async fn play(arena: &Arena, times: usize) -> Result<Vec<Measure>> {
    let mut consuming = Measure::seconds("the broker answers again: every pod takes wakes", Some(5.0));
    let mut first = Measure::seconds("  the first order is closed by a wake", Some(5.0));
    let mut all = Measure::seconds("  all that fell due is closed by wakes", Some(20.0));
    for _ in 0..times {
        let sessions = sessions(arena);
        {
            let mut rabbit = arena.servers.rabbit.lock().await;
            rabbit.kill(0).await?;
            sleep(AWAY).await;
            rabbit.start(0).await?;
        }
        let back = Instant::now();
        arena.timeline.note("the broker is back");
        let pool = &arena.eyes;
        let returned = now(pool).await?;
        let (taking, one, due) = tokio::try_join!(
            since(back, "every pod taking wakes", async || {
                Ok(self::sessions(arena).iter().zip(&sessions).all(|(now, before)| now > before))
            }),
            since(back, "a close", async || closed_since(pool, returned).await),
            since(back, "all closed", async || Ok(overdue(pool, returned).await? == 0)),
        )?;
        arena
            .timeline
            .note(format!("taking wakes after {taking:?}, first close after {one:?}, all after {due:?}"));
        consuming.values.push(taking.as_secs_f64());
        first.values.push(one.as_secs_f64());
        all.values.push(due.as_secs_f64());
        quiet(arena).await?;
    }
    Ok(vec![consuming, first, all])
}

async fn since<F: Future<Output = Result<bool>>>(
    moment: Instant,
    what: &str,
    asked: impl FnMut() -> F,
) -> Result<Duration> {
    until(what, PATIENCE, asked).await?;
    Ok(moment.elapsed())
}

/// How often each pod has begun to take wakes, as its log says it. The broker's own count of consumers would include, for
/// a while, those from before it was killed.
fn sessions(arena: &Arena) -> Vec<usize> {
    arena.pods.iter().map(|pod| pod.reported("taking_wakes")).collect()
}

/// No pod sweeps here: who closes has heard of it from the broker.
async fn closed_since(pool: &PgPool, moment: Moment) -> Result<bool> {
    let closed = sqlx::query_scalar("SELECT EXISTS (SELECT FROM orders WHERE closed_at > to_timestamp($1))");
    Ok(closed.bind(moment).fetch_one(pool).await?)
}

//! One outage: before, during, and after.

use std::time::Duration;

use anyhow::Result;
use tokio::time::{sleep, timeout};

use super::buyer::Buyer;
use super::watch::Watch;
use super::{Figures, Kind};
use crate::arena::Arena;
use crate::load::bulk;
use crate::measure::{lateness, newest_outbox_row, now, outbox_until, overdue, until};
use overdue_testkit::breaker::Line;

/// How long the shop is watched before, and afterwards.
const CALM: Duration = Duration::from_secs(25);
/// Orders that fall due during the outage, for each second of it, besides those that the shop places meanwhile.
const DUE_PER_SECOND: f64 = 20.0;
/// How long everything may take that must be measured before it can be judged.
const PATIENCE: Duration = Duration::from_secs(240);

pub async fn play(arena: &Arena, kind: Kind, lasting: Duration) -> Result<Figures> {
    let watch = Watch::default();
    tokio::select! {
        figures = act(arena, kind, lasting, &watch) => figures,
        failed = watch.over(arena) => failed,
    }
}

async fn act(arena: &Arena, kind: Kind, lasting: Duration, watch: &Watch) -> Result<Figures> {
    let (pool, buyer) = (&arena.eyes, Buyer::start(&arena.deployment)?);
    // Small enough: orders of a few minutes.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let orders = (lasting.as_secs_f64() * DUE_PER_SECOND) as u32;
    bulk(pool, orders, CALM, lasting).await?;
    sleep(CALM).await;

    let mut figures = Figures::default();
    figures.took[0] = watch.peak();
    (figures.buying[0], figures.refused[0]) = buyer.take();
    arena.timeline.note(format!("{kind:?} goes away"));
    let left = now(pool).await?;
    go(arena, kind).await?;
    sleep(lasting.saturating_sub(Duration::from_secs(1))).await;

    (figures.buying[1], figures.refused[1]) = buyer.take();
    if kind != Kind::Broker {
        let depth = timeout(Duration::from_secs(5), arena.till.broker.depth("order.process.queue"));
        figures.waiting = depth.await.ok().and_then(Result::ok);
    }
    return_(arena, kind).await?;
    // The return is when the server answers; what was recorded until then is what must be made good.
    let returned = now(pool).await?;
    let newest = newest_outbox_row(pool).await?;
    figures.outbox = outbox_until(pool, newest).await?;
    arena.timeline.note(format!("it is back; {} outbox rows", figures.outbox));
    let closed = until("closing what fell due", PATIENCE, async || Ok(overdue(pool, returned).await? == 0));
    let drained = until("draining the outbox", PATIENCE, async || Ok(outbox_until(pool, newest).await? == 0));
    (figures.closed_after, figures.drained_after) = tokio::try_join!(closed, drained)?;
    arena
        .timeline
        .note(format!("closed after {:?}, drained after {:?}", figures.closed_after, figures.drained_after));
    figures.lateness = lateness(pool, left, returned).await?;

    let _ = buyer.take();
    sleep(CALM).await;
    (figures.buying[2], figures.refused[2]) = buyer.take();
    figures.took[1] = watch.peak();
    Ok(figures)
}

async fn go(arena: &Arena, kind: Kind) -> Result<()> {
    match kind {
        Kind::Broker => arena.servers.rabbit.lock().await.kill(0).await,
        Kind::Database => arena.servers.postgres.lock().await.kill().await,
        Kind::Silence => {
            lines(arena, Line::Stalled);
            Ok(())
        }
    }
}

async fn return_(arena: &Arena, kind: Kind) -> Result<()> {
    match kind {
        Kind::Broker => arena.servers.rabbit.lock().await.start(0).await,
        Kind::Database => arena.servers.postgres.lock().await.start().await,
        Kind::Silence => {
            lines(arena, Line::Up);
            Ok(())
        }
    }
}

fn lines(arena: &Arena, line: Line) {
    for pod in &arena.pods {
        pod.database.set(line);
        pod.broker.iter().for_each(|breaker| breaker.set(line));
    }
}

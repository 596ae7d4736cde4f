//! Every wake is lost: how fast the sweep closes what they would have closed, and what that does to wakes beside it.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::time::sleep;

use super::burst::{self, load, wait_until_none};
use super::pod::Footprint;
use super::{BenchError, Lateness, Place};
use crate::settings::Raw;

/// What the sweep showed.
#[derive(Clone, Debug, Serialize)]
pub struct Sweeping {
    /// Orders without a wake, two items each.
    pub orders: i64,
    /// From the moment when the sweep may take them until none of them was PENDING.
    pub seconds: f64,
    /// The quotient.
    pub swept_per_second: f64,
    /// The same number of orders closed by their wakes in the same run.
    pub burst_per_second: f64,
    /// Of a thousand other orders that were due, with a wake each, while the sweep worked.
    pub beside: Lateness,
    /// What the pod took.
    pub pod: Footprint,
}

/// How long after their deadline the sweep may take orders.
const GRACE: Duration = Duration::from_secs(2);
/// Time for the pod to start.
const BEFORE: Duration = Duration::from_secs(8);

/// Measures a burst, then the same with every wake lost.
///
/// # Errors
/// When something could not be set up, or the orders were not closed in time.
pub async fn sweep(
    raw: &Raw,
    orders: i64,
    log: Option<&Path>,
    say: impl Fn(String),
) -> Result<Sweeping, BenchError> {
    let raw = raw.clone().replace("sweep_every", "100ms").replace("sweep_grace", "2s");
    let place = Place::make(&raw).await?;
    let outcome = measure(&place, orders, log, say).await;
    place.remove().await?;
    outcome
}

async fn measure(
    place: &Place,
    orders: i64,
    log: Option<&Path>,
    say: impl Fn(String),
) -> Result<Sweeping, BenchError> {
    let burst = burst::measure(place, orders, log, &say).await?;
    say(format!("placing {orders} orders"));
    load(place, orders, BEFORE).await?;
    // As if the broker had lost them; no pod has seen them yet.
    place.run("losing every wake", "DELETE FROM outbox").await?;
    let pod = place.pod(log)?;
    let expected = orders as f64 / burst.closed_per_second;
    let beside = format!(
        "INSERT INTO orders (user_id, payment_deadline)
         SELECT -1, timestamptz 'epoch' + interval '1 s' * (due + {} + {expected} * n / 1000)
         FROM bench_deadline, generate_series(1, 1000) AS n",
        GRACE.as_secs()
    );
    place.run("placing orders that have a wake", &beside).await?;
    let ahead = place
        .number(
            "reading the clock",
            "SELECT ceil(1e3 * (due - extract(epoch FROM clock_timestamp())))::bigint FROM bench_deadline",
        )
        .await?;
    say("waiting until the sweep may take them".to_owned());
    sleep(Duration::from_millis(u64::try_from(ahead).unwrap_or(0)) + GRACE).await;
    say(format!("sweeping {orders} orders"));

    let start = Instant::now();
    wait_until_none(
        place,
        "SELECT count(*) FROM (SELECT FROM orders WHERE status = 'PENDING' AND user_id >= 0 LIMIT 1) AS one",
    )
    .await?;
    let seconds = start.elapsed().as_secs_f64();
    wait_until_none(
        place,
        "SELECT count(*) FROM (SELECT FROM orders WHERE status = 'PENDING' LIMIT 1) AS one",
    )
    .await?;
    let result = Sweeping {
        orders,
        seconds,
        swept_per_second: orders as f64 / seconds,
        burst_per_second: burst.closed_per_second,
        beside: place.lateness("user_id < 0").await?,
        pod: pod.footprint(),
    };
    pod.stop().await?;
    Ok(result)
}

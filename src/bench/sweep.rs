//! Every wake is lost: how fast the sweep closes the orders, and how late other orders are closed by wakes meanwhile.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::BenchError;
use super::burst::{self, wait_until_closed};
use super::load::{Orders, place_orders, time_to_place};
use super::outcome::Outcome;
use super::sandbox::{Sandbox, failed};
use crate::config::settings::Raw;

/// `sweep_grace`: how long after their deadline the sweep may take orders.
const GRACE: Duration = Duration::from_secs(2);
/// Time for the orders to be placed and the pod to start.
const BEFORE: Duration = Duration::from_secs(8);
/// How long the sweep may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// Measures a burst, then the same orders with every wake lost.
///
/// # Errors
/// When something could not be set up, or the orders were not closed in time.
pub async fn sweep(
    raw: &Raw,
    orders: i64,
    log: Option<&Path>,
    say: impl Fn(String),
) -> Result<Outcome, BenchError> {
    let raw = raw.clone().replace("sweep_every", "100ms").replace("sweep_grace", "2s");
    Sandbox::with(&raw, log, async |sandbox| {
        let burst = burst::measure(sandbox, orders, 1, &say).await?;
        sandbox.empty().await?;
        say(format!("placing {orders} orders"));
        let ahead = BEFORE + time_to_place(orders);
        let due = sandbox.now().await?.plus(ahead);
        place_orders(sandbox, Orders::due_at(due, orders)).await?;
        // The same as if the broker had lost the wakes: no pod has run since the orders were placed.
        sandbox.run("losing every wake", "DELETE FROM outbox").await?;
        let pod = sandbox.pod().await?;
        let expected = orders as f64 / burst.closed_per_second;
        let beside = sqlx::query(
            "INSERT INTO orders (user_id, payment_deadline)
             SELECT -1, $1 + interval '1 s' * $2 * n / 1000 FROM generate_series(1, 1000) AS n",
        );
        let beside = beside.bind(time::OffsetDateTime::from(due.plus(GRACE))).bind(expected);
        beside.execute(&sandbox.pool).await.map_err(failed("placing orders that have a wake"))?;
        say("waiting until the sweep may take them".to_owned());
        sleep(due.plus(GRACE).since(sandbox.now().await?)).await;
        say(format!("sweeping {orders} orders"));

        let start = Instant::now();
        wait_until_closed(sandbox, due, PATIENCE).await?;
        let seconds = start.elapsed().as_secs_f64();
        let last = due.plus(GRACE + Duration::from_secs_f64(expected));
        sleep(last.since(sandbox.now().await?)).await;
        wait_until_closed(sandbox, last, PATIENCE).await?;
        let (beside, footprint) = (sandbox.lateness("user_id = -1").await?, pod.footprint());
        pod.stop().await?;
        let swept = orders as f64 / seconds;
        let figures = vec![
            ("swept per second, of closed by wakes", swept / burst.closed_per_second, ""),
            ("swept per second", swept, "/s"),
            ("closed per second by wakes", burst.closed_per_second, "/s"),
            ("lateness p50 of wakes beside the sweep", beside.p50_ms, "ms"),
            ("lateness p99 of wakes beside the sweep", beside.p99_ms, "ms"),
            ("pod's peak memory", footprint.peak_memory_mib, "MiB"),
        ];
        let pace = sandbox.slices("user_id >= 0", 100).await?;
        let lateness = sandbox.bins("user_id = -1").await?;
        Ok(Outcome { lateness, pace, ..Outcome::new(format!("sweep of {orders} orders"), figures) })
    })
    .await
}

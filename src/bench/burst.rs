//! All orders due at one moment: how fast they are closed.

use std::path::Path;
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio::time::sleep;

use super::load::{Orders, age, place_orders, time_to_place};
use super::outcome::{MISSED, Outcome};
use super::sandbox::{Sandbox, failed};
use super::{BenchError, limits};
use crate::clock::DbTime;
use crate::config::settings::Raw;

/// Time between placing the orders and their deadline, in which the relay puts every wake into its lane.
const BEFORE: Duration = Duration::from_secs(12);
/// How long after the deadline the burst may last.
const PATIENCE: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug)]
pub struct Burst {
    /// Orders that are due at once.
    pub orders: i64,
    /// Closed orders of earlier years in the table.
    pub old: i64,
}

/// Measures the limits, then a burst from its deadline on, then the database's limit again.
///
/// # Errors
/// When something could not be set up, or the orders were not closed in time.
pub async fn burst(
    raw: &Raw,
    Burst { orders, old }: Burst,
    log: Option<&Path>,
    say: impl Fn(String),
) -> Result<Outcome, BenchError> {
    Sandbox::with(raw, log, async |sandbox| {
        let without_old =
            if old > 0 { Some(limits::database_alone(sandbox, orders, &say).await?) } else { None };
        age(sandbox, old, &say).await?;
        let strict = sandbox.config.max_orders_per_wake == 1;
        let before = limits::database_alone(sandbox, orders, &say).await?;
        // With many orders in a message the broker has next to nothing to do, so it sets no limit to compare with.
        let messages = if strict { Some(limits::broker_alone(sandbox, orders, &say).await?) } else { None };
        let run = measure(sandbox, orders, 1, &say).await?;
        // The old orders and those of the database alone have smaller ids. By primary key: scanning all takes too long.
        let ours = format!("order_id > {}", old + orders);
        let lateness = sandbox.lateness(&ours).await?;
        let (bins, pace) = (sandbox.bins(&ours).await?, sandbox.slices(&ours, 100).await?);
        sandbox.empty().await?;
        // The mean of before and after, because the machine's other load changes from minute to minute.
        let database = f64::midpoint(before, limits::database_alone(sandbox, orders, &say).await?);
        let mut figures = vec![
            ("closed per second", run.closed_per_second, "/s"),
            ("the database alone closes", database, "/s"),
            ("share of the database alone", run.closed_per_second / database, ""),
        ];
        if let Some(without_old) = without_old {
            figures.push(("the database alone without old ones", without_old, "/s"));
            figures.push(("share of that", run.closed_per_second / without_old, ""));
        }
        if let Some(messages) = messages {
            figures.push(("the broker alone delivers", messages, "/s"));
            figures.push(("share of the broker alone", run.closed_per_second / messages, ""));
        }
        figures.extend([
            ("closed within", run.seconds, "s"),
            ("all events published within", run.events_seconds, "s"),
            ("last close after the deadline", lateness.max_ms, "ms"),
            (MISSED, run.missed as f64, "orders"),
            ("pod's CPU per 1,000 orders", run.cpu_ms_per_thousand, "ms"),
            ("pod's peak memory", run.peak_memory_mib, "MiB"),
        ]);
        let how = if strict { ", one message per order" } else { "" };
        let old = if old > 0 { format!(", beside {old} old ones") } else { String::new() };
        let workload = format!("burst of {orders} orders{how}{old}");
        Ok(Outcome { lateness: bins, pace, ..Outcome::new(workload, figures) })
    })
    .await
}

/// What pods did with one burst.
pub(super) struct Run {
    /// From the deadline to the last commit, as measured by the pods.
    pub seconds: f64,
    pub events_seconds: f64,
    pub closed_per_second: f64,
    /// Of all pods.
    pub cpu_ms_per_thousand: f64,
    /// Of the pod with the highest peak.
    pub peak_memory_mib: f64,
    /// Orders that the sweep found without an excuse.
    pub missed: u64,
}

pub(super) async fn measure(
    sandbox: &Sandbox,
    orders: i64,
    pods: usize,
    say: &impl Fn(String),
) -> Result<Run, BenchError> {
    let pods = futures_util::future::try_join_all((0..pods).map(|_| sandbox.pod())).await?;
    let ahead = BEFORE + time_to_place(orders);
    let due = sandbox.now().await?.plus(ahead);
    say(format!("placing {orders} orders"));
    place_orders(sandbox, Orders::due_at(due, orders)).await?;
    let ahead = due.since(sandbox.now().await?);
    say(format!("waiting {:.0} s for their deadline", ahead.as_secs_f64()));
    sleep(ahead).await;
    say(format!("closing {orders} orders"));

    let start = Instant::now();
    wait_until_closed(sandbox, due, PATIENCE).await?;
    let none = async || Ok(sandbox.number("reading the outbox", OUTBOX).await? == 0);
    wait_until(sandbox, LOOK, PATIENCE, none).await?;
    let events_seconds = start.elapsed().as_secs_f64();
    let mut run = Run {
        seconds: 0.0,
        events_seconds,
        closed_per_second: 0.0,
        cpu_ms_per_thousand: 0.0,
        peak_memory_mib: 0.0,
        missed: 0,
    };
    for pod in pods {
        let footprint = pod.footprint();
        run.cpu_ms_per_thousand += footprint.cpu_seconds * 1e6 / orders as f64;
        run.peak_memory_mib = run.peak_memory_mib.max(footprint.peak_memory_mib);
        let summary = pod.stop().await?;
        run.missed += summary.missed();
        run.seconds = summary.lateness.map_or(run.seconds, |late| run.seconds.max(late.max_ms / 1e3));
    }
    run.closed_per_second = orders as f64 / run.seconds;
    Ok(run)
}

pub(super) const OUTBOX: &str = "SELECT count(*) FROM (SELECT FROM outbox LIMIT 1) AS one";

/// Interval of a cheap query.
pub(super) const LOOK: Duration = Duration::from_millis(20);
/// Interval of a search that must read the index's dead entries.
const SEARCH: Duration = Duration::from_millis(50);

/// Waits until no order with a deadline up to `due` is pending. First polls the ten largest ids, which are closed last:
/// polling five hundred orders as often took a tenth of a processor from the closing sessions.
pub(super) async fn wait_until_closed(
    sandbox: &Sandbox,
    due: DbTime,
    patience: Duration,
) -> Result<(), BenchError> {
    let due = OffsetDateTime::from(due);
    // By primary key, as in close.sql: with stale statistics, which say that no order is pending, the planner would scan all
    // pending orders on each poll.
    let last: Vec<i64> = sqlx::query_scalar(
        "SELECT order_id FROM orders WHERE status || '' = 'PENDING' AND payment_deadline <= $1
         ORDER BY order_id DESC LIMIT 10",
    )
    .bind(due)
    .fetch_all(&sandbox.pool)
    .await
    .map_err(failed("listing orders"))?;
    wait_until(sandbox, LOOK, patience, async || {
        let open = "SELECT count(*) FROM orders WHERE order_id = ANY ($1) AND status || '' = 'PENDING'";
        let open: Result<i64, _> = sqlx::query_scalar(open).bind(&last).fetch_one(&sandbox.pool).await;
        Ok(open.map_err(failed("counting open orders"))? == 0)
    })
    .await?;
    wait_until(sandbox, SEARCH, patience, async || {
        let open =
            "SELECT NOT EXISTS (SELECT FROM orders WHERE status = 'PENDING' AND payment_deadline <= $1)";
        let none = sqlx::query_scalar(open).bind(due).fetch_one(&sandbox.pool).await;
        none.map_err(failed("counting open orders"))
    })
    .await
}

pub(super) async fn wait_until(
    sandbox: &Sandbox,
    every: Duration,
    patience: Duration,
    mut done: impl AsyncFnMut() -> Result<bool, BenchError>,
) -> Result<(), BenchError> {
    let start = Instant::now();
    while !done().await? {
        if start.elapsed() > patience {
            let open = "SELECT count(*) FROM orders WHERE status = 'PENDING'";
            let open = sandbox.number("counting open orders", open).await?;
            return Err(BenchError::Unfinished { open, after: patience });
        }
        sleep(every).await;
    }
    Ok(())
}

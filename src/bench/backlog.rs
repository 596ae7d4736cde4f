//! The outbox under strain: how fast the relay drains it after a long outage of the broker, and what deleted rows cost
//! while an open snapshot keeps them.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Executor};
use tokio::time::sleep;

use super::BenchError;
use super::burst::{LOOK, wait_until_closed};
use super::load::{Orders, place_orders};
use super::outcome::Outcome;
use super::place::Quantiles;
use super::sandbox::{Sandbox, failed};
use crate::closing::sweep::overdue;
use crate::config::settings::Raw;

/// How long the draining of a backlog is measured.
const WATCHED: Duration = Duration::from_secs(60);
/// How long the relay may take to begin.
const BEGIN: Duration = Duration::from_secs(60);
/// How long the processor time of an idle pod is measured: a full look of the sweep comes every 30 s, and one at the outbox, which
/// takes half a second beside 2,000,000 dead rows, every 50 s.
const IDLE: Duration = Duration::from_secs(60);
/// Orders placed beside the dead rows, to measure their lateness.
const BESIDE: i64 = 500;
const PATIENCE: Duration = Duration::from_secs(120);
/// The sweep's looks that are timed.
const LOOKS: usize = 1_000;

/// Measures how fast the relay drains a hundredth of the rows, then all of them. Half of the rows are wakes, half events.
///
/// # Errors
/// When something could not be set up, or the relay does not begin.
pub async fn backlog(
    raw: &Raw,
    rows: i64,
    log: Option<&Path>,
    say: impl Fn(String),
) -> Result<Outcome, BenchError> {
    Sandbox::with(raw, log, async |sandbox| {
        let few = (rows / 100).max(100);
        let beside_few = drain(sandbox, few, &say).await?;
        let beside_many = drain(sandbox, rows, &say).await?;
        let figures = vec![
            ("relayed per second with all left, of a hundredth left", beside_many / beside_few, ""),
            ("relayed per second with all left", beside_many, "/s"),
            ("relayed per second with a hundredth left", beside_few, "/s"),
        ];
        Ok(Outcome::new(format!("backlog of {rows} rows"), figures))
    })
    .await
}

/// Records so many rows; returns how many per second a new pod relays in its first minute of relaying.
async fn drain(sandbox: &Sandbox, rows: i64, say: &impl Fn(String)) -> Result<f64, BenchError> {
    say(format!("recording {rows} rows"));
    record(sandbox, rows).await?;
    let first = sandbox.number("reading the outbox", "SELECT min(id) FROM outbox").await?;
    // The ids alternate between both kinds, so the oldest id of each kind shows how many rows are gone.
    let mut next = [first; 2];
    let gone = |next: [i64; 2]| next.iter().map(|id| (id - first).min(rows)).sum::<i64>() / 2;
    say(format!("relaying {rows} rows"));
    let pod = sandbox.pod().await?;
    let asked = Instant::now();
    let (mut began, mut already) = (None, 0);
    while gone(next) < rows && began.is_none_or(|began: Instant| began.elapsed() < WATCHED) {
        if began.is_none() && asked.elapsed() > BEGIN {
            return Err(BenchError::Unfinished { open: 0, after: BEGIN });
        }
        sleep(LOOK).await;
        for (kind, next) in ["true", "false"].into_iter().zip(&mut next) {
            // The search starts behind the rows known to be gone, so that it costs no more than the relay's own.
            let oldest = format!(
                "SELECT coalesce((SELECT id FROM outbox WHERE is_wake = {kind} AND id >= {next} ORDER BY id LIMIT 1), {})",
                first + rows
            );
            let oldest = sqlx::query_scalar(AssertSqlSafe(oldest)).fetch_one(&sandbox.pool).await;
            *next = oldest.map_err(failed("reading the outbox"))?;
        }
        if began.is_none() && gone(next) > 1 {
            (began, already) = (Some(Instant::now()), gone(next));
        }
    }
    let seconds = began.map_or(f64::NAN, |began| began.elapsed().as_secs_f64());
    let relayed = gone(next) - already;
    pod.kill().await?;
    sandbox.empty().await?;
    Ok(relayed as f64 / seconds)
}

/// Each row names one order with a deadline a day away; none of these orders exists.
async fn record(sandbox: &Sandbox, rows: i64) -> Result<(), BenchError> {
    let record = format!(
        "INSERT INTO outbox (kind, order_ids, deadlines, user_ids)
         SELECT CASE n % 2 WHEN 0 THEN 'wake' ELSE 'order.closed' END, ARRAY[n], ARRAY[now() + interval '1 day'],
                CASE n % 2 WHEN 0 THEN NULL ELSE ARRAY[n] END
         FROM generate_series(1, {rows}::bigint) AS n"
    );
    sandbox.run("filling the outbox", &record).await
}

/// Measures what an idle pod costs, first alone, then beside deleted rows that an open snapshot keeps in the outbox and in
/// the index of waiting orders, which the sweep scans. Then measures how late orders are closed beside these rows.
///
/// # Errors
/// When something could not be set up, or orders were not closed in time.
pub async fn snapshot(
    raw: &Raw,
    rows: i64,
    log: Option<&Path>,
    say: impl Fn(String),
) -> Result<Outcome, BenchError> {
    Sandbox::with(raw, log, async |sandbox| {
        let alone = idle(sandbox, &say).await?;
        let mut session = sandbox.pool.acquire().await.map_err(failed("opening a snapshot"))?;
        let mut open = session.begin("").await.map_err(failed("opening a snapshot"))?;
        (&mut open).execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SET LOCAL idle_in_transaction_session_timeout = 0")
            .await
            .map_err(failed("opening a snapshot"))?;
        (&mut open).execute("SELECT FROM orders").await.map_err(failed("opening a snapshot"))?;
        say(format!("making {rows} dead rows"));
        record(sandbox, rows).await?;
        sandbox.run("deleting from the outbox", "DELETE FROM outbox").await?;
        let orders = format!(
            "ALTER TABLE orders DISABLE TRIGGER USER;
             INSERT INTO orders (user_id, payment_deadline) SELECT -1, now() - interval '1 day' FROM generate_series(1, {rows} / 2);
             UPDATE orders SET status = 'PAID';
             ALTER TABLE orders ENABLE TRIGGER USER"
        );
        sandbox.run("paying orders", &orders).await?;
        let beside = idle(sandbox, &say).await?;
        let swept = look_as_the_sweep(sandbox, &say).await?;

        say("closing orders beside them".to_owned());
        let pod = sandbox.pod().await?;
        let due = sandbox.now().await?.plus(Duration::from_secs(5));
        let orders = Orders::due_at(due, BESIDE);
        place_orders(sandbox, Orders { spread: Duration::from_secs(10), ..orders }).await?;
        let last = due.plus(Duration::from_secs(10));
        sleep(last.since(sandbox.now().await?)).await;
        wait_until_closed(sandbox, last, PATIENCE).await?;
        let lateness = sandbox.lateness("status = 'CLOSED'").await?;
        pod.stop().await?;
        drop(open);
        drop(session);
        let figures = vec![
            ("of a core, for looking beside dead rows", beside - alone, ""),
            ("of a core, an idle pod's database sessions beside dead rows", beside, ""),
            ("of a core, the same without", alone, ""),
            ("a look of the sweep beside dead rows p50", swept.p50, "ms"),
            ("a look of the sweep beside dead rows p99", swept.p99, "ms"),
            ("lateness p50 beside dead rows", lateness.p50_ms, "ms"),
            ("lateness p99 beside dead rows", lateness.p99_ms, "ms"),
        ];
        Ok(Outcome::new(format!("open snapshot with {rows} dead rows"), figures))
    })
    .await
}

/// How long the sweep's looks take: those that begin at its low-water mark, as all but one in thirty seconds do.
async fn look_as_the_sweep(sandbox: &Sandbox, say: &impl Fn(String)) -> Result<Quantiles, BenchError> {
    say("looking for overdue orders".to_owned());
    let (grace, page) = (sandbox.config.sweep_grace, sandbox.config.close_batch);
    let mut took = Vec::new();
    for _ in 0..LOOKS {
        let low_water = sandbox.now().await?.minus(grace);
        let began = Instant::now();
        overdue(&sandbox.pool, grace, Some((low_water, 0)), page).await?;
        took.push(began.elapsed());
    }
    Ok(Quantiles::of(took))
}

/// The share of a core that the database sessions of an idle pod take, from Linux's /proc. NaN, shown as unknown, where
/// the database's processes are not visible: on another machine, or in a container.
async fn idle(sandbox: &Sandbox, say: &impl Fn(String)) -> Result<f64, BenchError> {
    say("watching an idle pod".to_owned());
    let pod = sandbox.pod().await?;
    sleep(Duration::from_secs(5)).await;
    let (before, began) = (processor_seconds(sandbox).await?, Instant::now());
    sleep(IDLE).await;
    // A session opened meanwhile has spent all of its time since then.
    let spent = |(pid, now)| now - before.get(&pid).copied().unwrap_or_default();
    let after = processor_seconds(sandbox).await?;
    let spent: f64 = if after.is_empty() { f64::NAN } else { after.into_iter().map(spent).sum() };
    let share = spent / began.elapsed().as_secs_f64();
    pod.stop().await?;
    Ok(share)
}

/// Processor seconds of each of Overdue's sessions in this database; NaN where the process is not visible.
async fn processor_seconds(sandbox: &Sandbox) -> Result<HashMap<i32, f64>, BenchError> {
    let pids: Vec<i32> = sqlx::query_scalar(
        "SELECT pid FROM pg_stat_activity
         WHERE datname = current_database() AND application_name = 'overdue' AND pid <> pg_backend_pid()
           AND backend_type = 'client backend'",
    )
    .fetch_all(&sandbox.pool)
    .await
    .map_err(failed("listing sessions"))?;
    let of = |pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Where the database has a container of its own, another process may have this pid here.
        let seen = stat.starts_with(&format!("{pid} (postgres"));
        (pid, if seen { super::process::Ticks::read(&stat).own } else { f64::NAN })
    };
    Ok(pids.into_iter().map(of).collect())
}

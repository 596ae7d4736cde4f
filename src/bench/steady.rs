//! A steady stream of orders with mixed windows: how punctually they are closed.

use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::BenchError;
use super::burst::{LOOK, wait_until};
use super::load::stock;
use super::outcome::{MISSED, Outcome};
use super::sandbox::{Sandbox, failed};
use super::servers::Servers;
use crate::config::settings::Raw;
use crate::stats::Lateness;

#[derive(Clone, Copy, Debug)]
pub struct Steady {
    /// Orders per second.
    pub rate: u32,
    /// For how long orders are placed.
    pub seconds: u32,
    /// Shortest window, in milliseconds.
    pub first_ms: u32,
    /// Longest window, in milliseconds.
    pub last_ms: u32,
    /// Share of the orders that are paid halfway through their window, in percent.
    pub paid_percent: u32,
}

/// Statements per second that place orders, each with its share.
const TICKS: u32 = 20;

/// For how many seconds orders are placed without a pod.
const ALONE: u32 = 20;

/// Pod, PostgreSQL and RabbitMQ together, without what placing the orders costs, while the stream is steady.
pub(super) const CLOSING_CPU: &str = "CPU of all three per 1,000 orders closed, without placing";

/// Places orders at a steady rate with windows spread to the millisecond, and waits for the last to be closed.
///
/// # Errors
/// When something could not be set up, or orders were left open.
pub async fn steady(
    raw: &Raw,
    stream: Steady,
    log: Option<&Path>,
    say: impl Fn(String),
) -> Result<Outcome, BenchError> {
    Sandbox::with(raw, log, async |sandbox| {
        let servers = Servers::find(sandbox).await?;
        let spent = || servers.map_or([f64::NAN; 2], Servers::cpu_seconds);
        say("placing orders without a pod, to know what that costs".to_owned());
        let before = spent();
        let placed_alone = place_alone(sandbox, stream).await?;
        let placing = since(spent(), before).map(|seconds| seconds / placed_alone as f64);
        let pod = sandbox.pod().await?;
        let of_all = || {
            let [postgres, broker] = spent();
            [postgres, broker, pod.footprint().cpu_seconds]
        };
        let run = measure(sandbox, stream, of_all, &say).await?;
        let footprint = pod.footprint();
        let [postgres, broker, of_the_pod] = run.steadily.map_or([f64::NAN; 3], |steadily| {
            let placing = placing.map(|seconds| seconds * steadily.placed);
            let [postgres, broker, pod] = steadily.spent;
            [postgres - placing[0], broker - placing[1], pod].map(|seconds| seconds / steadily.closed)
        });
        let counted = pod.stop().await?;
        let seen = counted.lateness.map_or([f64::NAN; 2], |late| [late.p50_ms, late.p99_ms]);
        let figures = vec![
            ("lateness p50", run.lateness.p50_ms, "ms"),
            ("lateness p99", run.lateness.p99_ms, "ms"),
            ("lateness max", run.lateness.max_ms, "ms"),
            ("lateness p50 as the pod sees it", seen[0], "ms"),
            ("lateness p99 as the pod sees it", seen[1], "ms"),
            ("placed", run.placed as f64, "orders"),
            ("paid", run.paid as f64, "orders"),
            ("closed", run.closed as f64, "orders"),
            (MISSED, counted.missed() as f64, "orders"),
            ("paid orders closed", run.paid_and_closed as f64, "orders"),
            (CLOSING_CPU, (postgres + broker + of_the_pod) * 1e3, "s"),
            ("PostgreSQL's part of it", postgres * 1e3, "s"),
            ("RabbitMQ's part of it", broker * 1e3, "s"),
            ("the pod's part of it", of_the_pod * 1e3, "s"),
            ("placing: CPU of both per 1,000 orders", placing.iter().sum::<f64>() * 1e3, "s"),
            ("pod's CPU per 1,000 orders closed", footprint.cpu_seconds / run.closed as f64 * 1e6, "ms"),
            ("pod's peak memory", footprint.peak_memory_mib, "MiB"),
        ];
        let Steady { rate, seconds, .. } = stream;
        Ok(Outcome {
            lateness: sandbox.bins(OURS).await?,
            pace: sandbox.slices(OURS, 1_000).await?,
            ..Outcome::new(format!("steady {rate} orders/s for {seconds} s"), figures)
        })
    })
    .await
}

fn since<const N: usize>(now: [f64; N], before: [f64; N]) -> [f64; N] {
    std::array::from_fn(|n| now[n] - before[n])
}

/// Makes the products, and a list of the orders to be paid.
async fn prepare(sandbox: &Sandbox) -> Result<(), BenchError> {
    stock(sandbox).await?;
    let list = "CREATE TABLE bench_paid (order_id bigint PRIMARY KEY, pay_at timestamptz, paid boolean);
                CREATE INDEX ON bench_paid (pay_at) WHERE NOT paid";
    sandbox.run("making a list", list).await
}

/// Places and pays orders as the stream does, without a pod, and removes them. Returns how many were placed.
async fn place_alone(sandbox: &Sandbox, stream: Steady) -> Result<i64, BenchError> {
    prepare(sandbox).await?;
    let mut ticks = interval(Duration::from_secs(1) / TICKS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for tick in 0..ALONE * TICKS {
        ticks.tick().await;
        let count = stream.rate * (tick + 1) / TICKS - stream.rate * tick / TICKS;
        insert(sandbox, stream, count).await?;
    }
    let placed = sandbox.number("counting orders", PLACED).await?;
    sandbox.run("removing the list", "DROP TABLE bench_paid").await?;
    sandbox.empty().await?;
    Ok(placed)
}

/// The result of a stream.
pub(super) struct Run {
    pub lateness: Lateness,
    placed: i64,
    paid: i64,
    closed: i64,
    paid_and_closed: i64,
    /// `None` of a stream that is too short.
    steadily: Option<Steadily>,
}

/// The time in which orders are placed and closed at the same rate: from the longest window's end until the last order is placed.
#[derive(Clone, Copy, Debug)]
struct Steadily {
    placed: f64,
    closed: f64,
    /// Processor seconds of PostgreSQL, RabbitMQ and the pod.
    spent: [f64; 3],
}

const PLACED: &str = "SELECT count(*) FROM orders WHERE user_id < 0";
const CLOSED: &str = "SELECT count(*) FROM orders WHERE user_id < 0 AND status = 'CLOSED'";

async fn placed_and_closed(sandbox: &Sandbox) -> Result<[f64; 2], BenchError> {
    let count = async |query| sandbox.number("counting orders", query).await;
    Ok([count(PLACED).await? as f64, count(CLOSED).await? as f64])
}

/// Selects the orders of the stream; other orders may wait beside them.
pub(super) const OURS: &str = "user_id < 0";

pub(super) async fn measure(
    sandbox: &Sandbox,
    stream: Steady,
    spent: impl Fn() -> [f64; 3],
    say: &impl Fn(String),
) -> Result<Run, BenchError> {
    say(format!("placing {} orders/s for {} s", stream.rate, stream.seconds));
    prepare(sandbox).await?;
    let mut ticks = interval(Duration::from_secs(1) / TICKS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let steady_from = (stream.last_ms / 1_000 + 1) * TICKS;
    let mut begun = None;
    for tick in 0..stream.seconds * TICKS {
        ticks.tick().await;
        if tick == steady_from {
            begun = Some((placed_and_closed(sandbox).await?, spent()));
        }
        let count = stream.rate * (tick + 1) / TICKS - stream.rate * tick / TICKS;
        insert(sandbox, stream, count).await?;
    }
    let (ended, spent) = (placed_and_closed(sandbox).await?, spent());
    say("waiting for the last deadline".to_owned());
    let last = Instant::now() + Duration::from_millis(u64::from(stream.last_ms));
    while Instant::now() < last {
        ticks.tick().await;
        insert(sandbox, stream, 0).await?;
    }
    let open = "SELECT count(*) FROM orders WHERE status = 'PENDING' AND user_id < 0";
    let done = async || Ok(sandbox.number("counting open orders", open).await? == 0);
    wait_until(sandbox, LOOK, Duration::from_secs(30), done).await?;
    let count = async |query| sandbox.number("counting orders", query).await;
    let steadily = begun.map(|(begun, before)| {
        let [placed, closed] = since(ended, begun);
        Steadily { placed, closed, spent: since(spent, before) }
    });
    let run = Run {
        steadily,
        lateness: sandbox.lateness(OURS).await?,
        placed: count(PLACED).await?,
        closed: count(CLOSED).await?,
        paid: count("SELECT count(*) FROM bench_paid WHERE paid").await?,
        paid_and_closed: count(
            "SELECT count(*) FROM bench_paid JOIN orders USING (order_id) WHERE paid AND status <> 'PAID'",
        )
        .await?,
    };
    sandbox.run("removing the list", "DROP TABLE bench_paid").await?;
    Ok(run)
}

/// One tick: places `count` orders with two items each, and pays the orders whose payment is due.
async fn insert(sandbox: &Sandbox, stream: Steady, count: u32) -> Result<(), BenchError> {
    sqlx::query(
        "WITH placed AS (
             INSERT INTO orders (user_id, payment_deadline)
             SELECT -n, now() + interval '1 ms' * ($2 + floor(random() * ($3 - $2))) FROM generate_series(1, $1) AS n
             RETURNING order_id, payment_deadline
         ), items AS (
             INSERT INTO order_items
             SELECT order_id, 1 + (order_id * 7 + item * 13) % 1000, 1 + item FROM placed, generate_series(0, 1) AS item
         ), to_be_paid AS (
             INSERT INTO bench_paid
             SELECT order_id, now() + (payment_deadline - now()) / 2, false FROM placed WHERE random() * 100 < $4
         ), paid AS (
             UPDATE orders SET status = 'PAID', updated_at = now() FROM bench_paid
             WHERE orders.order_id = bench_paid.order_id AND status = 'PENDING' AND pay_at <= now() AND NOT paid
             RETURNING orders.order_id
         )
         UPDATE bench_paid SET paid = true FROM paid WHERE bench_paid.order_id = paid.order_id",
    )
    .bind(i64::from(count))
    .bind(f64::from(stream.first_ms))
    .bind(f64::from(stream.last_ms))
    .bind(f64::from(stream.paid_percent))
    .execute(&sandbox.pool)
    .await
    .map_err(failed("placing orders"))?;
    Ok(())
}

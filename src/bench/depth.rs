//! Many orders with distant deadlines: what they cost, and whether other orders are closed as punctually as without them.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::BenchError;
use super::burst::{LOOK, OUTBOX, wait_until};
use super::load::{Orders, place_orders};
use super::outcome::Outcome;
use super::process::PodProcess;
use super::sandbox::{Sandbox, failed};
use super::steady::{OURS, Steady, measure};
use crate::broker::management::Management;
use crate::config::settings::Raw;

/// Time until the first deadline of the waiting orders; the last one is 24 hours away.
const EARLIEST: Duration = Duration::from_secs(2 * 3_600);
const SPREAD: Duration = Duration::from_secs(22 * 3_600);
/// How long the relay may take for a million waiting orders.
const PATIENCE: Duration = Duration::from_secs(1_800);

/// Measures a steady stream alone, then the same stream beside `waiting` orders.
///
/// # Errors
/// When something could not be set up, or orders were left open.
pub async fn depth(
    raw: &Raw,
    waiting: i64,
    stream: Steady,
    log: Option<&Path>,
    say: impl Fn(String),
) -> Result<Outcome, BenchError> {
    Sandbox::with(raw, log, async |sandbox| {
        let pod = sandbox.pod().await?;
        let alone = measure(sandbox, stream, || [f64::NAN; 3], &say).await?.lateness;
        let (pod, restart_alone) = restart(sandbox, pod).await?;
        sandbox.empty().await?;
        let before = held_by_broker(sandbox).await?;

        say(format!("placing {waiting} orders that wait"));
        let began = Instant::now();
        let orders = Orders::due_at(sandbox.now().await?.plus(EARLIEST), waiting);
        place_orders(sandbox, Orders { spread: SPREAD, ..orders }).await?;
        say("waiting until their wakes are in the lanes".to_owned());
        let relayed = async || Ok(sandbox.number("reading the outbox", OUTBOX).await? == 0);
        wait_until(sandbox, LOOK, PATIENCE, relayed).await?;
        let scheduled = began.elapsed().as_secs_f64();
        let held = held_by_broker(sandbox).await?;
        let per_order = |after: f64, before: f64| (after - before) / waiting as f64;

        let (pod, restart_beside) = restart(sandbox, pod).await?;
        let beside = measure(sandbox, stream, || [f64::NAN; 3], &say).await?.lateness;
        let footprint = pod.footprint();
        let sizes = sizes(sandbox).await?;
        pod.stop().await?;
        let figures = vec![
            ("lateness p99", beside.p99_ms, "ms"),
            ("lateness p99 with nobody waiting", alone.p99_ms, "ms"),
            ("their ratio", beside.p99_ms / alone.p99_ms, ""),
            ("lateness p50", beside.p50_ms, "ms"),
            ("lateness p50 with nobody waiting", alone.p50_ms, "ms"),
            ("broker's memory per waiting order", per_order(held.memory, before.memory), "bytes"),
            (
                "message bodies per waiting order",
                per_order(held.message_bytes, before.message_bytes),
                "bytes",
            ),
            ("placed and scheduled within", scheduled, "s"),
            ("first close by a new pod", restart_beside, "s"),
            ("the same with nobody waiting", restart_alone, "s"),
            ("outbox with its index", sizes[0], "MiB"),
            ("index of waiting orders", sizes[1], "MiB"),
            ("pod's peak memory", footprint.peak_memory_mib, "MiB"),
        ];
        let workload = format!("steady {} orders/s beside {waiting} that wait", stream.rate);
        Ok(Outcome {
            lateness: sandbox.bins(OURS).await?,
            pace: sandbox.slices(OURS, 1_000).await?,
            ..Outcome::new(workload, figures)
        })
    })
    .await
}

/// Kills the pod and starts another one; returns the new pod, and the seconds from its start until it has closed an order
/// that was due at once.
async fn restart(sandbox: &Sandbox, pod: PodProcess) -> Result<(PodProcess, f64), BenchError> {
    pod.kill().await?;
    let began = Instant::now();
    let pod = sandbox.pod().await?;
    let order = sqlx::query_scalar(
        "INSERT INTO orders (user_id, payment_deadline) VALUES (0, now()) RETURNING order_id",
    );
    let order: i64 = order.fetch_one(&sandbox.pool).await.map_err(failed("placing an order"))?;
    wait_until(sandbox, LOOK, Duration::from_secs(60), async || {
        let open =
            sqlx::query_scalar("SELECT status = 'PENDING' FROM orders WHERE order_id = $1").bind(order);
        let open: bool = open.fetch_one(&sandbox.pool).await.map_err(failed("looking at an order"))?;
        Ok(!open)
    })
    .await?;
    Ok((pod, began.elapsed().as_secs_f64()))
}

/// What the broker holds for a queue, in bytes: its memory, and the message bodies, which quorum queues keep on disk.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Queue {
    name: String,
    memory: f64,
    message_bytes: f64,
}

/// The sum over all queues of the sandbox, as the management API reports it.
async fn held_by_broker(sandbox: &Sandbox) -> Result<Queue, BenchError> {
    // The API's figures are up to five seconds old.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let management = Management::new(&sandbox.config);
    let queues = tokio::task::spawn_blocking(move || management.list::<Queue>("queues", ""));
    let queues = queues.await.map_err(std::io::Error::other)??;
    let ours = queues.into_iter().filter(|queue| queue.name.starts_with(&sandbox.config.prefix));
    Ok(ours.fold(Queue::default(), |sum, queue| Queue {
        memory: sum.memory + queue.memory,
        message_bytes: sum.message_bytes + queue.message_bytes,
        ..sum
    }))
}

/// Sizes of the outbox with its indexes and of the index of pending orders, in MiB.
async fn sizes(sandbox: &Sandbox) -> Result<[f64; 2], BenchError> {
    let mib =
        async |query| Ok::<_, BenchError>(sandbox.number("reading sizes", query).await? as f64 / 1_048_576.0);
    Ok([
        mib("SELECT pg_total_relation_size('outbox')").await?,
        mib("SELECT pg_relation_size('orders_pending_by_deadline')").await?,
    ])
}

//! A steady stream of orders with mixed windows: how punctually they are closed.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::pod::Footprint;
use super::{BenchError, Lateness, Place, failed};
use crate::settings::Raw;

/// The stream.
#[derive(Clone, Copy, Debug, Serialize)]
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

/// What the stream showed.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Orders placed.
    pub placed: i64,
    /// Orders closed.
    pub closed: i64,
    /// Orders paid.
    pub paid: i64,
    /// Of `closed_at` against the deadline.
    pub lateness: Lateness,
    /// What the pod took.
    pub pod: Footprint,
}

/// Orders are placed in this many statements a second, each with its share.
const TICKS: u32 = 20;

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
    let place = Place::make(raw).await?;
    let outcome = measure(&place, stream, log, say).await;
    place.remove().await?;
    outcome
}

async fn measure(
    place: &Place,
    stream: Steady,
    log: Option<&Path>,
    say: impl Fn(String),
) -> Result<Outcome, BenchError> {
    say(format!("placing {} orders/s for {} s", stream.rate, stream.seconds));
    let pod = place.pod(log)?;
    place
        .run(
            "stocking",
            "INSERT INTO inventory SELECT product, 1000000000 FROM generate_series(1, 1000) AS product",
        )
        .await?;
    place.run("making a list", "CREATE TABLE bench_paid (order_id bigint, pay_at timestamptz)").await?;
    let mut ticks = interval(Duration::from_secs(1) / TICKS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for tick in 0..stream.seconds * TICKS {
        ticks.tick().await;
        let count = stream.rate * (tick + 1) / TICKS - stream.rate * tick / TICKS;
        insert(place, stream, count).await?;
    }
    say("waiting for the last deadline".to_owned());
    let last = Instant::now() + Duration::from_millis(u64::from(stream.last_ms));
    while Instant::now() < last {
        ticks.tick().await;
        insert(place, stream, 0).await?;
    }
    let patience = Duration::from_secs(10);
    let mut open = 1;
    for _ in 0..100 {
        open = place
            .number("counting open orders", "SELECT count(*) FROM orders WHERE status = 'PENDING'")
            .await?;
        if open == 0 {
            break;
        }
        sleep_until(Instant::now() + patience / 100).await;
    }
    if open > 0 {
        return Err(BenchError::Unfinished { open, after: patience });
    }
    let count = async |query| place.number("counting orders", query).await;
    let result = Outcome {
        placed: count("SELECT count(*) FROM orders").await?,
        closed: count("SELECT count(*) FROM orders WHERE status = 'CLOSED'").await?,
        paid: count("SELECT count(*) FROM orders WHERE status = 'PAID'").await?,
        lateness: place.lateness("true").await?,
        pod: pod.footprint(),
    };
    pod.stop().await?;
    Ok(result)
}

/// One tick: places `count` orders with two items each, and pays what is to be paid by now.
async fn insert(place: &Place, stream: Steady, count: u32) -> Result<(), BenchError> {
    sqlx::query(
        "WITH placed AS (
             INSERT INTO orders (user_id, payment_deadline)
             SELECT n, now() + interval '1 ms' * ($2 + floor(random() * ($3 - $2))) FROM generate_series(1, $1) AS n
             RETURNING order_id, payment_deadline
         ), items AS (
             INSERT INTO order_items
             SELECT order_id, 1 + (order_id * 7 + item * 13) % 1000, 1 + item FROM placed, generate_series(0, 1) AS item
         ), to_be_paid AS (
             INSERT INTO bench_paid
             SELECT order_id, now() + (payment_deadline - now()) / 2 FROM placed WHERE random() * 100 < $4
         ), paid AS (
             DELETE FROM bench_paid WHERE pay_at <= now() RETURNING order_id
         )
         UPDATE orders SET status = 'PAID', updated_at = now() FROM paid
         WHERE orders.order_id = paid.order_id AND status = 'PENDING'",
    )
    .bind(i64::from(count))
    .bind(f64::from(stream.first_ms))
    .bind(f64::from(stream.last_ms))
    .bind(f64::from(stream.paid_percent))
    .execute(&place.pool)
    .await
    .map_err(failed("placing orders"))?;
    Ok(())
}

//! All orders due at one moment: how fast they are closed.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::time::sleep;

use super::pod::Footprint;
use super::{BenchError, Lateness, Place};
use crate::settings::Raw;

/// What a burst showed.
#[derive(Clone, Debug, Serialize)]
pub struct Burst {
    /// Orders, two items each.
    pub orders: i64,
    /// From the deadline until none of them was PENDING.
    pub seconds: f64,
    /// The quotient.
    pub closed_per_second: f64,
    /// From the deadline until every event was published, too.
    pub events_seconds: f64,
    /// Of `closed_at` against the deadline.
    pub lateness: Lateness,
    /// What the pod took.
    pub pod: Footprint,
}

/// Products among which the items are spread.
const PRODUCTS: i64 = 1_000;
/// How long after the last order is placed the deadline is: time for the relay to put every wake into its lane.
const BEFORE: Duration = Duration::from_secs(12);
/// How long after the deadline the burst may last.
const PATIENCE: Duration = Duration::from_secs(120);

/// Places `orders` orders in transactions of a thousand, all due at one moment, and measures from that moment on.
///
/// # Errors
/// When something could not be set up, or the orders were not closed in time.
pub async fn burst(
    raw: &Raw,
    orders: i64,
    log: Option<&Path>,
    say: impl Fn(String),
) -> Result<Burst, BenchError> {
    let place = Place::make(raw).await?;
    let outcome = measure(&place, orders, log, say).await;
    place.remove().await?;
    outcome
}

pub(super) async fn measure(
    place: &Place,
    orders: i64,
    log: Option<&Path>,
    say: impl Fn(String),
) -> Result<Burst, BenchError> {
    say(format!("placing {orders} orders"));
    let pod = place.pod(log)?;
    let ahead = load(place, orders, BEFORE).await?;
    say(format!("waiting {:.0} s for their deadline", ahead.as_secs_f64()));
    sleep(ahead).await;
    say(format!("closing {orders} orders"));

    let start = Instant::now();
    wait_until_none(
        place,
        "SELECT count(*) FROM (SELECT FROM orders WHERE status = 'PENDING' LIMIT 1) AS one",
    )
    .await?;
    let seconds = start.elapsed().as_secs_f64();
    wait_until_none(place, "SELECT count(*) FROM (SELECT FROM outbox LIMIT 1) AS one").await?;
    let events_seconds = start.elapsed().as_secs_f64();
    let result = Burst {
        orders,
        seconds,
        closed_per_second: orders as f64 / seconds,
        events_seconds,
        lateness: place.lateness("true").await?,
        pod: pod.footprint(),
    };
    pod.stop().await?;
    Ok(result)
}

/// Places orders in transactions of a thousand, all due at one moment; how far ahead that is afterwards, `before` or more.
pub(super) async fn load(place: &Place, orders: i64, before: Duration) -> Result<Duration, BenchError> {
    let load = format!(
        "INSERT INTO inventory SELECT product, 1000000000 FROM generate_series(1, {PRODUCTS}) AS product
         ON CONFLICT DO NOTHING;
         DO $$ BEGIN
             FOR start IN 0..{orders} - 1 BY 1000 LOOP
                 WITH placed AS (
                     INSERT INTO orders (user_id, payment_deadline)
                     SELECT n, timestamptz 'epoch' + (SELECT interval '1 s' * due FROM bench_deadline)
                     FROM generate_series(start, least(start + 999, {orders} - 1)) AS n RETURNING order_id
                 )
                 INSERT INTO order_items
                 SELECT order_id, 1 + (order_id * 7 + item * 13) % {PRODUCTS}, 1 + item FROM placed, generate_series(0, 1) AS item
                 ;
             END LOOP;
         END $$"
    );
    let ahead = before.as_secs_f64() + orders as f64 / 20_000.0;
    let deadline = format!(
        "DROP TABLE IF EXISTS bench_deadline;
         CREATE TABLE bench_deadline AS SELECT ceil(extract(epoch FROM clock_timestamp()) + {ahead}) AS due"
    );
    place.run("placing orders", &deadline).await?;
    place.run("placing orders", &load).await?;
    let to_deadline =
        "SELECT ceil(1e3 * (due - extract(epoch FROM clock_timestamp())))::bigint FROM bench_deadline";
    let ahead = place.number("reading the clock", to_deadline).await?;
    Ok(Duration::from_millis(u64::try_from(ahead).unwrap_or(0)))
}

/// Asks often enough to add little to what is measured, and seldom enough not to disturb it.
const LOOK: Duration = Duration::from_millis(50);

pub(super) async fn wait_until_none(place: &Place, query: &'static str) -> Result<(), BenchError> {
    let start = Instant::now();
    loop {
        let open = place.number("counting open orders", query).await?;
        if open == 0 {
            return Ok(());
        }
        if start.elapsed() > PATIENCE {
            return Err(BenchError::Unfinished { open, after: PATIENCE });
        }
        sleep(LOOK).await;
    }
}

//! Places orders in bulk, with two items each.

use std::time::Duration;

use sqlx::Executor;
use time::OffsetDateTime;

use super::BenchError;
use super::sandbox::{AS_BEFORE, PATIENTLY, Sandbox, failed};
use crate::clock::DbTime;

/// Products among which the items are spread.
pub(super) const PRODUCTS: i64 = 1_000;
/// Orders placed in one transaction.
const TOGETHER: i64 = 1_000;
/// Old orders, which nothing waits for, written in one transaction.
const OLD_TOGETHER: i64 = 500_000;

/// Inserts the products, with more stock than is ever sold.
pub(super) async fn stock(sandbox: &Sandbox) -> Result<(), BenchError> {
    let stock = format!(
        "INSERT INTO inventory SELECT product, 1000000000 FROM generate_series(1, {PRODUCTS}) AS product
         ON CONFLICT DO NOTHING"
    );
    sandbox.run("stocking", &stock).await
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Orders {
    pub count: i64,
    /// The earliest deadline.
    pub due: DbTime,
    /// The deadlines lie at random within this time after the earliest.
    pub spread: Duration,
    /// Products among which the items are spread, at most [`PRODUCTS`].
    pub products: i64,
}

impl Orders {
    /// Orders that are all due at one moment.
    pub fn due_at(due: DbTime, count: i64) -> Self {
        Self { count, due, spread: Duration::ZERO, products: PRODUCTS }
    }
}

/// Upper bound of the time that placing so many orders takes.
pub(super) fn time_to_place(count: i64) -> Duration {
    Duration::from_secs_f64(count as f64 / 10_000.0)
}

pub(super) async fn place_orders(
    sandbox: &Sandbox,
    Orders { count, due, spread, products }: Orders,
) -> Result<(), BenchError> {
    stock(sandbox).await?;
    let mut placed = 0;
    while placed < count {
        let together = TOGETHER.min(count - placed);
        let statement = sqlx::query(
            "WITH placed AS (
                 INSERT INTO orders (user_id, payment_deadline)
                 SELECT n, $2 + random() * $3 * interval '1 s' FROM generate_series(1, $1) AS n RETURNING order_id
             )
             INSERT INTO order_items
             SELECT order_id, 1 + (order_id * 7 + item * 13) % $4, 1 + item FROM placed, generate_series(0, 1) AS item",
        );
        let statement = statement.bind(together).bind(OffsetDateTime::from(due)).bind(spread.as_secs_f64());
        statement.bind(products).execute(&sandbox.pool).await.map_err(failed("placing orders"))?;
        placed += together;
    }
    Ok(())
}

/// Inserts orders of earlier years that are closed.
pub(super) async fn age(sandbox: &Sandbox, old: i64, say: &impl Fn(String)) -> Result<(), BenchError> {
    let mut made = 0;
    while made < old {
        say(format!("making old orders: {made} of {old}"));
        let together = OLD_TOGETHER.min(old - made);
        let insert = format!(
            "INSERT INTO orders (user_id, status, created_at, updated_at, payment_deadline, closed_at)
             SELECT n, 'CLOSED', moment, moment, moment, moment
             FROM (SELECT n, timestamptz '2020-01-01 00:00+00' + ({made} + n) * interval '3 s' AS moment
                   FROM generate_series(1, {together}) AS n) AS orders"
        );
        sandbox.run("making old orders", &insert).await?;
        made += together;
    }
    if old > 0 {
        // An old shop's table has been vacuumed long ago.
        say("vacuuming".to_owned());
        let mut connection = sandbox.pool.acquire().await.map_err(failed("vacuuming"))?;
        // Not in one string: VACUUM cannot run in a transaction.
        for statement in [PATIENTLY, "VACUUM (ANALYZE, FREEZE) orders", AS_BEFORE] {
            (&mut connection).execute(statement).await.map_err(failed("vacuuming"))?;
        }
        // An old shop's rows are on disk already. Without a checkpoint, which needs a privilege, writing them would keep the
        // disk busy during the measurement.
        if let Err(error) = (&mut connection).execute("CHECKPOINT").await {
            tracing::warn!(%error, "no checkpoint: the old orders may be written to disk during the measurement");
        }
    }
    Ok(())
}

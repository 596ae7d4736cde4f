//! What placing an order costs the shop, with and without the trigger that records the wake.

use std::path::Path;
use std::time::{Duration, Instant};

use super::BenchError;
use super::load::{PRODUCTS, stock};
use super::outcome::Outcome;
use super::sandbox::{Sandbox, failed};
use crate::config::settings::Raw;
use crate::database::Session;

/// Blocks with and without the trigger alternate, so that changes of the machine's load affect both.
const BLOCKS: i64 = 20;
/// Orders placed before anything is measured.
const WARM_UP: i64 = 200;

/// Places orders one by one, each in a transaction with two items and their stock, in blocks with and without the trigger.
///
/// # Errors
/// When something could not be set up.
pub async fn place(
    raw: &Raw,
    orders: i64,
    log: Option<&Path>,
    say: impl Fn(String),
) -> Result<Outcome, BenchError> {
    Sandbox::with(raw, log, async |sandbox| {
        stock(sandbox).await?;
        let mut connection = sandbox.pool.acquire().await.map_err(failed("connecting"))?;
        for n in 0..WARM_UP {
            place_one(&mut connection, n).await.map_err(failed("placing an order"))?;
        }
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for block in 0..BLOCKS {
            say(format!("placing orders, block {} of {BLOCKS}", block + 1));
            let (switch, took) =
                if block % 2 == 0 { ("ENABLE", &mut with) } else { ("DISABLE", &mut without) };
            sandbox
                .run("switching the trigger", &format!("ALTER TABLE orders {switch} TRIGGER USER"))
                .await?;
            for n in 0..orders * 2 / BLOCKS {
                let start = Instant::now();
                place_one(&mut connection, block * orders + n).await.map_err(failed("placing an order"))?;
                took.push(start.elapsed());
            }
        }
        drop(connection);
        let (with, without) = (Quantiles::of(with), Quantiles::of(without));
        let figures = vec![
            ("cost of the trigger, of the median", with.p50 / without.p50, ""),
            ("placing an order p50", with.p50, "ms"),
            ("placing an order p50 without the trigger", without.p50, "ms"),
            ("placing an order p99", with.p99, "ms"),
            ("placing an order p99 without the trigger", without.p99, "ms"),
        ];
        Ok(Outcome::new(format!("placing {orders} orders"), figures))
    })
    .await
}

async fn place_one(session: &mut Session, n: i64) -> sqlx::Result<()> {
    let mut transaction = session.begin("").await?;
    let products = [1 + n * 7 % PRODUCTS, 1 + (n * 7 + 13) % PRODUCTS];
    let order: i64 = sqlx::query_scalar(
        "INSERT INTO orders (user_id, payment_deadline) VALUES ($1, now() + interval '1 day') RETURNING order_id",
    )
    .bind(n)
    .fetch_one(&mut transaction)
    .await?;
    let items = sqlx::query("INSERT INTO order_items SELECT $1, unnest($2::bigint[]), 1");
    items.bind(order).bind(products).execute(&mut transaction).await?;
    let taken = sqlx::query("UPDATE inventory SET stock = stock - 1 WHERE product_id = ANY ($1)");
    taken.bind(products).execute(&mut transaction).await?;
    transaction.commit().await
}

/// Quantiles of durations, in milliseconds.
pub(super) struct Quantiles {
    pub p50: f64,
    pub p99: f64,
}

impl Quantiles {
    pub fn of(mut took: Vec<Duration>) -> Self {
        took.sort_unstable();
        let at = |percent: usize| {
            let n = (took.len() * percent / 100).min(took.len().saturating_sub(1));
            took.get(n).map_or(f64::NAN, |took| took.as_secs_f64() * 1e3)
        };
        Self { p50: at(50), p99: at(99) }
    }
}

//! What came of it, read from where it is true: the database, the subscriber, the parked queue, the pods' logs.

use std::collections::HashSet;

use serde::Deserialize;
use sqlx::PgPool;
use time::OffsetDateTime;

use crate::lives::{End, Life};
use crate::pods::Ending;
use crate::script::STOCK;
use crate::stage::Stage;
use crate::subscriber::Heard;
use crate::{During, Result};

/// What the play leaves for judging.
#[derive(Debug)]
pub struct Performance {
    /// The demo's database.
    pub pool: PgPool,
    /// What the shop knows of each order.
    pub lives: Vec<Life>,
    /// What the subscriber heard.
    pub heard: Heard,
    /// What is parked.
    pub parked: Vec<Parked>,
    /// Messages sent that cannot be understood.
    pub malformed: u64,
}

/// A parked message, as `overdue parked list --json` tells it.
#[derive(Debug, Deserialize)]
pub struct Parked {
    /// Why it is parked.
    pub reason: String,
}

/// Everything that the report needs.
#[derive(Debug)]
pub struct Findings {
    /// As it was played.
    pub performance: Performance,
    /// How the pods ended.
    pub endings: Vec<Ending>,
    /// The database's counts.
    pub orders: Orders,
    /// Orders whose status is not what their buyer was told.
    pub lied_about: Vec<i64>,
    /// Paid orders that were closed, or said to be.
    pub paid_and_closed: Vec<i64>,
    /// Closed orders of which the subscriber heard nothing, and others of which it did.
    pub misreported: Vec<i64>,
    /// Products of which pieces were lost or doubled.
    pub unbalanced: Vec<i64>,
    /// The order that got more time.
    pub extended: Option<Story>,
}

/// Counts, and the lateness of closes in milliseconds.
#[derive(Debug, sqlx::FromRow)]
pub struct Orders {
    pub placed: i64,
    pub paid: i64,
    pub cancelled: i64,
    pub closed: i64,
    pub overdue: i64,
    pub early: i64,
    /// p50, p99 and the worst; none when nothing was closed.
    pub lateness_ms: Option<Vec<f64>>,
}

/// An order whose deadline moved.
#[derive(Debug)]
pub struct Story {
    pub order_id: i64,
    pub created_at: OffsetDateTime,
    pub promised: OffsetDateTime,
    pub payment_deadline: OffsetDateTime,
    pub closed_at: Option<OffsetDateTime>,
}

/// Lists the parked messages as an operator would.
pub async fn parked(stage: &Stage) -> Result<Vec<Parked>> {
    let list = stage.overdue(&["parked", "list", "--limit", "10000", "--json"]).await?;
    serde_json::from_slice(&list).during("reading what `overdue parked list` says")
}

impl Findings {
    /// Compares what everybody knows.
    pub async fn gather(performance: Performance, endings: Vec<Ending>) -> Result<Self> {
        let Performance { pool, lives, heard, .. } = &performance;
        let told = |wanted: fn(&End) -> bool| -> Vec<i64> {
            lives.iter().filter(|life| wanted(&life.end)).map(|life| life.order_id).collect()
        };
        let paid = told(|end| matches!(end, End::Paid));
        let mut lied_about = Vec::new();
        for (status, ids) in [
            ("PAID", &paid),
            ("CANCELLED", &told(|end| matches!(end, End::Cancelled))),
            (
                "CLOSED",
                &told(|end| {
                    matches!(end, End::TooLate | End::LeftUnpaid | End::Forged { .. } | End::Extended { .. })
                }),
            ),
        ] {
            lied_about.extend(not_of_status(pool, ids, status).await?);
        }
        let closed: Vec<i64> =
            sqlx::query_scalar("SELECT order_id FROM orders WHERE status = 'CLOSED'").fetch_all(pool).await?;
        let closed: HashSet<i64> = closed.into_iter().collect();
        Ok(Self {
            orders: orders(pool).await?,
            paid_and_closed: paid
                .into_iter()
                .filter(|id| closed.contains(id) || heard.orders.contains(id))
                .collect(),
            misreported: closed.symmetric_difference(&heard.orders).copied().collect(),
            unbalanced: unbalanced(pool).await?,
            extended: story(pool, lives).await?,
            lied_about,
            endings,
            performance,
        })
    }
}

async fn not_of_status(pool: &PgPool, ids: &[i64], status: &str) -> Result<Vec<i64>> {
    let others = sqlx::query_scalar("SELECT order_id FROM orders WHERE order_id = ANY ($1) AND status <> $2");
    others.bind(ids).bind(status).fetch_all(pool).await.during("comparing statuses")
}

async fn orders(pool: &PgPool) -> Result<Orders> {
    let orders = sqlx::query_as(
        "SELECT count(*) AS placed,
                count(*) FILTER (WHERE status = 'PAID') AS paid,
                count(*) FILTER (WHERE status = 'CANCELLED') AS cancelled,
                count(*) FILTER (WHERE status = 'CLOSED') AS closed,
                count(*) FILTER (WHERE status = 'PENDING' AND payment_deadline <= now()) AS overdue,
                count(*) FILTER (WHERE closed_at < payment_deadline) AS early,
                percentile_cont(ARRAY[0.5, 0.99, 1]) WITHIN GROUP (
                    ORDER BY (extract(epoch FROM closed_at - payment_deadline) * 1000)::float8) AS lateness_ms
         FROM orders",
    );
    orders.fetch_one(pool).await.during("counting orders")
}

/// What is on the shelf and what orders hold must be what was there at first.
async fn unbalanced(pool: &PgPool) -> Result<Vec<i64>> {
    let products = sqlx::query_scalar(
        "SELECT product_id FROM inventory
         LEFT JOIN (SELECT product_id, sum(quantity) AS quantity
                    FROM order_items JOIN orders USING (order_id)
                    WHERE status NOT IN ('CLOSED', 'CANCELLED') GROUP BY product_id) AS held USING (product_id)
         WHERE stock + coalesce(held.quantity, 0) <> $1",
    );
    products.bind(STOCK).fetch_all(pool).await.during("counting stock")
}

async fn story(pool: &PgPool, lives: &[Life]) -> Result<Option<Story>> {
    let extended = lives.iter().find_map(|life| match life.end {
        End::Extended { from } => Some((life.order_id, from)),
        _ => None,
    });
    let Some((order_id, promised)) = extended else {
        return Ok(None);
    };
    let times =
        sqlx::query_as("SELECT created_at, payment_deadline, closed_at FROM orders WHERE order_id = $1");
    let times = times.bind(order_id).fetch_one(pool).await.during("reading the extended order")?;
    let (created_at, payment_deadline, closed_at) = times;
    Ok(Some(Story { order_id, created_at, promised, payment_deadline, closed_at }))
}

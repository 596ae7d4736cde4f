//! The results, each from its source: the database, the subscriber, the parked queue, the pods' logs.

use std::collections::HashSet;

use overdue_testkit::shop::Shop;
use overdue_testkit::subscriber::News;
use serde::Deserialize;
use sqlx::PgPool;
use time::OffsetDateTime;

use crate::lives::{End, Life};
use crate::pods::Ending;
use crate::script::STOCK;
use crate::stage::Stage;
use crate::{During, Result};

/// What a run leaves for evaluation.
#[derive(Debug)]
pub struct Performance {
    pub shop: Shop,
    /// What the shop knows of each order.
    pub lives: Vec<Life>,
    pub heard: News,
    pub parked: Vec<Parked>,
    /// Number of messages sent that cannot be understood.
    pub malformed: u64,
}

/// A parked message, as `overdue parked list --json` prints it.
#[derive(Debug, Deserialize)]
pub struct Parked {
    pub reason: String,
}

/// Everything that the report needs.
#[derive(Debug)]
pub struct Findings {
    pub performance: Performance,
    pub endings: Vec<Ending>,
    /// The database's counts.
    pub orders: Orders,
    /// Orders whose status is not what their buyer was told.
    pub lied_about: Vec<i64>,
    /// Paid orders that were closed, or for which an event says so.
    pub paid_and_closed: Vec<i64>,
    /// Closed orders without an event at the subscriber, and orders with an event that are not closed.
    pub misreported: Vec<i64>,
    /// Products whose stock was lost or doubled.
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
    /// p50, p99 and maximum; none when nothing was closed.
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
    serde_json::from_str(&list).during("reading the output of `overdue parked list`")
}

impl Findings {
    /// Compares the database, the shop's answers and the subscriber's events.
    pub async fn gather(performance: Performance, endings: Vec<Ending>) -> Result<Self> {
        let Performance { shop, lives, heard, .. } = &performance;
        let pool = &shop.pool;
        let heard: HashSet<i64> = heard.orders("order.closed").collect();
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
            lied_about.extend(shop.not_of_status(ids, status).await?);
        }
        let closed: Vec<i64> =
            sqlx::query_scalar("SELECT order_id FROM orders WHERE status = 'CLOSED'").fetch_all(pool).await?;
        let closed: HashSet<i64> = closed.into_iter().collect();
        Ok(Self {
            orders: orders(pool).await?,
            paid_and_closed: paid
                .into_iter()
                .filter(|id| closed.contains(id) || heard.contains(id))
                .collect(),
            misreported: closed.symmetric_difference(&heard).copied().collect(),
            unbalanced: shop.unbalanced(STOCK).await?.into_iter().map(|(product, _)| product).collect(),
            extended: story(pool, lives).await?,
            lied_about,
            endings,
            performance,
        })
    }
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

//! A burst without the limits that `overdue bench burst` measures before and after it, so that processor time is that of closing
//! alone: orders that are due at one moment, from just before it until their events are published.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;
use sqlx::postgres::PgPoolOptions;
use sqlx::{Executor, PgPool};

use super::CPU;
use super::database::Database;
use crate::measure::until;
use crate::proc::processor_seconds;
use crate::servers::Servers;
use overdue_testkit::deployment::Deployment;
use overdue_testkit::process::Process;

/// A burst.
#[derive(Clone, Copy, Debug)]
pub struct Burst {
    /// How many pods close it.
    pub pods: usize,
    /// Orders that are due much later, placed before.
    pub waiting: i64,
}

/// Orders with two items each.
const ORDERS: i64 = 100_000;
/// From the last order to the deadline: every wake is in its lane by then.
const AHEAD: &str = "20 s";
/// How long anything may take.
const PATIENCE: Duration = Duration::from_mins(2);

/// The figures' names.
pub const CLOSED: &str = "closed per second";
pub const P99: &str = "lateness p99, ms";

/// One burst by the pods of one build.
pub async fn close(servers: &Servers, build: &Deployment, burst: Burst) -> Result<HashMap<String, f64>> {
    let database = Database::new(build).await?;
    let figures = measure(servers, &database.deployment, burst).await;
    database.remove().await?;
    figures
}

async fn measure(servers: &Servers, deployment: &Deployment, burst: Burst) -> Result<HashMap<String, f64>> {
    deployment.overdue(&["topology", "declare"]).await?;
    let pool = PgPoolOptions::new().max_connections(2).connect_lazy(&deployment.database_url)?;
    let log = servers.folder.join("burst.log");
    let start = |_| Process::start("a pod", &mut deployment.command(&["run"]), &log);
    let mut pods: Vec<_> = (0..burst.pods).map(start).collect::<Result<_>>()?;
    let number = async |query| anyhow::Ok(sqlx::query_scalar::<_, i64>(query).fetch_one(&pool).await?);
    let in_lanes = async || {
        let left = async || number("SELECT count(*) FROM (SELECT FROM outbox LIMIT 1) AS one").await;
        until("every wake is in its lane", PATIENCE, || async { Ok(left().await? == 0) }).await
    };
    stock(&pool).await?;
    place_waiting(&pool, burst.waiting).await?;
    in_lanes().await?;
    place_orders(&pool).await?;
    let due: f64 = sqlx::query_scalar("SELECT extract(epoch FROM min(payment_deadline))::float8 FROM orders")
        .fetch_one(&pool)
        .await?;
    in_lanes().await?;
    let cpu = async || {
        let mut seconds = servers.processor_seconds().await?;
        for pod in &pods {
            seconds += processor_seconds(pod.pid()?.as_raw_nonzero().get());
        }
        anyhow::Ok(seconds)
    };
    let before = cpu().await?;
    until("the deadline", PATIENCE, || async {
        let now = "SELECT extract(epoch FROM clock_timestamp())::float8";
        Ok(sqlx::query_scalar::<_, f64>(now).fetch_one(&pool).await? >= due)
    })
    .await?;
    until("all are closed and told", PATIENCE, || async {
        let left = "SELECT (EXISTS (SELECT FROM outbox)
             OR EXISTS (SELECT FROM orders WHERE status = 'PENDING' AND payment_deadline < now()))::int::bigint";
        Ok(number(left).await? == 0)
    })
    .await?;
    let spent = cpu().await? - before;
    let (rate, p99): (f64, f64) = sqlx::query_as(
        "SELECT count(*) / extract(epoch FROM max(closed_at) - min(payment_deadline))::float8,
                percentile_cont(0.99) WITHIN GROUP (ORDER BY extract(epoch FROM closed_at - payment_deadline)::float8) * 1000
         FROM orders WHERE status = 'CLOSED'",
    )
    .fetch_one(&pool)
    .await
    .context("what was closed")?;
    for pod in &mut pods {
        pod.signal(Signal::TERM)?;
        pod.ended(Duration::from_secs(20)).await?;
    }
    pool.close().await;
    Ok([(CLOSED, rate), (P99, p99), (CPU, spent)].map(|(name, value)| (name.to_owned(), value)).into())
}

async fn stock(pool: &PgPool) -> Result<()> {
    let stock = "INSERT INTO inventory SELECT product, 1000000 FROM generate_series(1, 1000) AS product";
    pool.execute(stock).await?;
    Ok(())
}

/// Between two hours and a day from now, each at a moment of its own.
async fn place_waiting(pool: &PgPool, orders: i64) -> Result<()> {
    let place = "INSERT INTO orders (user_id, payment_deadline)
                 SELECT n, now() + interval '2 h' + interval '22 h' * n / $1 FROM generate_series(1, $1::bigint) AS n";
    sqlx::query(place).bind(orders).execute(pool).await?;
    Ok(())
}

async fn place_orders(pool: &PgPool) -> Result<()> {
    let place = format!(
        "WITH placed AS (
             INSERT INTO orders (user_id, payment_deadline)
             SELECT n, now() + interval '{AHEAD}' FROM generate_series(1, {ORDERS}) AS n RETURNING order_id
         )
         INSERT INTO order_items
         SELECT order_id, 1 + (order_id * 7 + item * 13) % 1000, 1 FROM placed, generate_series(0, 1) AS item"
    );
    pool.execute(sqlx::AssertSqlSafe(place)).await?;
    Ok(())
}

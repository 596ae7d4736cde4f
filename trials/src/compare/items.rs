//! Many items in one INSERT, as an import does it: what the guard of an order's items costs.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Result;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::time::Instant;
use url::Url;

use crate::pods::Place;

/// The figure's name.
pub const TOOK: &str = "100,000 items in one INSERT, ms";

/// In a database of its own, with the build's schema; milliseconds.
pub async fn insert(build: &Place) -> Result<f64> {
    static RUN: AtomicU32 = AtomicU32::new(0);
    let name = format!("compare_items_{}", RUN.fetch_add(1, Ordering::Relaxed));
    let mut server = PgConnection::connect(&build.database_url).await?;
    server.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await?;
    let mut url = Url::parse(&build.database_url)?;
    url.set_path(&name);
    let build = Place { database_url: url.into(), ..build.clone() };
    build.overdue(&["migrate"]).await?;
    let mut shop = PgConnection::connect(&build.database_url).await?;
    for statement in [
        "INSERT INTO inventory SELECT product, 1000 FROM generate_series(1, 1000) AS product",
        "INSERT INTO orders (user_id, payment_deadline)
         SELECT n, now() + interval '1 day' FROM generate_series(1, 50000) AS n",
        "VACUUM ANALYZE",
        "CHECKPOINT",
    ] {
        shop.execute(statement).await?;
    }
    let began = Instant::now();
    shop.execute(
        "INSERT INTO order_items
         SELECT order_id, 1 + (order_id * 7 + item * 13) % 1000, 1 FROM orders, generate_series(0, 1) AS item",
    )
    .await?;
    let took = began.elapsed().as_secs_f64() * 1e3;
    shop.close().await?;
    server.execute(AssertSqlSafe(format!("DROP DATABASE {name}"))).await?;
    server.close().await?;
    Ok(took)
}

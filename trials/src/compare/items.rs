//! Many items in one INSERT, as an import does it: what the guard of an order's items costs.

use anyhow::Result;
use sqlx::{Connection, Executor, PgConnection};
use tokio::time::Instant;

use super::database::Database;
use overdue_testkit::deployment::Deployment;

/// The figure's name.
pub const TOOK: &str = "100,000 items in one INSERT, ms";

/// In a database of its own; milliseconds.
pub async fn insert(build: &Deployment) -> Result<f64> {
    let database = Database::new(build).await?;
    let mut shop = PgConnection::connect(&database.deployment.database_url).await?;
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
    database.remove().await?;
    Ok(took)
}

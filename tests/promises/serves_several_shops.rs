//! Several shops share a database, each in a schema of its own, and a broker, each under a prefix.

use std::time::Duration;

use overdue::stats::Count;
use sqlx::Executor;
use sqlx::postgres::PgPoolOptions;

use crate::harness::{World, eventually};

#[tokio::test]
async fn each_shop_of_a_database_has_leaders_of_its_own() {
    World::with(async |world| {
        let url = format!("{}?options[search_path]=second", world.database_url);
        world.pool.execute("CREATE SCHEMA second").await.expect("a schema");
        let second = PgPoolOptions::new().connect_lazy(&url).expect("a pool");
        overdue::database::migrate(&second.connect_options()).await.expect("migrated");

        let first_pod = world.pod(&[]);
        let second_pod = world.pod(&[("database_url", &url), ("prefix", "second.")]);
        let order = world.place(Duration::from_secs(2), &[]).await;
        let insert = "INSERT INTO orders (user_id, payment_deadline) VALUES (1, now() + interval '2 s')";
        second.execute(insert).await.expect("placed");

        world.closed(order).await;
        eventually("the second shop's order is closed", async || {
            let closed = sqlx::query_scalar("SELECT count(*) FROM orders WHERE status = 'CLOSED'");
            closed.fetch_one(&second).await.is_ok_and(|closed: i64| closed == 1)
        })
        .await;
        for pod in [first_pod, second_pod] {
            assert_eq!(pod.shared.stats.get(Count::Swept), 0, "by its wake");
            pod.stop().await;
        }
        second.close().await;
    })
    .await;
}

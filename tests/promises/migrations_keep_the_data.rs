//! Migrations are applied over data: what an earlier schema held, the next one still holds, and its promises apply.

use std::path::Path;

use sqlx::migrate::Migrator;
use sqlx::postgres::PgPoolOptions;

use crate::harness::World;

/// What a shop has after the first migration: rows in every status, with items and stock.
const SAMPLE: &str = "
    INSERT INTO inventory VALUES (1, 90), (2, 0);
    INSERT INTO orders (user_id, status, payment_deadline) VALUES
        (1, 'PENDING', now() - interval '1 minute'), (1, 'PENDING', now() + interval '1 day'), (2, 'PAID', now()),
        (2, 'SHIPPED', now()), (3, 'DELIVERED', now()), (3, 'REFUNDED', now()), (3, 'CANCELLED', now());
    INSERT INTO orders (user_id, status, payment_deadline, closed_at) VALUES (4, 'CLOSED', now(), now());
    INSERT INTO order_items SELECT order_id, 1, order_id FROM orders WHERE status = 'PENDING';";

/// Everything that a shop would miss.
const CONTENT: &str = "
    SELECT coalesce(string_agg(row, e'\\n' ORDER BY row), '') FROM (
        SELECT 'order ' || row(order_id, user_id, status, created_at, updated_at, payment_deadline, closed_at) FROM orders
        UNION ALL SELECT 'item ' || row(order_id, product_id, quantity) FROM order_items
        UNION ALL SELECT 'stock ' || row(product_id, stock) FROM inventory) AS everything (row)";

#[tokio::test]
async fn each_migration_keeps_the_rows_that_the_one_before_it_had() {
    World::with(async |world| {
        world.sql("CREATE SCHEMA staged").await;
        let url = format!("{}?options=-c%20search_path%3Dstaged", world.database_url);
        let pool = PgPoolOptions::new().max_connections(2).connect(&url).await.expect("a pool");
        let mut migrations = Migrator::new(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")))
            .await
            .expect("migrations");
        migrations.dangerous_set_table_name("overdue_migrations");
        let mut content: Option<String> = None;
        for migration in migrations.iter() {
            migrations.run_to(migration.version, &pool).await.expect("migrated");
            let read = || sqlx::query_scalar::<_, String>(CONTENT).fetch_one(&pool);
            match &content {
                Some(before) => {
                    assert_eq!(read().await.expect("the content"), *before, "{}", migration.description);
                }
                None => {
                    sqlx::raw_sql(SAMPLE).execute(&pool).await.expect("sample data");
                    content = Some(read().await.expect("the content"));
                }
            }
        }
        assert!(content.is_some_and(|content| content.lines().count() == 12), "the sample is not all there");
        // Running them again changes nothing, by the command too.
        overdue::database::migrate(&pool.connect_options()).await.expect("up to date");
        let (code, _, error) = world.run(&["migrate", "--database-url", &url]).await;
        assert_eq!((code, error.as_str()), (0, ""));

        // The orders that were there before the triggers have no wake: the sweep closes the one that is due.
        let (code, _, error) = world.run(&["sweep", "--grace", "0s", "--database-url", &url]).await;
        assert_eq!((code, error.as_str()), (0, ""));
        assert_eq!(world.number("SELECT count(*) FROM staged.orders WHERE status = 'CLOSED'").await, 2);
        assert_eq!(world.number("SELECT stock FROM staged.inventory WHERE product_id = 1").await, 91);
        pool.close().await;
    })
    .await;
}

#[tokio::test]
async fn pods_that_migrate_at_the_same_time_do_not_get_in_each_others_way() {
    World::with(async |world| {
        world.sql("CREATE SCHEMA together").await;
        let url = format!("{}?options=-c%20search_path%3Dtogether", world.database_url);
        let migrate = ["migrate", "--database-url", &url];
        let (a, b, c) = tokio::join!(world.run(&migrate), world.run(&migrate), world.run(&migrate));
        for (code, _, error) in [a, b, c] {
            assert_eq!((code, error.as_str()), (0, ""));
        }
        assert_eq!(world.number("SELECT count(*) FROM together.orders").await, 0);
    })
    .await;
}

//! The README's SQL, run as a script in which nobody looks at an error or a row count, never half succeeds.

use std::path::Path;
use std::time::Duration;

use sqlx::{AssertSqlSafe, Executor};

use crate::harness::World;

/// The statements of the README's SQL blocks, comments taken out.
fn statements() -> Vec<String> {
    let readme =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("README.md");
    let section = readme.split("\n## ").find(|section| section.starts_with("How a service publishes"));
    let blocks = section
        .expect("a section")
        .split("```sql\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap_or_default());
    let lines =
        blocks.flat_map(str::lines).filter(|line| !line.starts_with("--")).collect::<Vec<_>>().join("\n");
    lines
        .split(';')
        .map(|statement| statement.trim().to_owned())
        .filter(|statement| !statement.is_empty())
        .collect()
}

/// Runs the script as a client that goes on after an error.
async fn run(world: &World, script: &[String]) {
    for statement in script {
        let _ = (&world.pool).execute(AssertSqlSafe(statement.as_str())).await;
    }
}

#[tokio::test]
async fn whatever_state_order_and_stock_are_in() {
    let script = statements();
    for verb in ["overdue_place", "'PAID'", "'1 hour'", "overdue_edit", "overdue_cancel", "WITH placed"] {
        assert!(script.iter().any(|statement| statement.contains(verb)), "the README shows no {verb}");
    }
    World::with(async |world| {
        for stock in [0, 1, 2, 3, 100] {
            for status in ["PENDING", "PAID", "CANCELLED", "CLOSED"] {
                world
                    .sql("TRUNCATE orders, order_items, inventory, outbox, closing_failures RESTART IDENTITY")
                    .await;
                world.sql("INSERT INTO inventory SELECT p, 102 FROM generate_series(1, 9) AS p").await;
                let order = world.place(Duration::ZERO, &[(7, 2)]).await;
                assert_eq!(order, 1, "the order that the README names");
                world.sql(&format!("UPDATE inventory SET stock = {stock}")).await;
                match status {
                    "CLOSED" => assert_eq!(world.run(&["sweep", "--grace", "0s"]).await.0, 0),
                    "CANCELLED" => assert_eq!(world.run(&["order", "cancel", "1"]).await.0, 0),
                    other => world.sql(&format!("UPDATE orders SET status = '{other}'")).await,
                }
                let held = "SELECT (SELECT sum(stock) FROM inventory WHERE product_id IN (7, 9))::bigint
                    + coalesce((SELECT sum(quantity) FROM order_items JOIN orders USING (order_id)
                                WHERE status NOT IN ('CLOSED', 'CANCELLED')), 0)::bigint";
                let before = world.number(held).await;
                // Twice, in both orders: each statement meets each state.
                run(world, &script).await;
                run(world, &script.iter().rev().cloned().collect::<Vec<_>>()).await;
                assert_eq!(
                    world.number(held).await,
                    before,
                    "stock {stock}, {status}: pieces were lost or made"
                );
                let empty = "SELECT count(*) FROM orders WHERE NOT EXISTS
                    (SELECT FROM order_items WHERE order_items.order_id = orders.order_id)";
                assert_eq!(
                    world.number(empty).await,
                    0,
                    "stock {stock}, {status}: an order without its items"
                );
            }
        }
    })
    .await;
}

//! Invariant 3: for every product, stock plus what open orders hold never changes, whatever closes, pays, cancels,
//! repeats and deadlocks at the same time.

use std::time::Duration;

use lapin::BasicProperties;
use overdue::stats::Count;
use serde_json::json;
use sqlx::PgPool;

use crate::harness::{World, eventually};

const SECOND: Duration = Duration::from_secs(1);
const PRODUCTS: i64 = 8;
const EACH: i64 = 100_000;

/// Orders with one to four products each, due from 1 to 4 s from now.
async fn place_mixed(world: &World, count: i32) {
    let statement = "
        WITH placed AS (
            INSERT INTO orders (user_id, payment_deadline)
            SELECT n, now() + make_interval(secs => 1 + 3.0 * n / $1) FROM generate_series(1, $1) AS n
            RETURNING order_id
        ), items AS (
            SELECT order_id, product, 1 + (order_id * product) % 3 AS quantity
            FROM placed, generate_series(1, $2) AS product
            WHERE (order_id + product * product) % 3 = 0
        ), taken AS (
            UPDATE inventory SET stock = stock - sold.quantity
            FROM (SELECT product, sum(quantity)::bigint AS quantity FROM items GROUP BY product) AS sold
            WHERE product_id = product
        )
        SELECT count(*) FROM items";
    // The items go in afterwards, in the same transaction: a foreign key does not see rows of its own statement.
    let mut transaction = world.pool.begin().await.expect("a transaction");
    let items: i64 = sqlx::query_scalar(statement)
        .bind(count)
        .bind(PRODUCTS)
        .fetch_one(&mut *transaction)
        .await
        .expect("placed");
    let inserted = sqlx::query(
        "INSERT INTO order_items SELECT order_id, product, 1 + (order_id * product) % 3
         FROM orders, generate_series(1, $1) AS product WHERE (order_id + product * product) % 3 = 0",
    );
    let inserted = inserted.bind(PRODUCTS).execute(&mut *transaction).await.expect("items").rows_affected();
    assert_eq!(Ok(items), i64::try_from(inserted));
    transaction.commit().await.expect("committed");
}

/// A shop that books deliveries from the last product to the first, against everybody else's order of locking.
async fn book_backwards(pool: PgPool) {
    // A deadlock costs everybody in it a second, so not forever.
    for _ in 0..2 {
        let mut transaction = pool.begin().await.expect("a transaction");
        for product in (1..=PRODUCTS).rev() {
            let booked =
                sqlx::query("UPDATE inventory SET stock = stock + 0 WHERE product_id = $1").bind(product);
            // Whom the database ends in a deadlock begins again.
            if booked.execute(&mut *transaction).await.is_err() {
                break;
            }
        }
        transaction.rollback().await.expect("rolled back");
    }
}

#[tokio::test]
async fn stock_is_conserved_while_pods_buyers_and_the_shop_get_in_each_others_way() {
    World::with(async |world| {
        world.stock(PRODUCTS, EACH).await;
        let settings =
            [("sweep_every", "1s"), ("sweep_grace", "1s"), ("close_concurrency", "4"), ("close_batch", "50")];
        let pods = [world.pod(&settings), world.pod(&settings)];
        world.declared().await;
        place_mixed(world, 2_000).await;
        let backwards = tokio::spawn(book_backwards(world.pool.clone()));
        let duplicates: Vec<_> = (1..=500).map(|order| json!([order, 0, 0])).collect();
        let duplicates = json!({"wake": duplicates}).to_string();
        // From the last that is due to the first, so that even a slow shop comes before the pods with some of them.
        let buyers = async |remainder: i64| {
            let mut done = 0;
            for order in (1..=2_000).rev().filter(|order| order % 7 == remainder) {
                let first = if remainder % 2 == 0 {
                    world.pay(order).await
                } else {
                    overdue::orders::cancel(&world.database(), order).await.is_ok()
                };
                done += usize::from(first);
            }
            done
        };
        let repeated = async {
            for _ in 0..20 {
                world.publish("order.process", duplicates.as_bytes(), BasicProperties::default()).await;
            }
        };
        let (a, b, c, d, ()) = tokio::join!(buyers(0), buyers(1), buyers(2), buyers(3), repeated);
        world.all_settled().await;
        backwards.await.expect("the shop");
        world.assert_stock_conserved(EACH).await;
        let statuses = world.statuses().await;
        assert_eq!((statuses["PAID"], statuses["CANCELLED"]), (a + c, b + d));
        assert!(statuses["CLOSED"] > 500, "{statuses:?}");
        for pod in pods {
            pod.stop().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_deadlock_with_the_shop_delays_the_close_and_is_nobodys_fault() {
    World::with(async |world| {
        world.stock(2, EACH).await;
        let pod = world.pod(&[("max_attempts", "1")]);
        world.declared().await;
        let order = world.place(2 * SECOND, &[(1, 1), (2, 1)]).await;
        let mut shop = world.pool.begin().await.expect("a transaction");
        sqlx::query("UPDATE inventory SET stock = stock - 1 WHERE product_id = 2").execute(&mut *shop).await.expect("booked");
        eventually("the close waits for the shop", async || {
            world.number("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'").await > 0
        })
        .await;
        // Now each waits for the other; the database ends one of the two, and either is fine.
        let second = sqlx::query("UPDATE inventory SET stock = stock + 1 WHERE product_id = 1").execute(&mut *shop).await;
        let undone = match second {
            Ok(_) => sqlx::query("UPDATE inventory SET stock = stock + 1 - 2 * (product_id % 2) ").execute(&mut *shop).await,
            Err(deadlock) => Err(deadlock),
        };
        match undone {
            Ok(_) => shop.commit().await.expect("committed"),
            Err(_) => shop.rollback().await.expect("rolled back"),
        }
        world.closed(order).await;
        assert_eq!(pod.shared.stats.get(Count::Failed), 0, "a deadlock was counted against the order");
        assert_eq!(world.depth(&world.names.parked()).await, 0);
        world.assert_stock_conserved(EACH).await;
        pod.stop().await;
    })
    .await;
}

/// The closing statement names one order or many, from 1; a shop may name them in any array.
#[tokio::test]
async fn an_orders_stock_comes_back_whatever_the_shape_of_the_array_that_names_it() {
    World::with(async |world| {
        world.stock(2, 100).await;
        let order = world.place(3_600 * SECOND, &[(1, 2), (2, 3)]).await;
        let stock = "SELECT array_agg(stock ORDER BY product_id) FROM inventory";
        let before: Vec<i64> = sqlx::query_scalar(stock).fetch_one(&world.pool).await.expect("stock");
        for shape in ["{#}", "[0:0]={#}", "[7:7]={#}", "{{#}}", "{#,NULL}", "{NULL,#}", "{#,#}", "{#,0}"] {
            let mut transaction = world.pool.begin().await.expect("a transaction");
            let give_back = sqlx::query_scalar("SELECT overdue_give_back($1::text::bigint[])");
            let give_back = give_back.bind(shape.replace('#', &order.to_string()));
            let products: i64 = give_back.fetch_one(&mut *transaction).await.expect("given back");
            let after: Vec<i64> =
                sqlx::query_scalar(stock).fetch_one(&mut *transaction).await.expect("stock");
            assert_eq!((products, after), (2, vec![before[0] + 2, before[1] + 3]), "{shape}");
        }
        for shape in ["{}", "{NULL}", "{0}"] {
            let give_back = sqlx::query_scalar("SELECT overdue_give_back($1::text::bigint[])").bind(shape);
            let products: i64 = give_back.fetch_one(&world.pool).await.expect("nothing to give back");
            assert_eq!(products, 0, "{shape}");
        }
    })
    .await;
}

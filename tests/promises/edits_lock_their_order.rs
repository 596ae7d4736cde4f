//! A close and an edit of an order's items never see half of each other, whichever comes first, and what holds no stock any
//! more is not edited.

use std::sync::Arc;
use std::time::Duration;

use overdue::closing::{Closer, Verdict};
use sqlx::postgres::{PgDatabaseError, PgPool};
use sqlx::{AssertSqlSafe, Executor, Postgres, Transaction};

use crate::harness::{World, eventually};

const HOUR: Duration = Duration::from_secs(3_600);

/// The error of a statement that must be refused: its SQLSTATE and constraint.
async fn refused(pool: &PgPool, statement: &str) -> (String, Option<String>) {
    let error = pool.execute(AssertSqlSafe(statement)).await.expect_err(statement);
    let error = error.as_database_error().expect("the server's").downcast_ref::<PgDatabaseError>();
    (error.code().to_owned(), error.constraint().map(str::to_owned))
}

async fn run(transaction: &mut Transaction<'_, Postgres>, statement: &str) {
    (&mut **transaction)
        .execute(AssertSqlSafe(statement))
        .await
        .unwrap_or_else(|error| panic!("{statement}: {error}"));
}

fn closer(world: &World) -> Closer {
    Closer::new(&world.config(&[]), world.database(), Arc::default(), Arc::default()).expect("a closer")
}

/// Edits, each in one transaction of the shop with its own stock: what is done to the item, and to the stock.
const EDITS: [(&str, &str); 5] = [
    (
        "UPDATE order_items SET quantity = 2 WHERE order_id = $",
        "UPDATE inventory SET stock = stock + 3 WHERE product_id = 1",
    ),
    (
        "UPDATE order_items SET quantity = 7 WHERE order_id = $",
        "UPDATE inventory SET stock = stock - 2 WHERE product_id = 1",
    ),
    (
        "DELETE FROM order_items WHERE order_id = $",
        "UPDATE inventory SET stock = stock + 5 WHERE product_id = 1",
    ),
    (
        "UPDATE order_items SET product_id = 2 WHERE order_id = $",
        "UPDATE inventory SET stock = stock + CASE product_id WHEN 1 THEN 5 ELSE -5 END WHERE product_id IN (1, 2)",
    ),
    (
        "INSERT INTO order_items VALUES ($, 2, 4)",
        "UPDATE inventory SET stock = stock - 4 WHERE product_id = 2",
    ),
];

#[tokio::test]
async fn an_order_that_falls_due_in_the_middle_of_an_edit_is_closed_after_it_with_the_right_stock() {
    // Some shops move the stock first. The last edit takes a further product, for which a close does not wait: it is refused then.
    let stock_first = EDITS.map(|(edit, stock)| (stock, edit)).into_iter().take(4);
    for (first, second) in EDITS.into_iter().chain(stock_first) {
        World::with(async |world| {
            world.stock(2, 100).await;
            let order = world.place(HOUR, &[(1, 5)]).await;
            let closer = closer(world);
            let mut shop = world.pool.begin().await.expect("a transaction");
            // Its wake has come, and the deadline passes in the middle.
            world.sql("UPDATE orders SET payment_deadline = now()").await;
            run(&mut shop, &first.replace('$', &order.to_string())).await;
            let verdicts = closer.close(vec![order]).await.expect("an answer");
            assert_eq!(verdicts[&order], Verdict::Locked, "{first}: closed in the middle");
            run(&mut shop, &second.replace('$', &order.to_string())).await;
            shop.commit().await.expect("committed");
            let verdicts = closer.close(vec![order]).await.expect("an answer");
            assert_eq!(verdicts[&order], Verdict::Closed, "{first}");
            world.assert_stock_conserved(100).await;
            closer.disconnect().await;
        })
        .await;
    }
}

#[tokio::test]
async fn an_order_that_is_closed_or_cancelled_takes_no_edit_and_no_further_item() {
    World::with(async |world| {
        world.stock(2, 100).await;
        let closed = world.place(Duration::ZERO, &[(1, 5)]).await;
        let cancelled = world.place(HOUR, &[(1, 5)]).await;
        let open = world.place(HOUR, &[(2, 1)]).await;
        let closer = closer(world);
        assert_eq!(closer.close(vec![closed]).await.expect("an answer")[&closed], Verdict::Closed);
        let (code, _, error) = world.run(&["order", "cancel", &cancelled.to_string()]).await;
        assert_eq!((code, error.as_str()), (0, ""));
        let guarded = ("23514".to_owned(), Some("order_items_of_open_order".to_owned()));
        for gone in [closed, cancelled] {
            for statement in [
                format!("INSERT INTO order_items VALUES ({gone}, 2, 1)"),
                format!("UPDATE order_items SET quantity = 1 WHERE order_id = {gone}"),
                format!("UPDATE order_items SET order_id = {open} WHERE order_id = {gone}"),
                format!("UPDATE order_items SET order_id = {gone} WHERE order_id = {open}"),
            ] {
                assert_eq!(refused(&world.pool, &statement).await, guarded, "{statement}");
            }
            world.sql(&format!("DELETE FROM order_items WHERE order_id = {gone}")).await;
        }
        let unknown = refused(&world.pool, "INSERT INTO order_items VALUES (99, 1, 1)").await;
        assert_eq!(unknown.1.as_deref(), Some("order_items_order_id_fkey"));
        world.assert_stock_conserved(100).await;
        closer.disconnect().await;
    })
    .await;
}

#[tokio::test]
async fn an_item_that_waits_for_a_close_or_a_cancel_is_refused_by_it() {
    for change in ["status = 'CANCELLED'", "status = 'CLOSED', payment_deadline = now(), closed_at = now()"] {
        World::with(async |world| {
        world.stock(1, 100).await;
        let order = world.place(HOUR, &[(1, 5)]).await;
        // It is not committed yet.
        let mut closing = world.pool.begin().await.expect("a transaction");
        run(&mut closing, &format!("UPDATE orders SET {change}")).await;
        let adding = tokio::spawn({
            let pool = world.pool.clone();
            // Guarded as shops do it, by a status that is true in the statement's snapshot.
            let add = format!("INSERT INTO order_items SELECT order_id, 1, 1 FROM orders WHERE order_id = {order} AND status = 'PENDING'
                               ON CONFLICT (order_id, product_id) DO UPDATE SET quantity = order_items.quantity + 1");
            async move { refused(&pool, &add).await }
        });
        eventually("the edit waits for the close", async || {
            let waiting = "SELECT count(*) FROM pg_stat_activity
                WHERE datname = current_database() AND wait_event_type = 'Lock'";
            world.number(waiting).await > 0
        })
        .await;
        closing.commit().await.expect("committed");
        assert_eq!(adding.await.expect("an error").1.as_deref(), Some("order_items_of_open_order"), "{change}");
    })
    .await;
    }
}

#[tokio::test]
async fn two_moves_of_items_in_opposite_directions_do_not_deadlock() {
    World::with(async |world| {
        world.stock(2, 100_000).await;
        let (one, two) = (world.place(HOUR, &[(1, 5)]).await, world.place(HOUR, &[(2, 5)]).await);
        let moves = |product: i64, mut from: i64, mut to: i64| {
            let pool = world.pool.clone();
            async move {
                for _ in 0..200 {
                    let moved = format!("UPDATE order_items SET order_id = {to} WHERE order_id = {from} AND product_id = {product}");
                    (&pool).execute(AssertSqlSafe(moved)).await.expect("no deadlock");
                    std::mem::swap(&mut from, &mut to);
                }
            }
        };
        tokio::join!(moves(1, one, two), moves(2, two, one));
    })
    .await;
}

#[tokio::test]
async fn deleting_an_order_or_a_whole_cart_is_quiet_and_a_product_in_an_order_stays() {
    World::with(async |world| {
        world.stock(2, 100).await;
        let pod = world.pod(&[("max_attempts", "2"), ("retry_base", "50ms")]);
        world.ready().await;
        let cart = world.place(Duration::from_secs(1), &[(1, 5)]).await;
        let draft = world.place(Duration::from_secs(1), &[]).await;
        world
            .sql(&format!(
                "WITH items AS (DELETE FROM order_items WHERE order_id = {cart} RETURNING quantity)
                 UPDATE inventory SET stock = stock + items.quantity FROM items WHERE product_id = 1;
                 DELETE FROM orders WHERE order_id IN ({cart}, {draft})"
            ))
            .await;
        let last = world.place(Duration::from_secs(2), &[(2, 1)]).await;
        let held = refused(&world.pool, "DELETE FROM inventory WHERE product_id = 2").await;
        assert_eq!(held.1.as_deref(), Some("order_items_product_id_fkey"));
        world.sql("DELETE FROM inventory WHERE product_id = 1").await;
        world.closed(last).await;
        world.assert_stock_conserved(100).await;
        pod.stop().await;
        assert_eq!(world.depth(&world.names.parked()).await, 0, "what is gone needs nobody");
    })
    .await;
}

#[tokio::test]
async fn bulk_extension_is_linear_in_a_session_that_has_extended_one_order_before() {
    World::with(async |world| {
        world.place_many(20_000, HOUR, HOUR, &[]).await;
        let mut shop = world.pool.acquire().await.expect("a connection");
        // Often enough for the session to keep its plan.
        for _ in 0..8 {
            let one = "UPDATE orders SET payment_deadline = payment_deadline + interval '1 s' WHERE order_id = 1";
            (&mut *shop).execute(one).await.expect("extended");
        }
        // Quadratic, it compares 200 million pairs: 88 s where this was measured. No time is asserted but that it ends in
        // what the harness waits for.
        let all = "SET statement_timeout = '30s'; UPDATE orders SET payment_deadline = payment_deadline + interval '1 hour'";
        (&mut *shop).execute(all).await.expect("extended in linear time");
        assert_eq!(
            world.number("SELECT count(*) FROM outbox, unnest(order_ids) WHERE kind = 'wake'").await,
            40_008
        );
        (&mut *shop).execute("RESET statement_timeout").await.expect("reset");
    })
    .await;
}

#[tokio::test]
async fn cancelling_by_plain_sql_records_its_event_once() {
    World::with(async |world| {
        let orders = world.place_many(1_200, HOUR, HOUR, &[]).await;
        world.sql("DELETE FROM outbox; UPDATE orders SET status = 'CANCELLED'").await;
        world.sql("UPDATE orders SET status = 'CANCELLED', payment_deadline = payment_deadline + interval '1 s'").await;
        let told = "SELECT count(*) FROM outbox, unnest(order_ids) AS o WHERE kind = 'order.cancelled'";
        assert_eq!(world.number(told).await, i64::try_from(orders.len()).expect("a count"));
        assert_eq!(world.number("SELECT count(*) FROM outbox").await, 3, "500 orders a row");
    })
    .await;
}

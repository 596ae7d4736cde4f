//! Stock is given back for every item of a closed order, added however late.

use std::time::Duration;

use sqlx::Connection;
use sqlx::postgres::PgConnection;

use crate::harness::{World, eventually};

/// A statement sees what was committed when it began. A close that began just before an item was committed, and locked the
/// order just after, must see the item all the same: so the items are read by a function, which looks again.
#[tokio::test]
async fn an_item_committed_after_the_close_began_is_seen_by_it() {
    World::with(async |world| {
        world.stock(2, 10).await;
        let order = world.place(Duration::from_secs(3600), &[(1, 1)]).await;
        let mut gate = PgConnection::connect(&world.database_url).await.expect("a connection");
        sqlx::query("SELECT pg_advisory_lock(7)").execute(&mut gate).await.expect("the gate is shut");

        let pool = world.pool.clone();
        // Begins, waits at the gate, and reads the items after it, as the closing statement does after its locks.
        let close = tokio::spawn(async move {
            sqlx::query_as::<_, (i64, i64)>(
                "WITH gate AS MATERIALIZED (SELECT pg_advisory_lock(7))
                 SELECT overdue_give_back(ARRAY[$1]),
                        (SELECT count(*) FROM order_items WHERE order_id = $1) FROM gate",
            )
            .bind(order)
            .fetch_one(&pool)
            .await
        });
        eventually("it waits at the gate", async || {
            let waiting = sqlx::query_scalar(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
                 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            );
            waiting.fetch_one(&world.pool).await.is_ok_and(|waiting: i64| waiting == 1)
        })
        .await;
        let item = sqlx::query("INSERT INTO order_items VALUES ($1, 2, 1)").bind(order);
        item.execute(&world.pool).await.expect("added");
        gate.close().await.expect("the gate is open");

        let (by_function, by_statement) = close.await.expect("no panic").expect("an answer");
        assert_eq!(by_function, 2, "the products that the close gives back");
        assert_eq!(by_statement, 1, "what the statement itself would have seen");
    })
    .await;
}

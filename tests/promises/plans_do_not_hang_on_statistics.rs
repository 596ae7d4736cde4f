//! The planner's statistics may say that no order is due, because none was when they were gathered, or that none is waiting.
//! A burst must be closed as fast all the same.

use std::time::Duration;

use sqlx::Executor;

use crate::harness::World;

const CLOSE: &str = include_str!("../../src/closing/close.sql");
const DELETES: [(&str, &str); 2] = [
    ("wake", include_str!("../../src/outbox/delete_wakes.sql")),
    ("order.closed", include_str!("../../src/outbox/delete_events.sql")),
];

#[tokio::test]
async fn a_batch_is_found_by_its_orders_and_not_by_searching_everything_that_waits() {
    World::with(async |world| {
        world.stock(1, 10_000).await;
        world.place_many(2_000, Duration::from_secs(3_600), Duration::from_secs(3_600), &[(1, 1)]).await;
        // Many more that wait for nothing, as in an old shop.
        world
            .sql(
                "INSERT INTO orders (user_id, status, payment_deadline, closed_at)
                 SELECT n, 'CLOSED', now(), now() FROM generate_series(1, 20000) AS n",
            )
            .await;
        for statistics in [
            "ANALYZE",
            "UPDATE orders SET status = 'PAID' WHERE order_id % 9 > 0 AND status = 'PENDING'; ANALYZE",
        ] {
            world.sql(statistics).await;
            let mut connection = world.pool.acquire().await.expect("a connection");
            (&mut *connection).execute("SET plan_cache_mode = force_generic_plan").await.expect("as pods do");
            let prepare = format!("PREPARE closing (bigint[], int, boolean, int) AS {CLOSE}");
            (&mut *connection).execute(sqlx::AssertSqlSafe(prepare)).await.expect("prepared");
            let plan = sqlx::raw_sql("EXPLAIN EXECUTE closing ('{1,2,3}', 2, true, 1331054006)")
                .fetch_all(&mut *connection);
            let plan: Vec<String> =
                plan.await.expect("a plan").iter().map(|row| sqlx::Row::get(row, 0)).collect();
            (&mut *connection).execute("DEALLOCATE closing").await.expect("forgotten");
            let plan = plan.join("\n");
            assert!(plan.contains("Index Cond: (order_id = ANY ($1))"), "{plan}");
            assert!(!plan.contains("orders_pending_by_deadline"), "{plan}");
            assert!(!plan.contains("Seq Scan on orders"), "{plan}");
        }
    })
    .await;
}

#[tokio::test]
async fn what_was_relayed_is_deleted_without_a_walk_over_what_waits() {
    World::with(async |world| {
        // An outage: gathered when there was none of the kind, the statistics say that there is none.
        world.sql("ALTER TABLE outbox SET (autovacuum_enabled = false)").await;
        for (kind, delete) in DELETES {
            let record = |kind: &str| {
                format!(
                    "INSERT INTO outbox (kind, order_ids, deadlines, user_ids)
                     SELECT '{kind}', ARRAY[n], ARRAY[now()], CASE WHEN '{kind}' <> 'wake' THEN ARRAY[n] END
                     FROM generate_series(1, 20000) AS n"
                )
            };
            let other = if kind == "wake" { "order.closed" } else { "wake" };
            world.sql(&format!("TRUNCATE outbox; {}; ANALYZE outbox; {}", record(other), record(kind))).await;
            let mut connection = world.pool.acquire().await.expect("a connection");
            (&mut *connection).execute("SET plan_cache_mode = force_generic_plan").await.expect("as pods do");
            let prepare = format!("PREPARE deleting (bigint[], bigint, bigint) AS {delete}");
            (&mut *connection).execute(sqlx::AssertSqlSafe(prepare)).await.expect("prepared");
            let first = world.number(&format!("SELECT min(id) FROM outbox WHERE kind = '{kind}'")).await;
            let (last, ids) = (first + 499, (first..first + 500).collect::<Vec<_>>());
            let explain = format!(
                "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) EXECUTE deleting (ARRAY{ids:?}, {first}, {last})"
            );
            let plan = sqlx::raw_sql(sqlx::AssertSqlSafe(explain)).fetch_all(&mut *connection).await;
            let plan: Vec<String> = plan.expect("a plan").iter().map(|row| sqlx::Row::get(row, 0)).collect();
            let plan = plan.join("\n");
            (&mut *connection).execute("DEALLOCATE deleting").await.expect("forgotten");
            assert!(plan.contains("rows=500"), "{plan}");
            assert!(!plan.contains("Rows Removed") && !plan.contains("Seq Scan"), "{plan}");
        }
    })
    .await;
}

#[tokio::test]
async fn an_order_gives_back_its_products_without_a_walk_over_all_of_them() {
    World::with(async |world| {
        world.stock(1_000, 100).await;
        world.sql("ANALYZE").await;
        let order = world.place(Duration::from_secs(3_600), &[(3, 1), (900, 2)]).await;
        let mut transaction = world.pool.begin().await.expect("a transaction");
        (&mut *transaction)
            .execute("SET LOCAL plan_cache_mode = force_generic_plan")
            .await
            .expect("as pods do");
        let give_back = sqlx::query_scalar("SELECT overdue_give_back(ARRAY[$1])").bind(order);
        let gave_back: i64 = give_back.fetch_one(&mut *transaction).await.expect("given back");
        assert_eq!(gave_back, 2);
        let read = "SELECT seq_tup_read FROM pg_stat_xact_user_tables WHERE relid = 'inventory'::regclass";
        let read: i64 = sqlx::query_scalar(read).fetch_one(&mut *transaction).await.expect("a count");
        assert_eq!(read, 0, "products were read that are not the order's");
    })
    .await;
}

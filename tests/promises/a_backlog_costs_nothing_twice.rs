//! The outbox is a queue that is a table: what has been relayed costs nothing more, however much of it an open snapshot keeps, and
//! nothing that a slow transaction leaves behind is overlooked. The same holds for closed orders and the sweep. Counted in pages that
//! looks read, not in time.

use std::time::Duration;

use overdue::clock::DbClock;
use overdue::database::{Connected, Session};
use overdue::outbox::{self, Kind, Mark, Most};
use sqlx::{Executor, Row};

use crate::harness::{World, eventually};

const LOOK: &str = include_str!("../../src/outbox/look.sql");
const OVERDUE: &str = include_str!("../../src/closing/overdue.sql");
const MOST: Most = Most { rows: 500, orders: 10_000 };

/// Records as many wakes as events, a row each, and returns the last id.
async fn record(connection: &mut Session<impl Connected>, rows: i32) -> i64 {
    let record = sqlx::query(
        "INSERT INTO outbox (kind, order_ids, deadlines, user_ids)
         SELECT kind, ARRAY[n], ARRAY[now()], CASE kind WHEN 'wake' THEN NULL ELSE ARRAY[1] END
         FROM generate_series(1, $1) AS n CROSS JOIN unnest('{wake,order.closed}'::text[]) AS kind",
    );
    record.bind(rows).execute(&mut *connection).await.expect("recorded");
    sqlx::query_scalar("SELECT max(id) FROM outbox").fetch_one(connection).await.expect("an id")
}

/// Pages that the relay's look for this kind past this id reads.
async fn pages(connection: &mut Session<impl Connected>, wakes: bool, id: i64) -> i64 {
    let arguments = format!("{wakes}, {}, {}, {id}, '{{}}', '{{}}', false", MOST.rows, MOST.orders);
    pages_of(connection, LOOK, &arguments).await
}

/// Pages that the sweep's look past this deadline reads.
async fn pages_swept(connection: &mut Session<impl Connected>, past: &str) -> i64 {
    pages_of(connection, OVERDUE, &format!("0.5, {past}, 0, 500")).await
}

/// Pages that a look reads, by the plan that pods use.
async fn pages_of(connection: &mut Session<impl Connected>, look: &str, arguments: &str) -> i64 {
    connection.execute("SET plan_cache_mode = force_generic_plan").await.expect("as pods do");
    connection.execute(sqlx::AssertSqlSafe(format!("PREPARE look AS {look}"))).await.expect("prepared");
    let explain = format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE look ({arguments})");
    let plan = sqlx::raw_sql(sqlx::AssertSqlSafe(explain)).fetch_one(&mut *connection).await.expect("a plan");
    connection.execute("DEALLOCATE look").await.expect("forgotten");
    let plan: serde_json::Value = plan.get(0);
    let plan = &plan[0]["Plan"];
    let of = |what: &str| plan[what].as_i64().expect("pages");
    of("Shared Hit Blocks") + of("Shared Read Blocks")
}

async fn look(connection: &mut Session<impl Connected>, kind: Kind, mark: &mut Mark) -> Vec<i64> {
    let look = outbox::look(&mut *connection, kind, mark, MOST, &DbClock::default()).await.expect("a look");
    let ids = look.ids();
    match kind {
        Kind::Wakes => outbox::delete_wakes(&mut *connection, &ids).await,
        Kind::Events => outbox::refused::record(connection, &ids, &[]).await,
    }
    .expect("deleted");
    look.relayed(mark);
    ids
}

#[tokio::test]
async fn a_look_past_the_mark_reads_a_few_pages_beside_a_backlog_and_beside_dead_rows_under_an_open_snapshot()
{
    World::with(async |world| {
        let mut snapshot = world.pool.begin().await.expect("a transaction");
        snapshot.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").await.expect("one snapshot");
        snapshot.execute("SELECT FROM orders").await.expect("taken");
        let mut connection = world.database().acquire().await.expect("a connection");
        let last = record(&mut connection, 20_000).await;
        for statistics in ["SELECT", "ANALYZE outbox"] {
            connection.execute(statistics).await.expect("gathered, or not");
            for wakes in [true, false] {
                // 500 rows of a few to a page; all of the rows lie on some 800 pages.
                let first = pages(&mut connection, wakes, 0).await;
                assert!(first < 150, "the oldest 500 of 20,000: {first} pages");
            }
        }
        connection.execute("DELETE FROM outbox").await.expect("relayed");
        for statistics in ["SELECT", "ANALYZE outbox"] {
            connection.execute(statistics).await.expect("gathered, or not");
            for kind in [Kind::Wakes, Kind::Events] {
                // A relay that begins with nothing to do walks over them twice, and then no more.
                let mut mark = Mark::default();
                look(&mut connection, kind, &mut mark).await;
                assert!(mark.nowhere());
                look(&mut connection, kind, &mut mark).await;
                assert!(!mark.nowhere());
            }
            for wakes in [true, false] {
                let (past, all) =
                    (pages(&mut connection, wakes, last).await, pages(&mut connection, wakes, 0).await);
                assert!(past <= 10, "past the mark: {past} pages");
                assert!(all > 20 * past, "without a mark: {all} pages; this shows nothing");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn the_sweep_reads_a_few_pages_past_its_low_water_mark_beside_closed_orders_under_an_open_snapshot() {
    World::with(async |world| {
        let mut snapshot = world.pool.begin().await.expect("a transaction");
        snapshot.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").await.expect("one snapshot");
        snapshot.execute("SELECT FROM orders").await.expect("taken");
        let mut connection = world.database().acquire().await.expect("a connection");
        for statement in [
            "INSERT INTO orders (user_id, payment_deadline) SELECT n, now() - interval '1 h' FROM generate_series(1, 20000) AS n",
            "UPDATE orders SET status = 'PAID'",
        ] {
            connection.execute(statement).await.expect("overdue, and no more");
        }
        for statistics in ["SELECT", "ANALYZE orders"] {
            connection.execute(statistics).await.expect("gathered, or not");
            let past = pages_swept(&mut connection, "now() - interval '1 s'").await;
            let all = pages_swept(&mut connection, "'epoch'").await;
            assert!(past <= 10, "past the mark: {past} pages");
            assert!(all > 20 * past, "without a mark: {all} pages; this shows nothing");
        }
    })
    .await;
}

#[tokio::test]
async fn what_a_slow_transaction_leaves_behind_the_mark_is_found_at_once_and_in_its_order() {
    World::with(async |world| {
        for kind in [Kind::Wakes, Kind::Events] {
            let mut reading = world.database().acquire().await.expect("a connection");
            let mut mark = Mark::default();
            look(&mut reading, kind, &mut mark).await;
            let mut slow = world.database().acquire().await.expect("a connection");
            let mut slow = slow.begin("").await.expect("a transaction");
            let early = record(&mut slow, 3).await;
            let mut fast = world.database().acquire().await.expect("a connection");
            record(&mut fast, 3).await;
            assert_eq!(look(&mut reading, kind, &mut mark).await.len(), 3);
            // Many more go by, and no look is a full one.
            mark.looked_fully(tokio::time::Instant::now(), Duration::from_secs(60));
            for _ in 0..5 {
                record(&mut fast, 3).await;
                assert_eq!(look(&mut reading, kind, &mut mark).await.len(), 3);
            }
            slow.commit().await.expect("committed");
            record(&mut fast, 3).await;
            let found = look(&mut reading, kind, &mut mark).await;
            assert!(found.len() == 6 && found.is_sorted() && found[0] <= early, "{found:?}");
            assert_eq!(look(&mut reading, kind, &mut mark).await, Vec::<i64>::new());
            // One that was rolled back leaves nothing, and is forgotten.
            record(&mut fast, 1).await;
            assert_eq!(look(&mut reading, kind, &mut mark).await.len(), 1);
        }
    })
    .await;
}

#[tokio::test]
async fn a_row_below_every_mark_is_found_by_the_next_full_look() {
    World::with(async |world| {
        let mut connection = world.database().acquire().await.expect("a connection");
        let mut mark = Mark::default();
        // Transactions of other tests are at work too; one from before the first row would have everything looked at.
        eventually("the mark has passed them", async || {
            record(&mut connection, 3).await;
            look(&mut connection, Kind::Wakes, &mut mark).await;
            !mark.begin(tokio::time::Instant::now()).positions.contains(&i64::MIN)
        })
        .await;
        // Whoever sets the sequence back, or copies rows from elsewhere.
        let forged = "INSERT INTO outbox (id, kind, order_ids, deadlines) OVERRIDING SYSTEM VALUE VALUES (-5, 'wake', '{1}', '{now}')";
        connection.execute(forged).await.expect("there");
        connection.execute("UPDATE outbox SET order_ids = order_ids").await.expect("there");
        mark.looked_fully(tokio::time::Instant::now(), Duration::from_secs(60));
        assert_eq!(look(&mut connection, Kind::Wakes, &mut mark).await, Vec::<i64>::new());
        let mut mark = Mark::default();
        assert_eq!(look(&mut connection, Kind::Wakes, &mut mark).await, [-5]);
    })
    .await;
}

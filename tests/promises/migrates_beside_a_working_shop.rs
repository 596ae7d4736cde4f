//! `migrate` beside a shop that works: it waits for locks in short turns and says who holds them, builds indexes beside
//! everything else, repairs those that a cut-off build has left, and leaves the shop's own migrations alone.

use std::borrow::Cow;
use std::sync::Mutex;
use std::time::Duration;

use overdue::database;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqlSafeStr};
use tokio::time::Instant;

use crate::harness::{World, eventually};

/// The migrations, and one more.
fn and_one(sql: &'static str) -> Migrator {
    let mut all: Vec<_> = sqlx::migrate!().iter().cloned().collect();
    let no_tx = sql.starts_with("-- no-transaction");
    all.push(Migration::new(9998, Cow::Borrowed("test"), MigrationType::Simple, sql.into_sql_str(), no_tx));
    Migrator::with_migrations(all)
}

#[tokio::test]
async fn placing_goes_on_while_migrate_waits_for_a_lock_and_says_who_holds_it() {
    World::with(async |world| {
        let mut holder = PgConnection::connect(&world.database_url).await.expect("a session");
        sqlx::raw_sql("SET application_name = 'forgotten'; BEGIN; LOCK TABLE orders IN ROW SHARE MODE")
            .execute(&mut holder)
            .await
            .expect("a lock");
        let said = Mutex::new(Vec::new());
        let migrating = async {
            let mut say = |line| said.lock().expect("lines").push(line);
            let lock = and_one("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE");
            database::migrate_by(&world.pool.connect_options(), lock, &mut say).await.expect("migrated");
            Instant::now()
        };
        let placing = async {
            eventually("it says who holds the lock", async || {
                let named = |line: &String| line.contains("forgotten") && line.contains("process");
                said.lock().expect("lines").iter().any(named)
            })
            .await;
            // Longer than one turn, and the pause after it.
            let (began, mut longest) = (Instant::now(), Duration::ZERO);
            while began.elapsed() < Duration::from_secs(3) {
                let placing = Instant::now();
                world.place(Duration::from_secs(3600), &[]).await;
                longest = longest.max(placing.elapsed());
            }
            assert!(longest < Duration::from_secs(2), "an order waited for {longest:?}");
            let released = Instant::now();
            holder.close().await.expect("closed");
            released
        };
        let (migrated, released) = tokio::join!(migrating, placing);
        assert!(migrated > released, "it waited");
    })
    .await;
}

#[tokio::test]
async fn an_index_is_built_beside_everything_and_one_that_was_cut_off_is_repaired() {
    World::with(async |world| {
        let build = || and_one("-- no-transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS orders_of_user ON orders (user_id)");
        // It waits for a transaction from before, and is cut off meanwhile.
        let mut holder = PgConnection::connect(&world.database_url).await.expect("a session");
        sqlx::raw_sql("BEGIN; INSERT INTO orders (user_id, payment_deadline) VALUES (1, now())")
            .execute(&mut holder)
            .await
            .expect("an open transaction");
        let builder = "SELECT pid::bigint FROM pg_stat_progress_create_index WHERE datname = current_database()";
        let cutting_off = async {
            eventually("the index is being built", async || {
                sqlx::query_scalar::<_, i64>(builder).fetch_optional(&world.pool).await.expect("a look").is_some()
            })
            .await;
            world.place(Duration::from_secs(3600), &[]).await;
            let end = AssertSqlSafe(format!("SELECT pg_terminate_backend(({builder})::int)"));
            sqlx::query(end).execute(&world.pool).await.expect("cut off");
        };
        let mut silent = |_| {};
        let options = world.pool.connect_options();
        let (migrated, ()) = tokio::join!(database::migrate_by(&options, build(), &mut silent), cutting_off);
        migrated.expect_err("cut off");
        holder.close().await.expect("closed");
        let valid = "SELECT count(*) FROM pg_index WHERE indexrelid = 'orders_of_user'::regclass AND indisvalid";
        assert_eq!(world.number(valid).await, 0, "a cut-off build leaves an invalid index");

        let mut lines = Vec::new();
        database::migrate_by(&world.pool.connect_options(), build(), &mut |line| lines.push(line)).await.expect("migrated");
        assert!(lines.iter().any(|line| line.contains("orders_of_user") && line.contains("not valid")), "{lines:?}");
        assert_eq!(world.number(valid).await, 1);
        assert_eq!(world.number("SELECT count(*) FROM overdue_migrations WHERE version = 9998 AND success").await, 1);
    })
    .await;
}

#[tokio::test]
async fn the_shops_own_migrations_in_the_same_schema_are_left_alone() {
    World::with(async |world| {
        world.sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public").await;
        let shops = || {
            let sql = "CREATE TABLE carts (cart_id bigint PRIMARY KEY)";
            let one =
                Migration::new(20, Cow::Borrowed("carts"), MigrationType::Simple, sql.into_sql_str(), false);
            Migrator::with_migrations(vec![one])
        };
        shops().run(&world.pool).await.expect("the shop's");
        for _ in 0..2 {
            let (code, _, error) = world.run(&["migrate"]).await;
            assert_eq!((code, error.as_str()), (0, ""));
            shops().run(&world.pool).await.expect("the shop's again");
        }
        assert_eq!(world.number("SELECT count(*) FROM _sqlx_migrations").await, 1);
        let pod = world.pod(&[]);
        let order = world.place(Duration::ZERO, &[]).await;
        world.closed(order).await;
        pod.stop().await;
    })
    .await;
}

#[tokio::test]
async fn the_shops_own_tables_of_our_names_are_refused_by_name() {
    World::with(async |world| {
        for table in ["orders", "inventory", "order_items", "outbox"] {
            world.sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public").await;
            world.sql(&format!("CREATE TABLE {table} (id bigint)")).await;
            let (code, _, error) = world.run(&["migrate"]).await;
            assert!(
                code == 1 && error.contains(&format!("`{table}`")) && error.contains("OVERDUE_SCHEMA"),
                "{error}"
            );
        }
    })
    .await;
}

/// The procedure in README.md, "Moving data from before the baseline", on a database of that time.
#[tokio::test]
async fn data_from_before_the_baseline_is_moved_as_the_readme_says() {
    let Some(before) = before_the_baseline().await else {
        panic!(
            "`git show 1a19389:migrations/…` does not work: a full clone is needed (git fetch --unshallow)"
        );
    };
    let readme = include_str!("../../README.md");
    let section = readme.split("Moving data from before the baseline").nth(1).expect("the section");
    let mut blocks =
        section.split("```sql\n").skip(1).map(|block| block.split("```").next().expect("its end"));
    let (aside, moving) =
        (blocks.next().expect("the first script"), blocks.next().expect("the second script"));
    World::with(async |world| {
        world.sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public").await;
        for migration in &before {
            world.sql(migration).await;
        }
        world
            .sql(
                "INSERT INTO inventory VALUES (1, 90), (2, 5);
                 INSERT INTO orders (user_id, status, payment_deadline, closed_at) VALUES
                     (1, 'PENDING', now() + interval '1 second', NULL), (1, 'PENDING', now() + interval '1 day', NULL),
                     (2, 'PAID', now(), NULL), (3, 'CANCELLED', now(), NULL), (4, 'CLOSED', now(), now());
                 INSERT INTO order_items SELECT order_id, 1, order_id FROM orders;
                 INSERT INTO outbox (kind, order_ids, deadlines, user_ids) VALUES ('order.closed', '{5}', '{2026-01-01}', '{4}')",
            )
            .await;
        let (code, _, error) = world.run(&["migrate"]).await;
        assert!(code == 1 && error.contains("Moving data from before the baseline"), "{error}");

        world.sql(aside).await;
        let (code, _, error) = world.run(&["migrate"]).await;
        assert_eq!((code, error.as_str()), (0, ""));
        world.sql(moving).await;
        assert_eq!(world.number("SELECT count(*) FROM orders").await, 5);
        assert_eq!(world.number("SELECT count(*) FROM order_items").await, 5);
        assert_eq!(world.number("SELECT sum(stock)::bigint FROM inventory").await, 95);
        world.declare().await;
        let mut events = world.subscribe(&["order.closed"]).await;
        let pod = world.pod(&[]);
        world.closed(1).await;
        assert!(world.place(Duration::from_secs(3600), &[]).await > 5, "numbers go on");
        let seen = events.all(world).await;
        assert_eq!(seen.len(), 2, "the event that waited, and the new one: {seen:?}");
        assert_eq!(world.number("SELECT stock FROM inventory WHERE product_id = 1").await, 91);
        let (code, _, error) = world.run(&["migrate"]).await;
        assert_eq!((code, error.as_str()), (0, ""));
        pod.stop().await;
    })
    .await;
}

/// The migrations of the last version before the baseline.
async fn before_the_baseline() -> Option<Vec<String>> {
    let git = async |arguments: &[&str]| {
        let git = tokio::process::Command::new("git")
            .args(arguments)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output();
        let output = git.await.ok().filter(|output| output.status.success())?;
        String::from_utf8(output.stdout).ok()
    };
    let names = git(&["ls-tree", "--name-only", "1a19389", "migrations/"]).await?;
    let mut all = Vec::new();
    for name in names.lines() {
        all.push(git(&["show", &format!("1a19389:{name}")]).await?);
    }
    Some(all)
}

//! The database's schema is compared with what the code wants: when a pod starts, and by `migrate`, which repairs what it can.

use std::path::Path;
use std::time::Duration;

use overdue::database;
use overdue::finding::Outcome;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgPoolOptions;

use crate::harness::{World, env};

const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/schema.txt");

#[tokio::test]
async fn the_committed_schema_is_what_the_migrations_make() {
    // Not in a world: its database is made by `migrate`, which refuses what is not the committed schema.
    let schema = format!("overdue_dump_{}", std::process::id());
    let url = format!("{}?options[search_path]={schema}", env("DATABASE_URL"));
    let pool = PgPoolOptions::new().connect(&url).await.expect("a pool");
    sqlx::raw_sql(AssertSqlSafe(format!("CREATE SCHEMA {schema}"))).execute(&pool).await.expect("a schema");
    let dump = database::dump(&pool.connect_options()).await;
    sqlx::raw_sql(AssertSqlSafe(format!("DROP SCHEMA {schema} CASCADE"))).execute(&pool).await.expect("gone");
    let dump = dump.expect("a dump");
    if std::env::var("OVERDUE_WRITE_SCHEMA").is_ok() {
        std::fs::write(Path::new(COMMITTED), &dump).expect("written");
    }
    let committed = std::fs::read_to_string(COMMITTED).expect("migrations/schema.txt");
    assert_eq!(dump, committed, "run `make schema` and commit migrations/schema.txt");
}

/// What differs now.
async fn differences(world: &World, overrides: &[(&str, &str)]) -> Vec<String> {
    let config = world.config(overrides);
    let pool = database::pool(&config).expect("a pool");
    let findings = database::verify(&pool, &config).await.expect("findings");
    pool.close().await;
    let texts = findings.into_iter().filter_map(|finding| match finding.outcome {
        Outcome::Differs { problem, remedy } => Some(format!("{problem}: {remedy}")),
        Outcome::Fine | Outcome::CannotTell { .. } => None,
    });
    texts.collect()
}

/// What somebody may do to a schema, a word that the finding names, and whether `migrate` repairs it.
const DAMAGES: &[(&str, &str, bool)] = &[
    ("ALTER TABLE orders DISABLE TRIGGER orders_inserted", "trigger orders_inserted", true),
    ("ALTER TABLE orders DISABLE TRIGGER USER", "trigger orders_updated", true),
    (
        "ALTER TABLE order_items ENABLE REPLICA TRIGGER order_items_guarded",
        "trigger order_items_guarded",
        true,
    ),
    ("DROP TRIGGER orders_updated ON orders", "trigger orders_updated", true),
    ("DROP FUNCTION overdue_cancel(bigint, regclass)", "function overdue_cancel", true),
    ("GRANT EXECUTE ON FUNCTION overdue_orders_inserted() TO PUBLIC", "executable by PUBLIC", true),
    ("ALTER FUNCTION overdue_orders_inserted() SECURITY INVOKER", "function overdue_orders_inserted", true),
    ("ALTER FUNCTION overdue_give_back(bigint[]) SET row_security = on", "function overdue_give_back", true),
    ("ALTER FUNCTION overdue_give_back(bigint[]) STABLE", "function overdue_give_back", true),
    ("DROP INDEX orders_pending_by_deadline", "index orders_pending_by_deadline", true),
    (
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'orders_pending_by_deadline'::regclass",
        "index orders_pending_by_deadline",
        true,
    ),
    ("ALTER TABLE orders DROP COLUMN updated_at", "column orders.updated_at", false),
    ("ALTER TABLE outbox ALTER recorded_at DROP DEFAULT", "column outbox.recorded_at", false),
    ("ALTER TABLE outbox ADD shop text NOT NULL", "column outbox.shop", false),
    (
        "ALTER TABLE inventory DROP CONSTRAINT inventory_stock_not_negative",
        "inventory_stock_not_negative",
        false,
    ),
    ("ALTER TABLE order_items DISABLE TRIGGER ALL", "constraint order_items_order_id_fkey", false),
    ("ALTER TABLE outbox SET UNLOGGED", "table outbox", false),
    ("ALTER TABLE inventory FORCE ROW LEVEL SECURITY", "table inventory", false),
    ("CREATE TABLE more () INHERITS (orders)", "table orders", false),
    (
        "ALTER TABLE orders RENAME TO plain; CREATE TABLE orders (LIKE plain INCLUDING ALL) PARTITION BY HASH (order_id);
         CREATE TABLE orders_0 PARTITION OF orders FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
        "table orders",
        false,
    ),
    ("CREATE RULE nothing AS ON UPDATE TO orders DO INSTEAD NOTHING", "rule nothing", false),
    ("ALTER TABLE closing_failures RENAME TO gone", "table closing_failures", false),
    ("ALTER TABLE order_items ALTER quantity TYPE integer", "column order_items.quantity", false),
];

#[tokio::test]
async fn each_damage_is_found_at_start_and_repaired_or_refused_by_migrate() {
    World::with(async |world| {
        assert_eq!(differences(world, &[]).await, [""; 0]);
        for (number, (damage, named, repaired)) in DAMAGES.iter().enumerate() {
            let schema = format!("shop{number}");
            world.sql(&format!("CREATE SCHEMA {schema}")).await;
            let overrides = ["--schema", &schema];
            let (code, _, error) = world.run(&[&["migrate"][..], &overrides].concat()).await;
            assert_eq!((code, error.as_str()), (0, ""), "{damage}");
            world.sql(&format!("SET search_path = {schema}; {damage}; RESET search_path")).await;

            let found = differences(world, &[("schema", &schema)]).await;
            assert!(found.iter().any(|text| text.contains(named)), "{damage}: {found:?}");
            let (code, _, error) = world.run(&[&["run"][..], &overrides].concat()).await;
            assert_eq!(code, 1, "{damage}: {error}");
            assert!(error.contains("overdue migrate"), "{damage}: {error}");

            let (code, _, error) = world.run(&[&["migrate"][..], &overrides].concat()).await;
            assert_eq!(code, i32::from(!repaired), "{damage}: {error}");
            let left = differences(world, &[("schema", &schema)]).await;
            assert_eq!(left.is_empty(), *repaired, "{damage}: {left:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn what_a_shop_adds_is_its_own() {
    World::with(async |world| {
        world
            .sql(
                "ALTER TABLE orders ADD comment text, ADD shop text NOT NULL;
                 CREATE INDEX of_a_user ON orders (user_id);
                 CREATE TABLE invoices (order_id bigint REFERENCES orders (order_id));
                 CREATE FUNCTION mine() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
                 CREATE TRIGGER mine BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION mine();
                 ALTER TABLE orders ADD CHECK (user_id > 0)",
            )
            .await;
        assert_eq!(differences(world, &[]).await, [""; 0]);
        let (code, _, error) = world.run(&["migrate"]).await;
        assert_eq!((code, error.as_str()), (0, ""));
    })
    .await;
}

#[tokio::test]
async fn a_renamed_schema_is_refused_until_migrate_has_repaired_it_and_nobody_gets_anothers_stock() {
    World::with(async |world| {
        let migrate = async |schema: &str| {
            let (code, _, error) = world.run(&["migrate", "--schema", schema]).await;
            assert_eq!((code, error.as_str()), (0, ""), "{schema}");
        };
        world.sql("CREATE SCHEMA berlin").await;
        migrate("berlin").await;
        let fill = |schema: &str, stock: i64| {
            format!(
                "INSERT INTO {schema}.inventory VALUES (1, {stock});
                 INSERT INTO {schema}.orders (user_id, payment_deadline) VALUES (1, now());
                 INSERT INTO {schema}.order_items VALUES (1, 1, 5)"
            )
        };
        world.sql(&fill("berlin", 95)).await;
        world.sql("ALTER SCHEMA berlin RENAME TO munich; CREATE SCHEMA berlin").await;
        migrate("berlin").await;
        world.sql(&fill("berlin", 5)).await;

        let (code, _, error) = world.run(&["run", "--schema", "munich"]).await;
        assert!(code == 1 && error.contains("renamed or copied"), "{error}");
        let (code, _, error) = world.run(&["sweep", "--grace", "0s", "--schema", "munich"]).await;
        assert!(code == 1 && error.contains("overdue migrate"), "{error}");
        let insert = "INSERT INTO munich.orders (user_id, payment_deadline) VALUES (1, now())";
        let refused = sqlx::query(insert).execute(&world.pool).await.expect_err("another schema's functions");
        assert!(refused.to_string().contains("overdue migrate"), "{refused}");
        // What a shop calls there must not act on the new berlin's orders.
        refuses_to_act_on_another_shop(world).await;

        migrate("munich").await;
        world.sql(insert).await;
        for (schema, closed, stock) in [("munich", 2, 100), ("berlin", 1, 10)] {
            let (code, _, error) = world.run(&["sweep", "--grace", "0s", "--schema", schema]).await;
            assert_eq!((code, error.as_str()), (0, ""), "{schema}");
            let count = format!("SELECT count(*) FROM {schema}.orders WHERE status = 'CLOSED'");
            assert_eq!(world.number(&count).await, closed, "{schema}");
            assert_eq!(
                world.number(&format!("SELECT stock FROM {schema}.inventory")).await,
                stock,
                "{schema}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn a_copy_under_another_name_beside_the_original_is_repaired_by_migrate() {
    World::with(async |world| {
        world.stock(1, 10).await;
        let order = world.place(Duration::from_secs(3600), &[(1, 4)]).await;
        // What pg_dump and psql make of it when only the schema's name is changed: bodies are text, and keep the old one.
        let dump = tokio::process::Command::new("pg_dump")
            .args(["--schema=public", "--no-owner", &world.database_url])
            .output()
            .await
            .expect("pg_dump (package postgresql-client) runs");
        let refused = String::from_utf8(dump.stderr).expect("UTF-8");
        if refused.contains("server version mismatch") {
            return;
        }
        assert!(dump.status.success(), "{refused}");
        let dump = String::from_utf8(dump.stdout).expect("UTF-8");
        world.sql("ALTER SCHEMA public RENAME TO berlin").await;
        restore(world, &dump).await;
        world.sql("ALTER SCHEMA public RENAME TO munich; ALTER SCHEMA berlin RENAME TO public").await;

        let (code, _, error) = world.run(&["run", "--schema", "munich"]).await;
        assert!(code == 1 && error.contains("renamed or copied"), "{error}");
        refuses_to_act_on_another_shop(world).await;
        let (code, _, error) = world.run(&["migrate", "--schema", "munich"]).await;
        assert_eq!((code, error.as_str()), (0, ""));
        assert_eq!(differences(world, &[("schema", "munich")]).await, [""; 0]);
        assert_eq!(world.number(&format!("SELECT munich.overdue_cancel({order})::int::bigint")).await, 1);
        assert_eq!(world.number("SELECT stock FROM munich.inventory").await, 10);
        assert_eq!(
            (world.status(order).await.as_str(), world.number("SELECT stock FROM inventory").await),
            ("PENDING", 6)
        );
    })
    .await;
}

/// The functions for shops, in a schema that has another one's: they refuse, whoever calls them.
async fn refuses_to_act_on_another_shop(world: &World) {
    for call in
        ["overdue_cancel(1)", "overdue_edit(1, 1, 1)", "overdue_place(1, interval '1 hour', '{1}', '{1}')"]
    {
        let called = sqlx::query(sqlx::AssertSqlSafe(format!("SELECT munich.{call}")));
        let refused = called.execute(&world.pool).await.expect_err(call);
        assert!(refused.to_string().contains("overdue migrate"), "{call}: {refused}");
    }
}

async fn restore(world: &World, dump: &str) {
    let mut psql = tokio::process::Command::new("psql")
        .args(["-qX", "-v", "ON_ERROR_STOP=1", &world.database_url])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("psql (package postgresql-client) runs");
    let mut stdin = psql.stdin.take().expect("a pipe");
    tokio::io::AsyncWriteExt::write_all(&mut stdin, dump.as_bytes()).await.expect("written");
    drop(stdin);
    assert!(psql.wait().await.expect("it ended").success(), "the dump was restored");
}

#[tokio::test]
async fn a_newer_versions_schema_is_left_alone_and_can_be_worked_with() {
    World::with(async |world| {
        world.stock(1, 10).await;
        // A newer build has migrated, and changed a function.
        world
            .sql(
                "INSERT INTO overdue_migrations (version, description, success, checksum, execution_time)
                 VALUES (9999, 'newer', true, '', 0);
                 CREATE FUNCTION overdue_newer() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            )
            .await;
        let (code, _, error) = world.run(&["migrate"]).await;
        assert!(code == 1 && error.contains("newer Overdue"), "{error}");
        let pod = world.pod(&[]);
        let order = world.place(Duration::ZERO, &[(1, 1)]).await;
        world.closed(order).await;
        pod.stop().await;
    })
    .await;
}

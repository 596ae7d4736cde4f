//! Event and give-back follow what the row became, not what was meant: a shop's own triggers may make it something else.

use std::time::Duration;

use overdue::stats::Count;
use serde_json::json;
use sqlx::{Connection, Executor};

use crate::harness::{World, eventually};

const SECOND: Duration = Duration::from_secs(1);

/// A trigger of the shop's on a table.
async fn trigger(world: &World, when: &str, body: &str) {
    world
        .sql(&format!(
            "CREATE FUNCTION shops_own() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$;
             CREATE TRIGGER shops_own {when} FOR EACH ROW EXECUTE FUNCTION shops_own()"
        ))
        .await;
}

#[tokio::test]
async fn an_order_that_a_trigger_gives_more_time_is_neither_told_closed_nor_given_back() {
    World::with(async |world| {
        world.stock(1, 100).await;
        let pod = world.pod(&[]);
        world.ready().await;
        let mut events = world.subscribe(&["order.closed", "order.cancelled"]).await;
        // Customers like these get a second more, twice.
        world.sql("CREATE SEQUENCE grants").await;
        trigger(
            world,
            "BEFORE UPDATE ON orders",
            "IF NEW.status = 'CLOSED' AND OLD.user_id = 1 AND nextval('grants') <= 2 THEN
                 NEW.status := 'PENDING'; NEW.closed_at := NULL; NEW.payment_deadline := now() + interval '1 s';
             END IF; RETURN NEW;",
        )
        .await;
        let order = world.place(SECOND, &[(1, 5)]).await;
        eventually("it was given time once", async || world.number("SELECT last_value FROM grants").await >= 1).await;
        assert_eq!(world.number("SELECT stock FROM inventory").await, 95, "given back though it waits");
        world.closed(order).await;
        assert_eq!(world.number("SELECT stock FROM inventory").await, 100);
        assert_eq!(events.all(world).await.len(), 1, "closed once, told once");
        assert_eq!(pod.shared.stats.get(Count::Failed), 0);
        pod.stop().await;
    })
    .await;
}

#[tokio::test]
async fn an_order_that_a_trigger_makes_cancelled_is_told_cancelled() {
    World::with(async |world| {
        world.stock(1, 100).await;
        let pod = world.pod(&[]);
        world.ready().await;
        let mut events = world.subscribe(&["order.closed", "order.cancelled"]).await;
        trigger(
            world,
            "BEFORE UPDATE ON orders",
            "IF NEW.status = 'CLOSED' THEN NEW.status := 'CANCELLED'; NEW.closed_at := NULL; END IF; RETURN NEW;",
        )
        .await;
        let order = world.place(SECOND, &[(1, 5)]).await;
        let (id, body) = events.next().await;
        assert_eq!(body["type"], json!("order.cancelled"), "{id}");
        assert_eq!(world.status(order).await, "CANCELLED");
        assert_eq!(world.number("SELECT stock FROM inventory").await, 95, "whoever cancels gives back");
        pod.stop().await;
    })
    .await;
}

/// What keeps an order from being closed whole, and what the reason must say.
const KEPT: [(&str, &str, &str); 5] = [
    ("BEFORE UPDATE ON orders", "RETURN NULL;", "a trigger on orders keeps it PENDING"),
    (
        "BEFORE UPDATE ON orders",
        "NEW.status := OLD.status; NEW.closed_at := NULL; RETURN NEW;",
        "a trigger on orders keeps it PENDING",
    ),
    ("BEFORE UPDATE ON inventory", "RETURN NULL;", "a trigger or a policy on inventory keeps the rest"),
    (
        "BEFORE UPDATE ON inventory",
        "NEW.stock := OLD.stock; RETURN NEW;",
        "a trigger or a policy on inventory keeps the rest",
    ),
    (
        "AFTER UPDATE ON orders",
        "IF NEW.status = 'CLOSED' THEN
             UPDATE orders SET status = 'PENDING', closed_at = NULL WHERE order_id = NEW.order_id;
         END IF; RETURN NULL;",
        "a trigger takes back the close of order",
    ),
];

#[tokio::test]
async fn what_a_trigger_keeps_from_being_closed_whole_changes_nothing_and_is_parked_with_the_reason() {
    for (when, body, said) in KEPT {
        World::with(async |world| {
            world.stock(1, 100).await;
            let pod = world.pod(&[("max_attempts", "2"), ("retry_base", "100ms")]);
            world.ready().await;
            let mut events = world.subscribe(&["order.closed"]).await;
            let order = world.place(2 * SECOND, &[(1, 5)]).await;
            trigger(world, when, body).await;
            let parked = world.parked(1).await;
            let reason = parked[0]["reason"].as_str().expect("a reason");
            assert!(reason.contains(said), "{when}: {reason}");
            assert_eq!(world.status(order).await, "PENDING", "{when}");
            assert_eq!(world.number("SELECT stock FROM inventory").await, 95, "{when}");
            assert!(events.all(world).await.is_empty(), "{when}");
            assert_eq!(
                world.number("SELECT count(*) FROM closing_failures WHERE attempts >= 2").await,
                1,
                "{when}: it is remembered"
            );
            pod.stop().await;
        })
        .await;
    }
}

/// What keeps a shop's call from doing what it means: a trigger, the call, and the SQLSTATE.
const REFUSED: [(&str, &str, &str, &str); 5] = [
    (
        "BEFORE UPDATE ON order_items",
        "NEW.quantity := 4; RETURN NEW;",
        "SELECT overdue_edit(1, 1, 2)",
        "OVD02",
    ),
    ("BEFORE UPDATE ON order_items", "RETURN NULL;", "SELECT overdue_edit(1, 1, 2)", "OVD02"),
    (
        "AFTER UPDATE ON orders",
        "IF NEW.status = 'CANCELLED' THEN UPDATE orders SET status = 'PENDING' WHERE order_id = NEW.order_id; END IF; RETURN NULL;",
        "SELECT overdue_cancel(1)",
        "OVD02",
    ),
    ("BEFORE UPDATE ON inventory", "RETURN NULL;", "SELECT overdue_cancel(1)", "OVD01"),
    ("BEFORE UPDATE ON inventory", "RETURN OLD;", "SELECT overdue_cancel(1)", "OVD01"),
];

/// Runs statements in one session that are refused; the SQLSTATE.
async fn refused(world: &World, statements: &str) -> String {
    let mut session = sqlx::PgConnection::connect(&world.database_url).await.expect("a session");
    let error = session.execute(sqlx::AssertSqlSafe(statements)).await.expect_err(statements);
    error.as_database_error().and_then(|error| error.code()).map(|code| code.into_owned()).unwrap_or_default()
}

#[tokio::test]
async fn the_functions_for_shops_do_what_they_mean_or_nothing() {
    World::with(async |world| {
        world.stock(1, 100).await;
        let order = world.place(3_600 * SECOND, &[(1, 5)]).await;
        assert_eq!(order, 1);
        for (when, body, call, code) in REFUSED {
            trigger(world, when, body).await;
            assert_eq!(refused(world, call).await, code, "{when} {body}");
            world.sql("DROP FUNCTION shops_own CASCADE").await;
        }
        // A partition, or a table that inherits, has triggers of its own.
        let moved = "WITH moved AS (DELETE FROM FROM_TABLE RETURNING *) INSERT INTO TO_TABLE SELECT * FROM moved";
        let key = "order_items_product_id_fkey";
        world.sql(&format!("ALTER TABLE order_items DROP CONSTRAINT {key}; CREATE TABLE special () INHERITS (inventory)")).await;
        world.sql(&moved.replace("FROM_TABLE", "ONLY inventory").replace("TO_TABLE", "special")).await;
        trigger(world, "BEFORE UPDATE ON special", "RETURN OLD;").await;
        assert_eq!(refused(world, "SELECT overdue_cancel(1)").await, "OVD01");
        world.sql(&moved.replace("FROM_TABLE", "special").replace("TO_TABLE", "inventory")).await;
        world.sql(&format!(
            "DROP TABLE special; DROP FUNCTION shops_own CASCADE;
             ALTER TABLE order_items ADD CONSTRAINT {key} FOREIGN KEY (product_id) REFERENCES inventory"
        )).await;
        // Items that the snapshot or a policy hides would be lost.
        let call = "SELECT overdue_cancel(1)";
        for isolation in ["REPEATABLE READ", "SERIALIZABLE"] {
            let begin = format!("BEGIN ISOLATION LEVEL {isolation}");
            assert_eq!(refused(world, &format!("{begin}; {call}")).await, "OVD04");
        }
        let role = format!("{}_shop", world.name);
        world
            .sql(&format!(
                "CREATE ROLE {role};
                 GRANT SELECT, UPDATE ON orders, order_items, inventory TO {role};
                 GRANT EXECUTE ON FUNCTION overdue_cancel(bigint, regclass), overdue_give_back(bigint[]) TO {role};
                 ALTER TABLE order_items ENABLE ROW LEVEL SECURITY"
            ))
            .await;
        assert_eq!(refused(world, &format!("SET ROLE {role}; {call}")).await, "OVD01");
        world.sql(&format!("ALTER TABLE order_items DISABLE ROW LEVEL SECURITY; DROP OWNED BY {role}; DROP ROLE {role}")).await;
        assert_eq!((world.status(1).await.as_str(), world.number("SELECT stock FROM inventory").await), ("PENDING", 95));

        // The relay tells at once what it sees, so a cancellation is on the disk before it can be seen.
        let mut session = sqlx::PgConnection::connect(&world.database_url).await.expect("a session");
        let settings = "SET synchronous_commit = off; BEGIN; UPDATE orders SET status = 'CANCELLED'";
        session.execute(settings).await.expect("cancelled");
        let waits: String = sqlx::query_scalar("SHOW synchronous_commit").fetch_one(&mut session).await.expect("a setting");
        assert_eq!(waits, "on");
        session.execute("ROLLBACK").await.expect("rolled back");
        assert_eq!(world.number(call.replace("overdue_cancel(1)", "overdue_cancel(1)::int::bigint").as_str()).await, 1);
        world.assert_stock_conserved(100).await;
    })
    .await;
}

#[tokio::test]
async fn few_products_and_many_are_given_back_whole_or_not_at_all() {
    World::with(async |world| {
        world.stock(20, 100).await;
        let role = format!("{}_shop", world.name);
        world
            .sql(&format!(
                "CREATE ROLE {role};
                 GRANT SELECT, UPDATE ON orders, order_items, inventory TO {role};
                 GRANT INSERT ON outbox TO {role}; GRANT USAGE ON SEQUENCE outbox_id_seq TO {role};
                 GRANT EXECUTE ON FUNCTION overdue_cancel(bigint, regclass), overdue_give_back(bigint[]) TO {role};
                 CREATE POLICY most ON inventory USING (product_id > 1)"
            ))
            .await;
        // Up to eight products are updated one by one, more in one statement.
        for products in [1, 8, 9, 20] {
            let items: Vec<_> = (1..=products).map(|product| (product, 2)).collect();
            let order = world.place(3_600 * SECOND, &items).await;
            world.sql("ALTER TABLE inventory ENABLE ROW LEVEL SECURITY").await;
            let code = refused(world, &format!("SET ROLE {role}; SELECT overdue_cancel({order})")).await;
            assert_eq!(code, "OVD01", "{products} products");
            world.sql("ALTER TABLE inventory DISABLE ROW LEVEL SECURITY").await;
            assert_eq!(world.status(order).await, "PENDING", "{products} products");
            assert_eq!(world.number(&format!("SELECT overdue_cancel({order})::int::bigint")).await, 1);
            world.assert_stock_conserved(100).await;
        }
        world.sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
    })
    .await;
}

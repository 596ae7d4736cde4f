//! Invariant 2: status, stock and event change together or not at all. An order whose closing fails keeps all three,
//! keeps nobody else waiting, is tried again, then parked with the database's words, and closed after the repair.

use std::collections::HashMap;
use std::time::Duration;

use overdue::stats::Count;
use serde_json::{Value, json};

use crate::harness::{World, eventually};

const SECOND: Duration = Duration::from_secs(1);

/// Refuses to change one order, one product's stock, and one order's event, each with a code of its own: several that fail alike
/// with none closed in between would be nobody's failure.
const SABOTAGE: &str = "
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION '%', tg_argv[0] USING ERRCODE = tg_argv[1]; END $$;
    CREATE TRIGGER sabotage BEFORE UPDATE ON orders
        FOR EACH ROW WHEN (old.user_id = 101) EXECUTE FUNCTION refuse('the courier has it', 'SHOP1');
    CREATE TRIGGER sabotage BEFORE UPDATE ON inventory
        FOR EACH ROW WHEN (old.product_id = 2 AND new.stock > old.stock) EXECUTE FUNCTION refuse('stocktaking', 'SHOP2');
    CREATE TRIGGER sabotage BEFORE INSERT ON outbox
        FOR EACH ROW WHEN (new.kind = 'order.closed' AND 103 = ANY (new.user_ids)) EXECUTE FUNCTION refuse('no news', 'SHOP3');
    -- One more piece does not fit into a bigint.
    UPDATE inventory SET stock = 9223372036854775807 WHERE product_id = 3;";

const REPAIR: &str = "
    DROP FUNCTION refuse CASCADE;
    UPDATE inventory SET stock = 100 - 1 WHERE product_id = 3;";

/// For each order that fails: buyer, product, and the words that must be in the reason.
const FAILING: [(i64, i64, &str); 4] = [
    (101, 1, "the courier has it"),
    (102, 2, "stocktaking"),
    (103, 1, "no news"),
    (104, 3, "bigint out of range"),
];

async fn place_for(world: &World, user: i64, product: i64) -> i64 {
    let order = world.place(4 * SECOND, &[(product, 1)]).await;
    let named = sqlx::query("UPDATE orders SET user_id = $2 WHERE order_id = $1").bind(order).bind(user);
    named.execute(&world.pool).await.expect("named");
    order
}

async fn stock(world: &World) -> Vec<(i64, i64)> {
    let stock = sqlx::query_as("SELECT product_id, stock FROM inventory ORDER BY product_id");
    stock.fetch_all(&world.pool).await.expect("the stock")
}

#[tokio::test]
async fn an_order_that_cannot_be_closed_changes_nothing_holds_up_nobody_and_is_parked_with_the_reason() {
    World::with(async |world| {
        world.stock(3, 100).await;
        let pod = world.pod(&[("max_attempts", "3"), ("retry_base", "100ms"), ("sweep_grace", "1h")]);
        world.ready().await;
        let mut events = world.subscribe(&["order.closed"]).await;
        let mut failing = HashMap::new();
        for (user, product, reason) in FAILING {
            failing.insert(place_for(world, user, product).await, reason);
        }
        let innocent = world.place_many(60, 4 * SECOND, 4 * SECOND, &[(1, 1)]).await;
        world.sql(SABOTAGE).await;
        for order in &innocent {
            assert!(world.closed(*order).await < SECOND, "an innocent order had to wait");
        }

        let parked = world.parked(FAILING.len()).await;
        for (order, reason) in &failing {
            let of_order = |parked: &&Value| parked["order_ids"] == json!([order]);
            let parked =
                parked.iter().find(of_order).unwrap_or_else(|| panic!("{order} is not parked: {parked:?}"));
            let said = parked["reason"].as_str().expect("a reason");
            assert!(said.contains(reason) && said.contains("(after 3 attempts)"), "{said}");
            assert_eq!(world.status(*order).await, "PENDING");
        }
        assert_eq!(pod.shared.stats.get(Count::Failed), 3 * FAILING.len() as u64, "three attempts each");
        assert_eq!(stock(world).await, [(1, 98), (2, 99), (3, i64::MAX)]);
        assert_eq!(events.all(world).await.len(), innocent.len(), "a failed order has an event");

        world.sql(REPAIR).await;
        let (code, done, error) = world.run(&["parked", "retry", "--all", "--json"]).await;
        assert_eq!((code, error.as_str()), (0, ""));
        assert_eq!(serde_json::from_str::<Value>(&done).expect("JSON")["messages"], json!(FAILING.len()));
        world.all_settled().await;
        assert_eq!(world.depth(&world.names.parked()).await, 0);
        assert_eq!(events.all(world).await.len(), FAILING.len(), "and now each has one");
        world.assert_stock_conserved(100).await;
        pod.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_failing_order_is_tried_again_with_growing_waits() {
    World::with(async |world| {
        world.stock(1, 100).await;
        // Sequences keep what they are told when the transaction that told them is rolled back: how many attempts there were,
        // and when each was.
        world.sql("CREATE SEQUENCE attempt; CREATE SEQUENCE at1; CREATE SEQUENCE at2; CREATE SEQUENCE at3; CREATE SEQUENCE at4").await;
        world
            .sql(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
                 BEGIN
                     IF nextval('attempt') <= 4 THEN
                         PERFORM setval(format('at%s', currval('attempt'))::regclass,
                                        (extract(epoch FROM clock_timestamp()) * 1e3)::bigint);
                     END IF;
                     RAISE EXCEPTION 'not now';
                 END $$;
                 CREATE TRIGGER sabotage BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION refuse()",
            )
            .await;
        let pod = world.pod(&[("max_attempts", "8"), ("retry_base", "200ms")]);
        let order = world.place(SECOND, &[(1, 1)]).await;
        // Not when it is counted: its time is written after that, and can be read between the two.
        eventually("the time of the fourth attempt", async || {
            world.number("SELECT is_called::int::bigint FROM at4").await == 1
        })
        .await;
        let mut moments = Vec::new();
        for attempt in 1..=4 {
            moments.push(world.number(&format!("SELECT last_value FROM at{attempt}")).await);
        }
        let waits: Vec<_> = moments.windows(2).map(|pair| pair[1] - pair[0]).collect();
        // A busy machine makes a wait longer, never shorter; a hundredth for the estimate of the clock.
        assert!(waits[0] >= 198 && waits[1] >= 396 && waits[2] >= 792, "{waits:?} ms");
        // Repaired before the attempts are used up: it is closed by its next one, without anybody's help.
        world.sql("DROP FUNCTION refuse CASCADE").await;
        world.closed(order).await;
        assert_eq!(world.depth(&world.names.parked()).await, 0);
        assert_eq!(pod.shared.stats.get(Count::Swept), 0);
        world.assert_stock_conserved(100).await;
        pod.stop().await;
    })
    .await;
}

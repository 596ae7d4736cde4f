//! A shop with tables of its own adopts Overdue as docs/orders-in-sql.md says: the statements here are that page's.

use overdue::stats::Count;

use crate::harness::{World, eventually};

const PAGE: &str = include_str!("../../docs/orders-in-sql.md");

/// What such a shop has: an order that was paid for in time, and one that nobody will pay.
const SHOP: &str = "
    CREATE SCHEMA shop;
    CREATE TABLE shop.purchases (purchase_id bigint PRIMARY KEY, customer bigint NOT NULL, state text NOT NULL DEFAULT 'open',
                                 expires_at timestamptz NOT NULL);
    CREATE TABLE shop.warehouse (article text PRIMARY KEY, available bigint NOT NULL);
    CREATE TABLE shop.purchase_lines (purchase_id bigint REFERENCES shop.purchases, article text REFERENCES shop.warehouse,
                                      amount bigint NOT NULL);
    INSERT INTO shop.warehouse VALUES ('lamp', 5), ('rope', 4);
    INSERT INTO shop.purchases VALUES (1001, 42, 'open', now() + interval '1 hour'), (1002, 43, 'open', now() + interval '2 s');
    INSERT INTO shop.purchase_lines VALUES (1001, 'rope', 3), (1002, 'lamp', 2), (1002, 'rope', 1)";

/// The page's statement that has these words in it.
fn statement(words: &str) -> &'static str {
    let blocks = PAGE.split("```sql\n").skip(1).filter_map(|block| block.split("```").next());
    blocks
        .into_iter()
        .find(|block| block.contains(words))
        .unwrap_or_else(|| panic!("no statement says {words}"))
}

#[tokio::test]
async fn its_orders_expire_with_its_own_stock_in_the_closing_transaction() {
    World::with(async |world| {
        world.sql(statement("CREATE SCHEMA overdue")).await;
        let (code, _, error) = world.run(&["migrate", "--schema", "overdue"]).await;
        assert_eq!((code, error.as_str()), (0, ""));
        world.sql(SHOP).await;
        world.sql(statement("CREATE TRIGGER purchase_closed")).await;
        world.sql(statement("VALUES (1001, 42")).await;
        world.sql(statement("SET status = 'PAID', updated_at = now() WHERE order_id = 1001")).await;
        // What is open already; the order above is there.
        world.sql(statement("WHERE state = 'open'\nON CONFLICT")).await;

        let pod = world.pod(&[("schema", "overdue")]);
        let expired = "SELECT count(*) FROM shop.purchases WHERE state = 'expired' AND purchase_id = 1002";
        eventually("the shop's own order has expired", async || world.number(expired).await == 1).await;
        let stock = "SELECT sum(available) FILTER (WHERE article = 'lamp')::bigint * 10
                            + sum(available) FILTER (WHERE article = 'rope')::bigint FROM shop.warehouse";
        assert_eq!(world.number(stock).await, 75, "7 lamps and 5 ropes");
        let open = "SELECT count(*) FROM shop.purchases WHERE state = 'open' AND purchase_id = 1001";
        assert_eq!(world.number(open).await, 1, "the paid one is the shop's");
        assert_eq!((pod.shared.stats.get(Count::Closed), pod.shared.stats.get(Count::Failed)), (1, 0));
        pod.stop().await;
    })
    .await;
}

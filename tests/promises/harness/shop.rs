//! A shop in a world: it knows the contracts, plain SQL and plain AMQP, and nothing of Overdue's code.

use std::collections::HashMap;
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Confirmation};
use overdue_testkit::shop::Shop;
use serde_json::Value;
use sqlx::Executor;

use super::waiting::eventually;
use super::world::World;

impl World {
    /// The kit's shop in this world.
    pub fn shop(&self) -> Shop {
        Shop { pool: self.pool.clone() }
    }

    /// Fills the inventory with products 1 to `products`.
    pub async fn stock(&self, products: i64, each: i64) {
        self.shop().stock(products, each).await.expect("stocked");
    }

    /// Places an order, taking its items from stock, and returns its number.
    pub async fn place(&self, window: Duration, items: &[(i64, i64)]) -> i64 {
        self.place_many(1, window, window, items).await[0]
    }

    /// Places many like it in one transaction, their windows spread evenly from `first` to `last`.
    pub async fn place_many(
        &self,
        count: usize,
        first: Duration,
        last: Duration,
        items: &[(i64, i64)],
    ) -> Vec<i64> {
        self.shop().place_many(count, first, last, items).await.expect("placed")
    }

    /// Pays if it can still be paid.
    pub async fn pay(&self, order_id: i64) -> bool {
        self.shop().pay(order_id).await.expect("paid or not")
    }

    pub async fn status(&self, order_id: i64) -> String {
        self.shop().status(order_id).await.expect("the order")
    }

    /// Orders in each status.
    pub async fn statuses(&self) -> HashMap<String, usize> {
        self.shop().statuses().await.expect("counts")
    }

    /// Waits until the order is closed; how late it was.
    pub async fn closed(&self, order_id: i64) -> Duration {
        eventually("closed", async || self.status(order_id).await == "CLOSED").await;
        let late = sqlx::query_scalar(
            "SELECT extract(epoch FROM closed_at - payment_deadline)::float8 FROM orders WHERE order_id = $1",
        );
        Duration::from_secs_f64(late.bind(order_id).fetch_one(&self.pool).await.expect("its lateness"))
    }

    /// Waits until no order is PENDING.
    pub async fn all_settled(&self) {
        eventually("no order is PENDING", async || !self.statuses().await.contains_key("PENDING")).await;
    }

    /// Waits until the pods work: an order goes all the way from the outbox to its event.
    pub async fn ready(&self) {
        self.declared().await;
        let witness = self.place(Duration::ZERO, &[]).await;
        self.closed(witness).await;
        self.outbox_empty().await;
        let gone = sqlx::query("DELETE FROM orders WHERE order_id = $1").bind(witness);
        gone.execute(&self.pool).await.expect("the witness may leave");
    }

    /// Waits until everything recorded has been published.
    pub async fn outbox_empty(&self) {
        eventually("the outbox is empty", async || {
            let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM outbox")
                .fetch_one(&self.pool)
                .await
                .expect("a count");
            rows == 0
        })
        .await;
    }

    /// Checks that the outbox holds nothing that is not of this kind.
    pub async fn assert_outbox_has_only(&self, kind: &str) {
        let others: Vec<String> = sqlx::query_scalar("SELECT kind FROM outbox WHERE kind <> $1")
            .bind(kind)
            .fetch_all(&self.pool)
            .await
            .expect("kinds");
        assert!(others.is_empty(), "{others:?}");
    }

    /// Invariant 3, for every product.
    pub async fn assert_stock_conserved(&self, each: i64) {
        let unbalanced = self.shop().unbalanced(each).await.expect("an audit");
        assert!(unbalanced.is_empty(), "stock lost (-) or doubled (+), by product: {unbalanced:?}");
    }

    /// Runs a statement of the test's own, as the shop or a database administrator would.
    pub async fn sql(&self, statement: &str) {
        let run = (&self.pool).execute(sqlx::AssertSqlSafe(statement)).await;
        run.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }

    /// One number from the database.
    pub async fn number(&self, query: &str) -> i64 {
        let number = sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_one(&self.pool).await;
        number.unwrap_or_else(|error| panic!("{query}: {error}"))
    }

    /// Waits until this many messages are parked, and returns them as `overdue parked list` shows them.
    pub async fn parked(&self, count: usize) -> Vec<Value> {
        let queue = self.names.parked();
        eventually(&format!("{count} messages are parked"), async || {
            self.depth(&queue).await as usize >= count
        })
        .await;
        let (code, list, error) = self.run(&["parked", "list", "--limit", "1000", "--json"]).await;
        assert_eq!(code, 0, "{error}");
        let list: Vec<Value> = serde_json::from_str(&list).expect("a list");
        assert_eq!(list.len(), count, "{list:?}");
        list
    }

    /// Publishes as an outside service would, and waits for the confirm.
    pub async fn publish(&self, key: &str, body: &[u8], properties: BasicProperties) {
        self.publish_to(&self.names.exchange(), key, body, properties).await;
    }

    /// The same with another exchange.
    pub async fn publish_to(&self, exchange: &str, key: &str, body: &[u8], properties: BasicProperties) {
        self.broker().publish(exchange, key, body, properties).await.expect("published");
    }

    /// Binds a queue to an exchange of the shop's.
    pub async fn bind(&self, queue: &str, exchange: &str, key: &str) {
        self.broker().bind(queue, exchange, key).await.expect("bound");
    }

    /// The same message many times, all confirmed together at the end.
    pub async fn publish_times(&self, times: usize, key: &str, body: &[u8], properties: &BasicProperties) {
        let (connection, channel) = self.channel().await;
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        let exchange = self.names.exchange();
        let mut confirms = Vec::with_capacity(times);
        for _ in 0..times {
            let (options, properties) =
                (BasicPublishOptions::default(), properties.clone().with_delivery_mode(2));
            let confirm =
                channel.basic_publish(exchange.as_str().into(), key.into(), options, body, properties);
            confirms.push(confirm.await.expect("published"));
        }
        for confirm in confirms {
            assert_eq!(confirm.await.expect("confirmed"), Confirmation::Ack(None));
        }
        connection.close(200, "done".into()).await.expect("closed");
    }
}

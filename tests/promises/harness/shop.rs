//! A shop in a world: it knows the contracts, plain SQL and plain AMQP, and nothing of Overdue's code.

use std::collections::HashMap;
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Confirmation};
use serde_json::Value;
use sqlx::Executor;

use super::world::{World, eventually};

impl World {
    /// Fills the inventory with products 1 to `products`.
    pub async fn stock(&self, products: i64, each: i64) {
        sqlx::query("INSERT INTO inventory SELECT product, $2 FROM generate_series(1, $1) AS product")
            .bind(products)
            .bind(each)
            .execute(&self.pool)
            .await
            .expect("stocked");
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
        let mut transaction = self.pool.begin().await.expect("a transaction");
        let orders: Vec<i64> = sqlx::query_scalar(
            "INSERT INTO orders (user_id, payment_deadline)
             SELECT 1, now() + make_interval(secs => $2 + ($3 - $2) * n / $1) FROM generate_series(1, $1) AS n
             RETURNING order_id",
        )
        .bind(i32::try_from(count).expect("a number of orders"))
        .bind(first.as_secs_f64())
        .bind(last.as_secs_f64())
        .fetch_all(&mut *transaction)
        .await
        .expect("placed");
        for (product, quantity) in items {
            let taken = sqlx::query("UPDATE inventory SET stock = stock - $2 WHERE product_id = $1")
                .bind(product)
                .bind(quantity * i64::try_from(count).expect("a number of orders"));
            taken.execute(&mut *transaction).await.expect("taken from stock");
            let item = sqlx::query("INSERT INTO order_items SELECT o, $2, $3 FROM unnest($1::bigint[]) AS o");
            item.bind(&orders).bind(product).bind(quantity).execute(&mut *transaction).await.expect("items");
        }
        transaction.commit().await.expect("committed");
        orders
    }

    /// Pays if it can still be paid.
    pub async fn pay(&self, order_id: i64) -> bool {
        let paid =
            sqlx::query("UPDATE orders SET status = 'PAID' WHERE order_id = $1 AND status = 'PENDING'");
        paid.bind(order_id).execute(&self.pool).await.expect("paid or not").rows_affected() == 1
    }

    pub async fn status(&self, order_id: i64) -> String {
        let status = sqlx::query_scalar("SELECT status FROM orders WHERE order_id = $1");
        status.bind(order_id).fetch_one(&self.pool).await.expect("the order")
    }

    /// Orders in each status.
    pub async fn statuses(&self) -> HashMap<String, usize> {
        let counts = sqlx::query_as("SELECT status, count(*) FROM orders GROUP BY status");
        let counts: Vec<(String, i64)> = counts.fetch_all(&self.pool).await.expect("counts");
        counts.into_iter().map(|(status, count)| (status, usize::try_from(count).expect("a count"))).collect()
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

    /// Invariant 3: stock plus what open orders hold is what was there at the beginning, for every product.
    pub async fn assert_stock_conserved(&self, each: i64) {
        let wrong: Vec<(i64, i64)> = sqlx::query_as(
            "SELECT product_id, (stock + coalesce(held, 0))::bigint FROM inventory LEFT JOIN (
                 SELECT product_id, sum(quantity) AS held FROM order_items JOIN orders USING (order_id)
                 WHERE status NOT IN ('CLOSED', 'CANCELLED') GROUP BY product_id) AS h USING (product_id)
             WHERE stock + coalesce(held, 0) <> $1",
        )
        .bind(each)
        .fetch_all(&self.pool)
        .await
        .expect("an audit");
        assert!(wrong.is_empty(), "stock and held should be {each}: {wrong:?}");
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
        let (connection, channel) = self.channel().await;
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let confirm = channel.basic_publish(
            exchange.into(),
            key.into(),
            options,
            body,
            properties.with_delivery_mode(2),
        );
        let confirm = confirm.await.expect("published").await.expect("confirmed");
        assert_eq!(confirm, Confirmation::Ack(None), "{key} was not routed");
        connection.close(200, "done".into()).await.expect("closed");
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

    /// Binds a queue to an exchange of the shop's.
    pub async fn bind(&self, queue: &str, exchange: &str, key: &str) {
        let (connection, channel) = self.channel().await;
        let options = QueueBindOptions::default();
        let bind =
            channel.queue_bind(queue.into(), exchange.into(), key.into(), options, FieldTable::default());
        bind.await.expect("bound");
        connection.close(200, "done".into()).await.expect("closed");
    }
}

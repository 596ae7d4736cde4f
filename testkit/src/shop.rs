//! A shop: it places, pays, cancels and extends orders by plain SQL, in transactions of its own. Nothing here knows that
//! there is an Overdue.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result};
use sqlx::{PgPool, PgTransaction};
use time::OffsetDateTime;
use tokio::time::Instant;

/// A shop.
#[derive(Clone, Debug)]
pub struct Shop {
    /// Its connections to the database.
    pub pool: PgPool,
}

/// Products and quantities, in the order of the products.
pub type Items = [(i64, i64)];

/// An order that is written, but not committed.
pub struct Draft {
    transaction: PgTransaction<'static>,
    /// What is promised to the buyer.
    pub placed: Placed,
}

/// An order as the shop's own INSERT returns it.
#[derive(Clone, Copy, Debug)]
pub struct Placed {
    /// Its number.
    pub order_id: i64,
    /// Until when it can be paid.
    pub payment_deadline: OffsetDateTime,
    /// How long that was when it was written.
    pub left: Duration,
    /// The deadline on this process's clock, for acting at the right moment.
    pub until: Instant,
}

impl Shop {
    /// Fills the inventory with products 1 to `products`.
    pub async fn stock(&self, products: i64, each: i64) -> Result<()> {
        let fill =
            sqlx::query("INSERT INTO inventory SELECT product, $2 FROM generate_series(1, $1) AS product");
        fill.bind(products).bind(each).execute(&self.pool).await.context("filling the inventory")?;
        Ok(())
    }

    /// Begins a transaction with a new order. The database's clock sets the deadline.
    pub async fn draft(&self, user_id: i64, window: Duration) -> Result<Draft> {
        Self::write(self.pool.begin().await?, user_id, window).await
    }

    /// The same without triggers: nothing tells Overdue of this order.
    pub async fn draft_without_triggers(&self, user_id: i64, window: Duration) -> Result<Draft> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query("SET LOCAL session_replication_role = replica").execute(&mut *transaction).await?;
        Self::write(transaction, user_id, window).await
    }

    async fn write(mut transaction: PgTransaction<'static>, user_id: i64, window: Duration) -> Result<Draft> {
        let insert = sqlx::query_as(
            "INSERT INTO orders (user_id, payment_deadline) VALUES ($1, clock_timestamp() + make_interval(secs => $2))
             RETURNING order_id, payment_deadline,
                       extract(epoch FROM payment_deadline - clock_timestamp())::float8",
        );
        let inserted = insert.bind(user_id).bind(window.as_secs_f64()).fetch_one(&mut *transaction).await;
        let (order_id, payment_deadline, left): (_, _, f64) = inserted.context("placing an order")?;
        let left = Duration::from_secs_f64(left.max(0.0));
        let placed = Placed { order_id, payment_deadline, left, until: Instant::now() + left };
        Ok(Draft { transaction, placed })
    }

    /// Places many orders in one transaction, their windows spread evenly from `first` to `last`; their numbers.
    pub async fn place_many(
        &self,
        count: usize,
        first: Duration,
        last: Duration,
        items: &Items,
    ) -> Result<Vec<i64>> {
        let mut transaction = self.pool.begin().await?;
        let orders: Vec<i64> = sqlx::query_scalar(
            "INSERT INTO orders (user_id, payment_deadline)
             SELECT 1, now() + make_interval(secs => $2 + ($3 - $2) * n / $1) FROM generate_series(1, $1) AS n
             RETURNING order_id",
        )
        .bind(i32::try_from(count)?)
        .bind(first.as_secs_f64())
        .bind(last.as_secs_f64())
        .fetch_all(&mut *transaction)
        .await?;
        for (product, quantity) in items {
            let taken = sqlx::query("UPDATE inventory SET stock = stock - $2 WHERE product_id = $1");
            let taken = taken.bind(product).bind(quantity * i64::try_from(count)?);
            taken.execute(&mut *transaction).await?;
            let item = sqlx::query("INSERT INTO order_items SELECT o, $2, $3 FROM unnest($1::bigint[]) AS o");
            item.bind(&orders).bind(product).bind(quantity).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(orders)
    }

    /// Marks an order as paid; false when it was not PENDING any more.
    ///
    /// The status in the WHERE clause is the whole secret: a payment and a close can never both win.
    pub async fn pay(&self, order_id: i64) -> Result<bool> {
        let pay = sqlx::query(
            "UPDATE orders SET status = 'PAID', updated_at = now() WHERE order_id = $1 AND status = 'PENDING'",
        );
        let paid = pay.bind(order_id).execute(&self.pool).await.context("paying an order")?;
        Ok(paid.rows_affected() == 1)
    }

    /// Cancels an order and gives its stock back in the same transaction; false when it was not PENDING any more.
    pub async fn cancel(&self, order_id: i64) -> Result<bool> {
        let cancel = sqlx::query(
            "WITH cancelled AS (
                 UPDATE orders SET status = 'CANCELLED', updated_at = now()
                 WHERE order_id = $1 AND status = 'PENDING'
                 RETURNING order_id
             ), locked AS MATERIALIZED (
                 SELECT product_id, quantity
                 FROM inventory JOIN order_items USING (product_id) JOIN cancelled USING (order_id)
                 ORDER BY product_id
                 FOR NO KEY UPDATE OF inventory
             ), restocked AS (
                 UPDATE inventory SET stock = stock + quantity
                 FROM locked WHERE inventory.product_id = locked.product_id
             )
             SELECT order_id FROM cancelled",
        );
        let cancelled = cancel.bind(order_id).fetch_all(&self.pool).await.context("cancelling an order")?;
        Ok(cancelled.len() == 1)
    }

    /// Gives the buyer more time; false when the order was not PENDING any more.
    pub async fn extend(&self, order_id: i64, by: Duration) -> Result<bool> {
        let extend = sqlx::query(
            "UPDATE orders SET payment_deadline = payment_deadline + make_interval(secs => $2), updated_at = now()
             WHERE order_id = $1 AND status = 'PENDING'",
        );
        let extended = extend.bind(order_id).bind(by.as_secs_f64()).execute(&self.pool).await;
        Ok(extended.context("extending an order")?.rows_affected() == 1)
    }

    /// An order's status.
    pub async fn status(&self, order_id: i64) -> Result<String> {
        let status = sqlx::query_scalar("SELECT status FROM orders WHERE order_id = $1").bind(order_id);
        status.fetch_one(&self.pool).await.context("reading an order's status")
    }

    /// An order's deadline in RFC 3339, with all its microseconds.
    pub async fn deadline(&self, order_id: i64) -> Result<String> {
        let deadline = sqlx::query_scalar(
            r#"SELECT to_char(payment_deadline AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
               FROM orders WHERE order_id = $1"#,
        );
        deadline.bind(order_id).fetch_one(&self.pool).await.context("reading an order's deadline")
    }

    /// How many orders are in each status.
    pub async fn statuses(&self) -> Result<HashMap<String, usize>> {
        let counts = sqlx::query_as("SELECT status, count(*) FROM orders GROUP BY status");
        let counts: Vec<(String, i64)> = counts.fetch_all(&self.pool).await.context("counting orders")?;
        counts.into_iter().map(|(status, count)| Ok((status, usize::try_from(count)?))).collect()
    }

    /// Which of these orders have another status, or do not exist.
    pub async fn not_of_status(&self, orders: &[i64], status: &str) -> Result<Vec<i64>> {
        let others = sqlx::query_scalar(
            "SELECT order_id FROM unnest($1::bigint[]) AS asked (order_id) LEFT JOIN orders USING (order_id)
             WHERE status IS DISTINCT FROM $2",
        );
        others.bind(orders).bind(status).fetch_all(&self.pool).await.context("comparing statuses")
    }

    /// Invariant 3: what is in stock and what orders hold is what was there at the beginning. Returns each product for
    /// which that is not so, with how much too many there are, or too few.
    pub async fn unbalanced(&self, each: i64) -> Result<Vec<(i64, i64)>> {
        let products = sqlx::query_as(
            "SELECT product_id, (stock + coalesce(held, 0) - $1)::bigint FROM inventory LEFT JOIN (
                 SELECT product_id, sum(quantity) AS held FROM order_items JOIN orders USING (order_id)
                 WHERE status NOT IN ('CLOSED', 'CANCELLED') GROUP BY product_id) AS h USING (product_id)
             WHERE stock + coalesce(held, 0) <> $1",
        );
        products.bind(each).fetch_all(&self.pool).await.context("counting stock")
    }
}

impl Draft {
    /// Adds the items, takes them from stock, and commits.
    ///
    /// Stock is locked in the order of products, so that two buyers of the same ones wait for each other and never
    /// deadlock; and last of all, because the whole shop waits for the rows of what everybody wants.
    pub async fn commit(mut self, items: &Items) -> Result<Placed> {
        let (products, quantities): (Vec<i64>, Vec<i64>) = items.iter().copied().unzip();
        let take = sqlx::query(
            "WITH wanted AS (
                 SELECT * FROM unnest($2::bigint[], $3::bigint[]) AS wanted (product_id, quantity)
             ), locked AS MATERIALIZED (
                 SELECT product_id, quantity FROM inventory JOIN wanted USING (product_id)
                 ORDER BY product_id
                 FOR NO KEY UPDATE OF inventory
             ), taken AS (
                 UPDATE inventory SET stock = stock - quantity
                 FROM locked WHERE inventory.product_id = locked.product_id
             )
             INSERT INTO order_items (order_id, product_id, quantity)
             SELECT $1, product_id, quantity FROM locked",
        );
        // What is sold out, the schema refuses: stock is never negative.
        let take = take.bind(self.placed.order_id).bind(products).bind(quantities);
        take.execute(&mut *self.transaction).await.context("taking stock")?;
        self.transaction.commit().await.context("placing an order")?;
        Ok(self.placed)
    }
}

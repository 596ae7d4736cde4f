//! The shop: plain SQL in transactions of its own. Nothing here knows that there is an Overdue.

use std::time::Duration;

use sqlx::{PgPool, PgTransaction};
use time::OffsetDateTime;
use tokio::time::Instant;

use crate::script::{PRODUCTS, STOCK};
use crate::{During, Result};

/// The shop.
#[derive(Clone, Debug)]
pub struct Shop {
    pool: PgPool,
}

/// An order that is written, but not committed.
pub struct Draft {
    transaction: PgTransaction<'static>,
    /// What will be promised to the buyer.
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
    /// Fills the shelves.
    pub async fn open(pool: PgPool) -> Result<Self> {
        let fill = "INSERT INTO inventory (product_id, stock) SELECT product, $2 FROM generate_series(1, $1) product";
        sqlx::query(fill).bind(PRODUCTS).bind(STOCK).execute(&pool).await.during("filling the shelves")?;
        Ok(Self { pool })
    }

    /// Begins a transaction with a new order. The database's clock sets the deadline.
    pub async fn draft(&self, user_id: i64, window: Duration) -> Result<Draft> {
        let mut transaction = self.pool.begin().await.during("placing an order")?;
        let insert = sqlx::query_as(
            "INSERT INTO orders (user_id, payment_deadline) VALUES ($1, now() + make_interval(secs => $2))
             RETURNING order_id, payment_deadline,
                       extract(epoch FROM payment_deadline - clock_timestamp())::float8",
        );
        let inserted = insert.bind(user_id).bind(window.as_secs_f64()).fetch_one(&mut *transaction);
        let (order_id, payment_deadline, left) = inserted.await.during("placing an order")?;
        let left = Duration::try_from_secs_f64(left)?;
        let placed = Placed { order_id, payment_deadline, left, until: Instant::now() + left };
        Ok(Draft { transaction, placed })
    }

    /// Marks an order as paid; false when it was closed before.
    ///
    /// The status in the WHERE clause is the whole secret: a payment and a close can never both win.
    pub async fn pay(&self, order_id: i64) -> Result<bool> {
        let pay = "UPDATE orders SET status = 'PAID', updated_at = now()
                   WHERE order_id = $1 AND status = 'PENDING'";
        let paid = sqlx::query(pay).bind(order_id).execute(&self.pool).await.during("paying an order")?;
        self.won(order_id, paid.rows_affected()).await
    }

    /// Cancels an order and gives its stock back in the same transaction; false when it was closed before.
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
        let cancelled = cancel.bind(order_id).fetch_all(&self.pool).await.during("cancelling an order")?;
        self.won(order_id, cancelled.len() as u64).await
    }

    /// Gives the buyer more time; false when the order was closed before.
    pub async fn extend(&self, order_id: i64, by: Duration) -> Result<bool> {
        let extend = "UPDATE orders SET payment_deadline = payment_deadline + make_interval(secs => $2),
                                        updated_at = now()
                      WHERE order_id = $1 AND status = 'PENDING'";
        let extended = sqlx::query(extend).bind(order_id).bind(by.as_secs_f64()).execute(&self.pool).await;
        self.won(order_id, extended.during("extending an order")?.rows_affected()).await
    }

    /// The order's status.
    pub async fn status(&self, order_id: i64) -> Result<String> {
        let status = sqlx::query_scalar("SELECT status FROM orders WHERE order_id = $1").bind(order_id);
        status.fetch_one(&self.pool).await.during("reading an order")
    }

    /// Nothing but a close may have been faster than the buyer.
    async fn won(&self, order_id: i64, rows: u64) -> Result<bool> {
        if rows == 1 {
            return Ok(true);
        }
        match self.status(order_id).await?.as_str() {
            "CLOSED" => Ok(false),
            status => Err(format!("order {order_id} refused its buyer, but is {status}").into()),
        }
    }
}

impl Draft {
    /// Adds the items, takes them from stock, and commits.
    ///
    /// Stock is locked in the order of products, so that two buyers of the same ones wait for each other and never
    /// deadlock; and last of all, because the whole shop waits for the rows of what everybody wants.
    pub async fn commit(mut self, items: &[(i64, i64)]) -> Result<Placed> {
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
        take.execute(&mut *self.transaction).await.during("taking stock")?;
        self.transaction.commit().await.during("placing an order")?;
        Ok(self.placed)
    }
}

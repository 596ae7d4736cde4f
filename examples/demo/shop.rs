//! The shop: plain SQL in its own transactions, and each order's life from placing to payment.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use time::OffsetDateTime;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::script::{Fate, Form, PRODUCTS, Part, STOCK, Timing};
use crate::services::Services;
use crate::{During, Result};

/// The shop, with the services that announce some of its orders.
#[derive(Debug)]
pub struct Shop {
    pool: PgPool,
    services: Services,
}

/// What the shop knows about an order when it has nothing more to do with it.
#[derive(Debug)]
pub struct Life {
    /// The order.
    pub order_id: i64,
    /// How a service announced it.
    pub announced: Option<(Form, Timing)>,
    /// What came of it.
    pub end: End,
}

/// How an order's life in the shop ended.
#[derive(Debug)]
pub enum End {
    /// Nobody asked for anything more.
    LeftUnpaid,
    /// The buyer was told "paid".
    Paid,
    /// The buyer wanted to pay and was told that the order is closed.
    TooLate,
    /// The buyer was told "cancelled".
    Cancelled,
    /// Somebody claimed that it was due.
    Forged {
        /// Whether it was still PENDING a good while after that.
        withstood: bool,
    },
    /// It got more time.
    Extended {
        /// The deadline that the buyer was promised first.
        from: OffsetDateTime,
    },
}

/// An order as the shop's own INSERT returns it.
struct Placed {
    order_id: i64,
    payment_deadline: OffsetDateTime,
    left: Duration,
    /// The same deadline on this process's clock, to act at the right moment.
    until: Instant,
}

impl Shop {
    /// Fills the shelves.
    pub async fn open(pool: PgPool, services: Services) -> Result<Arc<Self>> {
        let fill = sqlx::query(
            "INSERT INTO inventory (product_id, stock) SELECT product, $2 FROM generate_series(1, $1) product",
        );
        fill.bind(PRODUCTS).bind(STOCK).execute(&pool).await.during("filling the shelves")?;
        Ok(Arc::new(Self { pool, services }))
    }

    /// Plays all parts, each from its own moment on. The first error ends all of them.
    pub async fn trade(self: &Arc<Self>, script: Vec<Part>) -> Result<Vec<Life>> {
        let opened = Instant::now();
        let (mut playing, mut lives) = (JoinSet::new(), Vec::with_capacity(script.len()));
        for part in script {
            sleep_until(opened + part.at).await;
            let shop = Arc::clone(self);
            playing.spawn(async move { shop.live(part).await });
            while let Some(ended) = playing.try_join_next() {
                lives.push(ended??);
            }
        }
        while let Some(ended) = playing.join_next().await {
            lives.push(ended??);
        }
        Ok(lives)
    }

    async fn live(&self, part: Part) -> Result<Life> {
        let placed = self.place(&part).await.during("placing an order")?;
        match part.announced {
            Some((form, Timing::AfterCommit)) => self.announce(form, &placed).await?,
            Some((form, Timing::Twice)) => {
                self.announce(form, &placed).await?;
                self.announce(form, &placed).await?;
            }
            Some((_, Timing::BeforeCommit)) | None => {}
        }
        let Placed { order_id, payment_deadline: from, until, .. } = placed;
        let end = match part.fate {
            Fate::Unpaid => End::LeftUnpaid,
            Fate::Paid(after) => {
                sleep(after).await;
                self.pay(order_id).await?
            }
            Fate::PaidAtTheLastMoment(after) => {
                sleep_until(until - Duration::from_millis(40) + after).await;
                self.pay(order_id).await?
            }
            Fate::Cancelled(after) => {
                sleep(after).await;
                self.cancel(order_id).await.during("cancelling an order")?
            }
            Fate::Forged(form) => {
                sleep(part.window / 4).await;
                self.services.forge(form, order_id).await?;
                sleep(part.window / 4).await;
                End::Forged { withstood: self.status(order_id).await? == "PENDING" }
            }
            Fate::Extended => {
                sleep(part.window / 2).await;
                self.extend(order_id, Duration::from_secs(6)).await?;
                End::Extended { from }
            }
        };
        Ok(Life { order_id, announced: part.announced, end })
    }

    async fn announce(&self, form: Form, placed: &Placed) -> Result<()> {
        self.services.announce(form, placed.order_id, placed.payment_deadline, placed.left).await
    }

    /// The order, its items and the stock they take, in one transaction; nothing in it knows of Overdue.
    async fn place(&self, part: &Part) -> Result<Placed> {
        let mut transaction = self.pool.begin().await?;
        let (order_id, payment_deadline, left): (i64, OffsetDateTime, f64) = sqlx::query_as(
            "INSERT INTO orders (user_id, payment_deadline) VALUES ($1, now() + make_interval(secs => $2))
             RETURNING order_id, payment_deadline, extract(epoch FROM payment_deadline - clock_timestamp())::float8",
        )
        .bind(part.user_id)
        .bind(part.window.as_secs_f64())
        .fetch_one(&mut *transaction)
        .await?;
        let left = Duration::try_from_secs_f64(left)?;
        let placed = Placed { order_id, payment_deadline, left, until: Instant::now() + left };
        if let Some((form, Timing::BeforeCommit)) = part.announced {
            self.announce(form, &placed).await?;
            sleep(Duration::from_millis(150)).await;
        }
        for (product_id, quantity) in &part.items {
            let take =
                sqlx::query("UPDATE inventory SET stock = stock - $2 WHERE product_id = $1 AND stock >= $2");
            let taken = take.bind(product_id).bind(quantity).execute(&mut *transaction).await?;
            if taken.rows_affected() != 1 {
                return Err(format!("product {product_id} is sold out").into());
            }
        }
        let (products, quantities): (Vec<i64>, Vec<i64>) = part.items.iter().copied().unzip();
        let items = "INSERT INTO order_items (order_id, product_id, quantity) SELECT $1, * FROM unnest($2::bigint[], $3::bigint[])";
        sqlx::query(items).bind(order_id).bind(products).bind(quantities).execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(placed)
    }

    /// The status in the WHERE clause is the whole secret: a payment and a close can never both win.
    async fn pay(&self, order_id: i64) -> Result<End> {
        let pay = "UPDATE orders SET status = 'PAID', updated_at = now() WHERE order_id = $1 AND status = 'PENDING'";
        let paid = sqlx::query(pay).bind(order_id).execute(&self.pool).await.during("paying an order")?;
        if paid.rows_affected() == 1 { Ok(End::Paid) } else { self.too_late(order_id).await }
    }

    async fn cancel(&self, order_id: i64) -> Result<End> {
        let mut transaction = self.pool.begin().await?;
        let cancel = "UPDATE orders SET status = 'CANCELLED', updated_at = now() WHERE order_id = $1 AND status = 'PENDING'";
        let cancelled = sqlx::query(cancel).bind(order_id).execute(&mut *transaction).await?;
        if cancelled.rows_affected() == 0 {
            return self.too_late(order_id).await;
        }
        let give_back = sqlx::query(
            "WITH held AS MATERIALIZED (
                 SELECT product_id, quantity FROM inventory JOIN order_items USING (product_id)
                 WHERE order_id = $1 ORDER BY product_id FOR UPDATE OF inventory
             )
             UPDATE inventory SET stock = stock + quantity FROM held WHERE inventory.product_id = held.product_id",
        );
        give_back.bind(order_id).execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(End::Cancelled)
    }

    async fn extend(&self, order_id: i64, by: Duration) -> Result<()> {
        let extend = "UPDATE orders SET payment_deadline = payment_deadline + make_interval(secs => $2), updated_at = now()
                      WHERE order_id = $1 AND status = 'PENDING'";
        let extended = sqlx::query(extend).bind(order_id).bind(by.as_secs_f64()).execute(&self.pool).await;
        match extended.during("extending an order")?.rows_affected() {
            1 => Ok(()),
            _ => {
                Err(format!("order {order_id} could not be extended: it is {}", self.status(order_id).await?)
                    .into())
            }
        }
    }

    /// Nothing but a close may have been faster than the buyer.
    async fn too_late(&self, order_id: i64) -> Result<End> {
        match self.status(order_id).await?.as_str() {
            "CLOSED" => Ok(End::TooLate),
            status => Err(format!("order {order_id} refused its buyer, but is {status}").into()),
        }
    }

    async fn status(&self, order_id: i64) -> Result<String> {
        let status = sqlx::query_scalar("SELECT status FROM orders WHERE order_id = $1").bind(order_id);
        status.fetch_one(&self.pool).await.during("reading an order")
    }
}

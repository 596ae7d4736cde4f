//! The shop's till: orders by plain SQL, tried until the database has answered.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use sqlx::PgPool;
use tokio::time::{Instant, sleep, timeout};

use super::{End, Life, Via};
use crate::pods::Place;
use crate::shop::Announcer;

/// What the shop was told about an order, and therefore has told its buyer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// The payment was taken.
    Paid,
    /// Cancelled, and the stock given back.
    Cancelled,
    /// It was too late to pay, cancel or extend.
    TooLate,
    /// Nothing was asked.
    Nothing,
    /// The last answer was lost.
    Unknown,
}

/// What the shop remembers of each order.
pub type Ledger = HashMap<i64, Told>;

/// The till, its announcer, and what it remembers.
#[derive(Debug)]
pub struct Till {
    /// The shop's own way to the database.
    pub pool: PgPool,
    /// Its services.
    pub announcer: Announcer,
    place: Place,
    ledger: Mutex<Ledger>,
    announced: Mutex<HashSet<i64>>,
}

/// The buyer of orders that a trigger tells of, and of those that only a message does.
const BY_TRIGGER: i64 = 1;
const BY_MESSAGE: i64 = 3;
/// How long an answer may take before the shop asks again.
const ANSWER: Duration = Duration::from_secs(8);
/// How long the shop asks again before it gives up; longer than any fault.
const PERSISTENCE: Duration = Duration::from_secs(40);

impl Till {
    /// A till that remembers nothing yet.
    pub fn new(pool: PgPool, announcer: Announcer, place: Place) -> Self {
        Self { pool, announcer, place, ledger: Mutex::default(), announced: Mutex::default() }
    }

    /// What it was told so far.
    pub fn ledger(&self) -> Ledger {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Hands over what it was told of orders up to this one, and remembers it no longer.
    pub fn forget(&self, newest: i64) -> Ledger {
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        ledger.extract_if(|order, _| *order <= newest).collect()
    }

    fn remember(&self, order: i64, told: Told) {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).insert(order, told);
    }

    /// Plays one order's life; whatever the servers do, it ends.
    pub async fn live(&self, life: &Life) -> Result<()> {
        // An order whose commit was not answered may exist; nobody pays it, and the buyer places another one.
        let began = Instant::now();
        let order = loop {
            match timeout(ANSWER, self.place(life)).await {
                Ok(Ok(order)) => break order,
                _ if began.elapsed() > 2 * ANSWER => return Ok(()),
                _ => sleep(Duration::from_millis(100)).await,
            }
        };
        let placed = Instant::now();
        self.remember(order, Told::Nothing);
        if self.announce(life, order).await.is_err() {
            return Ok(()); // it will be announced late
        }
        match life.end {
            End::Left => {}
            End::Paid(share) => {
                sleep(life.window.mul_f64(share).saturating_sub(placed.elapsed())).await;
                let told = self.persist(order, "PAID", |till| till.pay(order)).await;
                self.remember(order, told);
            }
            End::Cancelled(share) => {
                sleep(life.window.mul_f64(share).saturating_sub(placed.elapsed())).await;
                let told = self.persist(order, "CANCELLED", |till| till.cancel(order)).await;
                self.remember(order, told);
            }
            End::CancelledByCommand => {
                let cancelled = self.place.overdue(&["order", "cancel", &order.to_string()]).await;
                self.remember(order, if cancelled.is_ok() { Told::Cancelled } else { Told::Unknown });
            }
            End::Extended(by, then_pays) => {
                sleep(life.window / 2).await;
                let _ = timeout(ANSWER, self.extend(order, by)).await;
                if then_pays {
                    sleep(life.window / 2 + by.mul_f64(0.9)).await;
                    let told = self.persist(order, "PAID", |till| till.pay(order)).await;
                    self.remember(order, told);
                }
            }
        }
        Ok(())
    }

    /// Places an order, in one transaction.
    pub async fn place(&self, life: &Life) -> Result<i64> {
        let mut transaction = self.pool.begin().await?;
        let by_message = matches!(life.via, Via::Message | Via::Expiration);
        if by_message {
            // No trigger runs: only the message tells of this order.
            sqlx::query("SET LOCAL session_replication_role = replica").execute(&mut *transaction).await?;
        }
        let (products, quantities): (Vec<_>, Vec<_>) = life.items.iter().copied().unzip();
        for (product, quantity) in &life.items {
            sqlx::query("UPDATE inventory SET stock = stock - $2 WHERE product_id = $1")
                .bind(product)
                .bind(quantity)
                .execute(&mut *transaction)
                .await?;
        }
        let order: i64 = sqlx::query_scalar(
            "INSERT INTO orders (user_id, payment_deadline) VALUES ($2, clock_timestamp() + make_interval(secs => $1))
             RETURNING order_id",
        )
        .bind(life.window.as_secs_f64())
        .bind(if by_message { BY_MESSAGE } else { BY_TRIGGER })
        .fetch_one(&mut *transaction)
        .await?;
        sqlx::query("INSERT INTO order_items SELECT $1, * FROM unnest($2::bigint[], $3::bigint[])")
            .bind(order)
            .bind(products)
            .bind(quantities)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(order)
    }

    /// Announces what was placed to be announced by message and was not, because the answer to the commit was lost.
    pub async fn announce_forgotten(&self) -> Result<usize> {
        let orders = sqlx::query_scalar("SELECT order_id FROM orders WHERE user_id = $1").bind(BY_MESSAGE);
        let orders: Vec<i64> = orders.fetch_all(&self.pool).await?;
        let announced = self.announced.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let forgotten: Vec<i64> = orders.into_iter().filter(|order| !announced.contains(order)).collect();
        for order in &forgotten {
            self.announcer.by_deadline(*order, &self.deadline(*order).await?).await?;
        }
        Ok(forgotten.len())
    }

    async fn announce(&self, life: &Life, order: i64) -> Result<()> {
        match life.via {
            Via::Sql => {}
            Via::Expiration => self.announcer.expiring(order, life.window).await?,
            Via::Message => self.announcer.by_deadline(order, &self.deadline(order).await?).await?,
            Via::Both => {
                let deadline = self.deadline(order).await?;
                self.announcer.by_deadline(order, &deadline).await?;
                self.announcer.by_deadline(order, &deadline).await?;
            }
        }
        self.announced.lock().unwrap_or_else(PoisonError::into_inner).insert(order);
        Ok(())
    }

    async fn deadline(&self, order: i64) -> Result<String> {
        let began = Instant::now();
        loop {
            let deadline = sqlx::query_scalar(
                r#"SELECT to_char(payment_deadline AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
                   FROM orders WHERE order_id = $1"#,
            );
            match timeout(ANSWER, deadline.bind(order).fetch_one(&self.pool)).await {
                Ok(Ok(deadline)) => return Ok(deadline),
                _ if began.elapsed() > PERSISTENCE => anyhow::bail!("no deadline of order {order}"),
                _ => sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// Pays an order; false when it is too late.
    pub async fn pay(&self, order: i64) -> Result<bool> {
        let paid = sqlx::query(
            "UPDATE orders SET status = 'PAID', updated_at = now() WHERE order_id = $1 AND status = 'PENDING'",
        );
        Ok(paid.bind(order).execute(&self.pool).await?.rows_affected() == 1)
    }

    /// As the README tells shops to: the stock in the same transaction, by whoever cancels.
    async fn cancel(&self, order: i64) -> Result<bool> {
        let mut transaction = self.pool.begin().await?;
        let cancelled = sqlx::query(
            "UPDATE orders SET status = 'CANCELLED', updated_at = now() WHERE order_id = $1 AND status = 'PENDING'",
        );
        if cancelled.bind(order).execute(&mut *transaction).await?.rows_affected() == 0 {
            return Ok(false);
        }
        // In product order, as everybody who locks several products should.
        let locked = sqlx::query(
            "SELECT FROM inventory WHERE product_id IN (SELECT product_id FROM order_items WHERE order_id = $1)
             ORDER BY product_id FOR NO KEY UPDATE",
        );
        locked.bind(order).execute(&mut *transaction).await?;
        let given_back = sqlx::query(
            "UPDATE inventory SET stock = stock + quantity FROM order_items
             WHERE order_id = $1 AND inventory.product_id = order_items.product_id",
        );
        given_back.bind(order).execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(true)
    }

    async fn extend(&self, order: i64, by: Duration) -> Result<bool> {
        let extended = sqlx::query(
            "UPDATE orders SET payment_deadline = payment_deadline + make_interval(secs => $2)
             WHERE order_id = $1 AND status = 'PENDING'",
        );
        let extended = extended.bind(order).bind(by.as_secs_f64());
        Ok(extended.execute(&self.pool).await?.rows_affected() == 1)
    }

    /// Asks until there is an answer. One that was lost may have taken effect: then the status says so.
    async fn persist<'a, F: Future<Output = Result<bool>>>(
        &'a self,
        order: i64,
        wanted: &str,
        ask: impl Fn(&'a Self) -> F,
    ) -> Told {
        let began = Instant::now();
        while began.elapsed() < PERSISTENCE {
            match timeout(ANSWER, ask(self)).await {
                Ok(Ok(true)) => return if wanted == "PAID" { Told::Paid } else { Told::Cancelled },
                Ok(Ok(false)) => match timeout(ANSWER, self.status(order)).await {
                    Ok(Ok(status)) if status == "PAID" => return Told::Paid,
                    Ok(Ok(status)) if status == "CANCELLED" => return Told::Cancelled,
                    Ok(Ok(_)) => return Told::TooLate,
                    _ => {}
                },
                _ => {}
            }
            sleep(Duration::from_millis(50)).await;
        }
        Told::Unknown
    }

    async fn status(&self, order: i64) -> Result<String> {
        let status = sqlx::query_scalar("SELECT status FROM orders WHERE order_id = $1");
        status.bind(order).fetch_one(&self.pool).await.context("reading a status")
    }
}

//! The shop's till: orders by plain SQL, tried until the database has answered.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use lapin::BasicProperties;
use overdue_testkit::broker::{Broker, ORDER_CREATED};
use overdue_testkit::deployment::Deployment;
use overdue_testkit::shop::{Placed, Shop};
use sqlx::PgPool;
use tokio::time::{Instant, sleep, timeout};

use super::{End, Life, Via};

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

/// The till, its services, and what it remembers.
#[derive(Debug)]
pub struct Till {
    /// The shop itself.
    pub shop: Shop,
    /// Its services' way to the broker.
    pub broker: Arc<Broker>,
    deployment: Deployment,
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
    pub fn new(pool: PgPool, broker: Arc<Broker>, deployment: Deployment) -> Self {
        Self {
            shop: Shop { pool },
            broker,
            deployment,
            ledger: Mutex::default(),
            announced: Mutex::default(),
        }
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
                Ok(Ok(placed)) => break placed.order_id,
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
                let told = self.persist(order, "PAID", |till| till.shop.pay(order)).await;
                self.remember(order, told);
            }
            End::Cancelled(share) => {
                sleep(life.window.mul_f64(share).saturating_sub(placed.elapsed())).await;
                let told = self.persist(order, "CANCELLED", |till| till.shop.cancel(order)).await;
                self.remember(order, told);
            }
            End::CancelledByCommand => {
                let cancelled = self.deployment.overdue(&["order", "cancel", &order.to_string()]).await;
                self.remember(order, if cancelled.is_ok() { Told::Cancelled } else { Told::Unknown });
            }
            End::Extended(by, then_pays) => {
                sleep(life.window / 2).await;
                let _ = timeout(ANSWER, self.shop.extend(order, by)).await;
                if then_pays {
                    sleep(life.window / 2 + by.mul_f64(0.9)).await;
                    let told = self.persist(order, "PAID", |till| till.shop.pay(order)).await;
                    self.remember(order, told);
                }
            }
        }
        Ok(())
    }

    /// Places an order, in one transaction.
    pub async fn place(&self, life: &Life) -> Result<Placed> {
        let draft = match life.via {
            // No trigger runs: only the message tells of this order.
            Via::Message | Via::Expiration => {
                self.shop.draft_without_triggers(BY_MESSAGE, life.window).await?
            }
            Via::Sql | Via::Both => self.shop.draft(BY_TRIGGER, life.window).await?,
        };
        draft.commit(&life.items).await
    }

    /// Announces what was placed to be announced by message and was not, because the answer to the commit was lost.
    pub async fn announce_forgotten(&self) -> Result<usize> {
        let orders = sqlx::query_scalar("SELECT order_id FROM orders WHERE user_id = $1").bind(BY_MESSAGE);
        let orders: Vec<i64> = orders.fetch_all(&self.shop.pool).await?;
        let announced = self.announced.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let forgotten: Vec<i64> = orders.into_iter().filter(|order| !announced.contains(order)).collect();
        for order in &forgotten {
            self.announce_deadline(*order).await?;
        }
        Ok(forgotten.len())
    }

    async fn announce(&self, life: &Life, order: i64) -> Result<()> {
        match life.via {
            Via::Sql => {}
            Via::Expiration => {
                let expiration = life.window.as_millis().to_string();
                let properties = BasicProperties::default().with_expiration(expiration.into());
                self.publish(order.to_string(), properties).await?;
            }
            Via::Message => self.announce_deadline(order).await?,
            Via::Both => {
                self.announce_deadline(order).await?;
                self.announce_deadline(order).await?;
            }
        }
        self.announced.lock().unwrap_or_else(PoisonError::into_inner).insert(order);
        Ok(())
    }

    async fn announce_deadline(&self, order: i64) -> Result<()> {
        let deadline = self.deadline(order).await?;
        let body = format!(r#"{{"order_id":{order},"payment_deadline":"{deadline}"}}"#);
        self.publish(body, BasicProperties::default()).await
    }

    async fn publish(&self, body: String, properties: BasicProperties) -> Result<()> {
        self.broker.publish_until_confirmed(ORDER_CREATED, body.as_bytes(), properties).await
    }

    async fn deadline(&self, order: i64) -> Result<String> {
        let began = Instant::now();
        loop {
            match timeout(ANSWER, self.shop.deadline(order)).await {
                Ok(Ok(deadline)) => return Ok(deadline),
                _ if began.elapsed() > PERSISTENCE => anyhow::bail!("no deadline of order {order}"),
                _ => sleep(Duration::from_millis(100)).await,
            }
        }
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
                Ok(Ok(false)) => match timeout(ANSWER, self.shop.status(order)).await {
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
}

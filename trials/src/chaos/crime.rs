//! Crimes that a faulty service might commit, so that the checker is seen to convict. A checker that has never found anything
//! proves nothing.

use std::fmt;
use std::time::Duration;

use anyhow::{Result, ensure};
use sqlx::Executor;
use tokio::time::{Instant, sleep};

use crate::arena::Arena;

/// Something that must never happen, done on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crime {
    PaidOrderClosed,
    OrderClosedWithoutEvent,
    EventOfAnOrderThatIsNotClosed,
    SecondEventOfAClose,
    StockLost,
    StockGivenBackTwice,
    OrderGone,
    WakeLost,
    MalformedMessageDropped,
    ParkedMessageStripped,
}

impl Crime {
    /// Whether it is done to a message that was parked.
    pub fn needs_rubbish(self) -> bool {
        matches!(self, Self::MalformedMessageDropped | Self::ParkedMessageStripped)
    }
}

/// The checker has one finding for both.
const STOCK: &str = "stock lost (-) or doubled";

/// Each with the words by which the checker must convict.
pub const CRIMES: [(Crime, &str); 10] = [
    (Crime::PaidOrderClosed, "closed from a status other than PENDING"),
    (Crime::OrderClosedWithoutEvent, "closed orders without an event"),
    (Crime::EventOfAnOrderThatIsNotClosed, "there is an event that says so"),
    (Crime::SecondEventOfAClose, "two different events"),
    (Crime::StockLost, STOCK),
    (Crime::StockGivenBackTwice, STOCK),
    (Crime::OrderGone, "have vanished"),
    (Crime::WakeLost, "orders PENDING"),
    (Crime::MalformedMessageDropped, "malformed messages were lost"),
    (Crime::ParkedMessageStripped, "parked without a reason"),
];

impl fmt::Display for Crime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Commits it, as soon as there is an opportunity.
pub async fn commit(arena: &Arena, crime: Crime) -> Result<()> {
    let done = match crime {
        // What a close without the status guard would do.
        Crime::PaidOrderClosed => {
            "WITH victim AS (UPDATE orders SET status = 'CLOSED', closed_at = greatest(now(), payment_deadline)
                 WHERE order_id = (SELECT min(order_id) FROM orders WHERE status = 'PAID') RETURNING *),
             stocked AS (UPDATE inventory SET stock = stock + quantity
                 FROM order_items JOIN victim USING (order_id) WHERE inventory.product_id = order_items.product_id)
             INSERT INTO outbox (kind, order_ids, deadlines, user_ids)
             SELECT 'order.closed', ARRAY[order_id], ARRAY[payment_deadline], ARRAY[user_id] FROM victim"
        }
        // Never recorded: the relay may already have published an event that is deleted here. The order is locked until it is
        // due, so that no pod closes it before.
        Crime::OrderClosedWithoutEvent => {
            "WITH locked AS MATERIALIZED (
                 SELECT * FROM orders
                 WHERE status = 'PENDING' AND payment_deadline BETWEEN now() + interval '50 ms' AND now() + interval '1 s'
                 LIMIT 1 FOR UPDATE SKIP LOCKED),
             due AS MATERIALIZED (
                 SELECT order_id, pg_sleep(extract(epoch FROM payment_deadline - clock_timestamp()) + 0.01) FROM locked),
             victim AS (UPDATE orders SET status = 'CLOSED', closed_at = clock_timestamp()
                 FROM due WHERE orders.order_id = due.order_id RETURNING orders.order_id)
             UPDATE inventory SET stock = stock + quantity
             FROM order_items JOIN victim USING (order_id) WHERE inventory.product_id = order_items.product_id"
        }
        Crime::EventOfAnOrderThatIsNotClosed => {
            "INSERT INTO outbox (kind, order_ids, deadlines, user_ids)
             SELECT 'order.closed', ARRAY[order_id], ARRAY[payment_deadline], ARRAY[user_id]
             FROM orders WHERE status = 'PAID' ORDER BY order_id DESC OFFSET 1 LIMIT 1"
        }
        Crime::SecondEventOfAClose => {
            "INSERT INTO outbox (kind, order_ids, deadlines, user_ids)
             SELECT 'order.closed', ARRAY[order_id], ARRAY[payment_deadline], ARRAY[user_id]
             FROM orders WHERE status = 'CLOSED' LIMIT 1"
        }
        Crime::StockLost => "UPDATE inventory SET stock = stock - 1 WHERE product_id = 1",
        Crime::StockGivenBackTwice => {
            "UPDATE inventory SET stock = stock + quantity FROM order_items
             WHERE order_items.product_id = inventory.product_id
               AND order_id = (SELECT min(order_id) FROM orders WHERE status = 'CLOSED')"
        }
        Crime::OrderGone => {
            "WITH victim AS (SELECT order_id FROM orders WHERE status = 'PAID' ORDER BY order_id DESC LIMIT 1),
             items AS (DELETE FROM order_items USING victim WHERE order_items.order_id = victim.order_id)
             DELETE FROM orders USING victim WHERE orders.order_id = victim.order_id"
        }
        Crime::WakeLost => {
            // All of them: one alone may be of an order that is paid in time, or that was announced twice.
            let lost = until(async || arena.till.broker.take("order.delay.2s.queue", 1_000).await.map(|m| m.len() as u64));
            return lost.await;
        }
        Crime::MalformedMessageDropped => {
            let lost = until(async || arena.till.broker.take("order.parked.queue", 1).await.map(|m| m.len() as u64));
            return lost.await;
        }
        Crime::ParkedMessageStripped => {
            let broker = &arena.till.broker;
            let stripped = until(async || {
                let Some(taken) = broker.take("order.parked.queue", 1).await?.pop() else { return Ok(0) };
                broker.publish_until_confirmed("order.parked", &taken.data, lapin::BasicProperties::default()).await?;
                Ok(1)
            });
            return stripped.await;
        }
    };
    until(async || {
        let mut transaction = arena.pool().begin().await?;
        let done = transaction.execute(done).await?.rows_affected();
        transaction.commit().await?;
        Ok(done)
    })
    .await
}

/// Tries until something has been done.
async fn until(deed: impl AsyncFn() -> Result<u64>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while deed().await? == 0 {
        ensure!(Instant::now() < deadline, "no opportunity");
        sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

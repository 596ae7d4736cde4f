//! Announces waiting orders again. After a purge, on a new broker or under a new prefix, nothing else would wake them.

use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::database::{Database, DatabaseError, bounded};

/// Orders in one outbox row, as in the triggers: this bounds what the relay reads at once.
const TOGETHER: i64 = 500;

/// Records a wake for every PENDING order, by deadline; the relay publishes them. Returns how many there were; `progress` is
/// called with the count so far.
///
/// Announcing an order twice is harmless: it has two wakes, and the second finds it closed or paid. An order that is placed
/// meanwhile has its own wake.
///
/// # Errors
/// When the database cannot be reached, does not answer in time, or refuses the statement. The wakes
/// recorded by then stay; announcing everything again is harmless.
pub async fn announce(pool: &Database, progress: impl FnMut(u64)) -> Result<u64, DatabaseError> {
    let mut announced = Announced::default();
    announced.the_rest(pool, progress).await?;
    Ok(announced.count)
}

/// How far announcing has come, so that it resumes there after an error.
struct Announced {
    after: (OffsetDateTime, i64),
    count: u64,
}

impl Default for Announced {
    fn default() -> Self {
        Self { after: (OffsetDateTime::UNIX_EPOCH, 0), count: 0 }
    }
}

impl Announced {
    async fn the_rest(
        &mut self,
        pool: &Database,
        mut progress: impl FnMut(u64),
    ) -> Result<(), DatabaseError> {
        loop {
            let page = sqlx::query!(
                r#"WITH page AS MATERIALIZED (
                       SELECT order_id, payment_deadline FROM orders
                       WHERE status = 'PENDING' AND (payment_deadline, order_id) > ($1, $2)
                       ORDER BY payment_deadline, order_id LIMIT $3
                   ), recorded AS (
                       INSERT INTO outbox (kind, order_ids, deadlines)
                       SELECT 'wake', pg_catalog.array_agg(order_id), pg_catalog.array_agg(payment_deadline) FROM page
                       HAVING pg_catalog.count(*) > 0
                   )
                   SELECT order_id, payment_deadline, (SELECT pg_catalog.count(*) FROM page) AS "orders!"
                   FROM page ORDER BY payment_deadline DESC, order_id DESC LIMIT 1"#,
                self.after.0,
                self.after.1,
                TOGETHER
            );
            let Some(last) = bounded("announcing waiting orders", page.fetch_optional(pool)).await? else {
                return Ok(());
            };
            self.after = (last.payment_deadline, last.order_id);
            self.count += u64::try_from(last.orders).unwrap_or(0);
            progress(self.count);
        }
    }
}

/// Wait between two attempts to announce waiting orders while the database is away.
const AGAIN: Duration = Duration::from_secs(1);

/// Announces all waiting orders whenever queues that hold wakes were created; runs until it is dropped.
pub async fn announce_when_created(created: &Notify, pool: &Database) {
    loop {
        created.notified().await;
        let mut announced = Announced::default();
        let mut unfinished = Unfinished(true);
        while let Err(error) = announced.the_rest(pool, |_| {}).await {
            tracing::warn!(event = "announce_incomplete", %error, orders = announced.count, "not all waiting orders could be announced yet");
            sleep(AGAIN).await;
        }
        unfinished.0 = false;
        if announced.count > 0 {
            tracing::warn!(
                event = "announced",
                orders = announced.count,
                "announced all waiting orders again: queues that hold their wakes were missing and have been created"
            );
        }
    }
}

/// Says on being dropped that announcing was cut short: the queues exist now, so no other pod announces the rest.
struct Unfinished(bool);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if self.0 {
            tracing::warn!(
                event = "announce_interrupted",
                "stopped before all waiting orders were announced again: the sweep closes the rest; `overdue announce` gives them \
                 wakes"
            );
        }
    }
}

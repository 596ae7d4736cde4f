//! Announces waiting orders again: after a purge, on a new broker, under a new prefix, nothing else would wake them.

use sqlx::PgPool;
use time::OffsetDateTime;

use crate::database::{DatabaseError, bounded};

/// Orders in one outbox row, as the triggers write them: it bounds what the relay reads at once.
const TOGETHER: i64 = 500;

/// Records a wake for every order that is PENDING, the next ones due first; the relay publishes them. Returns how many there
/// were; `progress` is called with the count so far.
///
/// Announced twice, an order has two wakes, of which the second finds it closed or paid: that is harmless. An order that
/// is placed meanwhile has its own wake.
///
/// # Errors
/// As the database's. What was recorded before stays; to announce everything again is harmless.
pub async fn announce(pool: &PgPool, mut progress: impl FnMut(u64)) -> Result<u64, DatabaseError> {
    let (mut after, mut count) = ((OffsetDateTime::UNIX_EPOCH, 0), 0);
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
            after.0,
            after.1,
            TOGETHER
        );
        let Some(last) = bounded("announcing waiting orders", page.fetch_optional(pool)).await? else {
            return Ok(count);
        };
        after = (last.payment_deadline, last.order_id);
        count += u64::try_from(last.orders).unwrap_or(0);
        progress(count);
    }
}

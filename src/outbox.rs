//! The outbox table: what transactions recorded for the broker.

use sqlx::PgPool;

use crate::clock::{DbClock, DbTime};
use crate::database::{DatabaseError, bounded};

/// One row: a wake or an event, for one or many orders.
#[derive(Debug)]
pub struct Row {
    /// Its place in the order of recording.
    pub id: i64,
    /// What it tells.
    pub kind: Kind,
    /// When the transaction that recorded it began.
    pub recorded_at: DbTime,
    /// Its orders, with their deadlines and, for events, their buyers.
    pub orders: Vec<(i64, DbTime, i64)>,
}

/// What a row tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Look at these orders at their deadlines.
    Wake,
    /// Tell the shop; the text is the event's type.
    Event(String),
}

/// The oldest rows.
///
/// # Errors
/// As the database's.
pub async fn read(pool: &PgPool, most: i64, clock: &DbClock) -> Result<Vec<Row>, DatabaseError> {
    let sent = tokio::time::Instant::now();
    let rows = sqlx::query!(
        r#"SELECT id, kind, recorded_at, order_ids, deadlines, user_ids, clock_timestamp() AS "now!"
           FROM outbox ORDER BY id LIMIT $1"#,
        most
    );
    let rows = bounded("reading the outbox", rows.fetch_all(pool)).await?;
    if let Some(row) = rows.last() {
        clock.observe(sent, tokio::time::Instant::now(), row.now.into());
    }
    Ok(rows
        .into_iter()
        .map(|row| {
            let users = row.user_ids.into_iter().flatten().chain(std::iter::repeat(0));
            let orders = row.order_ids.into_iter().zip(row.deadlines).zip(users);
            Row {
                id: row.id,
                kind: if row.kind == "wake" { Kind::Wake } else { Kind::Event(row.kind) },
                recorded_at: row.recorded_at.into(),
                orders: orders.map(|((order, deadline), user)| (order, deadline.into(), user)).collect(),
            }
        })
        .collect())
}

/// Deletes rows that have been published.
///
/// # Errors
/// As the database's. The rows are published again then, which is harmless.
pub async fn delete(pool: &PgPool, ids: &[i64]) -> Result<(), DatabaseError> {
    // Fewer rows than ids is no error: a relay that was leader until a moment ago may have deleted them.
    let delete = sqlx::query!("DELETE FROM outbox WHERE id = ANY ($1)", ids);
    bounded("deleting from the outbox", delete.execute(pool)).await?;
    Ok(())
}

//! The outbox table: what transactions recorded for the broker.

use std::time::Duration;

use sqlx::PgConnection;

use crate::clock::{DbClock, DbTime};
use crate::database::{DatabaseError, bounded, within};

/// One row: a wake or an event, for one or many orders.
#[derive(Debug)]
pub struct Row {
    /// Its place in the order of recording.
    pub id: i64,
    /// `wake`, or the event's type.
    pub kind: String,
    /// When the transaction that recorded it began.
    pub recorded_at: DbTime,
    /// Its orders, with their deadlines and, for events, their buyers.
    pub orders: Vec<(i64, DbTime, i64)>,
}

/// The oldest wakes, at most `rows` rows and, but for the last of them, `orders` orders.
///
/// # Errors
/// As the database's.
pub async fn wakes(
    connection: &mut PgConnection,
    rows: i64,
    orders: i64,
    clock: &DbClock,
) -> Result<Vec<Row>, DatabaseError> {
    read(connection, true, rows, orders, clock).await
}

/// The oldest events, at most `rows` rows and, but for the last of them, `orders` orders.
///
/// # Errors
/// As the database's.
pub async fn events(
    connection: &mut PgConnection,
    rows: i64,
    orders: i64,
    clock: &DbClock,
) -> Result<Vec<Row>, DatabaseError> {
    read(connection, false, rows, orders, clock).await
}

/// Longest wait for what stands behind no lock and no disk's flush. The relay keeps its connection, and wakes wait meanwhile
/// when that has gone silent.
const READ: Duration = Duration::from_secs(2);

async fn read(
    connection: &mut PgConnection,
    wakes: bool,
    rows: i64,
    orders: i64,
    clock: &DbClock,
) -> Result<Vec<Row>, DatabaseError> {
    let sent = tokio::time::Instant::now();
    let rows = sqlx::query!(
        r#"SELECT id, kind, recorded_at, order_ids, deadlines, user_ids, clock_timestamp() AS "now!"
           FROM (SELECT *, sum(cardinality(order_ids)) OVER (ORDER BY id) - cardinality(order_ids) AS before
                 FROM (SELECT * FROM outbox WHERE is_wake = $1 ORDER BY id LIMIT $2) AS oldest) AS counted
           WHERE before < $3 ORDER BY id"#,
        wakes,
        rows,
        orders
    );
    let rows = within(READ, "reading the outbox", rows.fetch_all(connection)).await?;
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
                kind: row.kind,
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
pub async fn delete(connection: &mut PgConnection, ids: &[i64]) -> Result<(), DatabaseError> {
    // Fewer rows than ids is no error: a relay that was leader until a moment ago may have deleted them.
    let delete = sqlx::query!("DELETE FROM outbox WHERE is_wake IN (true, false) AND id = ANY ($1)", ids);
    bounded("deleting from the outbox", delete.execute(connection)).await?;
    Ok(())
}

/// Whether a pod, this or another, is closing a large batch now: the first of their places, see `close.sql`, is taken.
///
/// # Errors
/// As the database's.
pub async fn large_batch_at_work(connection: &mut PgConnection) -> Result<bool, DatabaseError> {
    let taken = sqlx::query_scalar!(
        r#"SELECT NOT pg_try_advisory_xact_lock_shared(1331053906 + 101, 'outbox'::regclass::oid::int4) AS "taken!""#
    );
    within(READ, "asking who closes", taken.fetch_one(connection)).await
}

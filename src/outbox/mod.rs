//! The outbox table: what transactions recorded for the broker.

pub mod announce;
mod mark;
pub mod refused;

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgExecutor;
use tokio::time::Instant;

pub use self::mark::Mark;
use crate::clock::{DbClock, DbTime};
use crate::database::locks::FIRST_CLOSING_SLOT;
use crate::database::{ANSWER, DatabaseError, bounded, within};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Wakes, for the lanes.
    Wakes,
    /// Events, for subscribers.
    Events,
}

/// One row: a wake or an event, for one or many orders.
#[derive(Debug)]
pub struct Row {
    /// Its place in the order of recording.
    pub id: i64,
    /// `wake`, or the event's type.
    pub kind: Arc<str>,
    /// When the transaction that recorded it began.
    pub recorded_at: DbTime,
    /// Its orders, with their deadlines and, for events, their buyers.
    pub orders: Vec<(i64, DbTime, i64)>,
}

/// The result of one look.
#[derive(Debug)]
pub struct Look {
    /// The rows, in the order of recording.
    pub rows: Vec<Row>,
    /// Ids of rows that cannot be read. They stay in the table.
    pub unreadable: Vec<i64>,
    /// Whether there are probably more.
    pub more: bool,
    pub took: Duration,
    last: Option<i64>,
    snapshot: String,
    drawn: Option<i64>,
}

impl Look {
    /// Number of orders in all rows.
    #[must_use]
    pub fn orders(&self) -> usize {
        self.rows.iter().map(|row| row.orders.len()).sum()
    }

    #[must_use]
    pub fn ids(&self) -> Vec<i64> {
        self.rows.iter().map(|row| row.id).collect()
    }

    /// Moves the mark past what was found. Call it once all of that is relayed and deleted, or kept by the caller.
    pub fn relayed(&self, mark: &mut Mark) {
        mark.pass(self.last, self.more, &self.snapshot, self.drawn);
    }
}

/// The limits of one look.
#[derive(Clone, Copy, Debug)]
pub struct Most {
    pub rows: i64,
    /// The last row may exceed this.
    pub orders: i64,
}

impl Mark {
    /// How long to wait before the next look. While looks must begin with the oldest row, because nothing was relayed yet and the
    /// last id cannot be asked for, they take at most a fiftieth of the time.
    #[must_use]
    pub fn rest(&self, poll: Duration, took: Duration) -> Duration {
        if self.nowhere() { poll.max(took * 50) } else { poll }
    }
}

/// Longest wait for a statement that waits for no lock and no flush to disk. The relay keeps its connection, and if that has
/// died unnoticed, wakes wait for this long.
const READ: Duration = Duration::from_secs(2);

const _: () = assert!(READ.as_millis() < ANSWER.as_millis());

/// Looks for the oldest rows of a kind past the mark.
///
/// # Errors
/// When the database cannot be reached, does not answer in time, or refuses the statement.
pub async fn look(
    on: impl PgExecutor<'_>,
    kind: Kind,
    mark: &mut Mark,
    most: Most,
    clock: &DbClock,
) -> Result<Look, DatabaseError> {
    let sent = Instant::now();
    let begin = mark.begin(sent);
    let found = sqlx::query_file!(
        "src/outbox/look.sql",
        kind == Kind::Wakes,
        most.rows,
        most.orders,
        begin.id,
        &begin.transactions,
        &begin.positions,
        begin.asks
    );
    // A full look may scan many deleted rows that vacuum has not removed yet.
    let bound = if begin.full { ANSWER } else { READ };
    let found = within(bound, "reading the outbox", found.fetch_all(on)).await?;
    let answered = Instant::now();
    if begin.full {
        mark.looked_fully(answered, answered - sent);
    }
    if let Some(row) = found.last() {
        clock.observe(sent, answered, row.now.into());
    }
    let mut look = Look {
        rows: Vec::new(),
        unreadable: Vec::new(),
        more: false,
        took: answered - sent,
        last: None,
        snapshot: String::new(),
        drawn: None,
    };
    for row in found {
        look.snapshot = row.snapshot.unwrap_or(look.snapshot);
        look.drawn = row.drawn;
        let (Some(id), Some(kind)) = (row.id, row.kind) else { continue };
        look.last = Some(id);
        let (Some(recorded_at), Some(orders), Some(deadlines)) =
            (row.recorded_at, row.order_ids, row.deadlines)
        else {
            look.unreadable.push(id);
            continue;
        };
        let users = row.user_ids.into_iter().flatten().chain(std::iter::repeat(0));
        let orders = orders.into_iter().zip(deadlines).zip(users);
        let orders = orders.map(|((order, deadline), user)| (order, deadline.into(), user)).collect();
        look.rows.push(Row { id, kind: kind.into(), recorded_at: recorded_at.into(), orders });
    }
    let reached = |count, most| i64::try_from(count).is_ok_and(|count: i64| count >= most);
    look.more =
        reached(look.rows.len() + look.unreadable.len(), most.rows) || reached(look.orders(), most.orders);
    Ok(look)
}

/// Deletes wakes that have been published.
///
/// # Errors
/// When the database cannot be reached, does not answer in time, or refuses the statement. The rows
/// are published again then, which is harmless.
pub async fn delete_wakes(on: impl PgExecutor<'_>, ids: &[i64]) -> Result<(), DatabaseError> {
    // Fewer rows than ids is no error: a relay that led until a moment ago may have deleted them.
    let (first, last) = span(ids);
    let delete = sqlx::query_file!("src/outbox/delete_wakes.sql", ids, first, last);
    bounded("deleting from the outbox", delete.execute(on)).await?;
    Ok(())
}

/// The lowest and the highest of these ids.
fn span(ids: &[i64]) -> (i64, i64) {
    let (first, last) = (ids.iter().min(), ids.iter().max());
    (first.copied().unwrap_or_default(), last.copied().unwrap_or_default())
}

/// Whether this or another pod is closing a large batch now: the first slot is taken then (see `close.sql`).
///
/// # Errors
/// When the database cannot be reached, does not answer in time, or refuses the statement.
pub async fn large_batch_at_work(on: impl PgExecutor<'_>) -> Result<bool, DatabaseError> {
    let taken = sqlx::query_scalar!(
        r#"SELECT NOT pg_catalog.pg_try_advisory_xact_lock_shared($1, 'outbox'::regclass::oid::int4) AS "taken!""#,
        FIRST_CLOSING_SLOT
    );
    within(READ, "asking whether a large batch is being closed", taken.fetch_one(on)).await
}

//! The outbox table: what transactions recorded for the broker.

pub mod announce;
mod mark;
pub mod refused;

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgConnection;
use tokio::time::Instant;

pub use self::mark::Mark;
use crate::clock::{DbClock, DbTime};
use crate::database::locks::FIRST_CLOSING_SLOT;
use crate::database::{ANSWER, DatabaseError, bounded, within};

/// Which rows.
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

/// What a look has found.
#[derive(Debug)]
pub struct Look {
    /// The rows, in the order of recording.
    pub rows: Vec<Row>,
    /// Rows that cannot be read. They stay where they are.
    pub unreadable: Vec<i64>,
    /// Whether there are probably more.
    pub more: bool,
    /// How long the look took.
    pub took: Duration,
    last: Option<i64>,
    snapshot: String,
    drawn: Option<i64>,
}

impl Look {
    /// Orders of all rows.
    #[must_use]
    pub fn orders(&self) -> usize {
        self.rows.iter().map(|row| row.orders.len()).sum()
    }

    /// The ids of all rows.
    #[must_use]
    pub fn ids(&self) -> Vec<i64> {
        self.rows.iter().map(|row| row.id).collect()
    }

    /// Moves the mark past what was found; to be called when all of it is relayed and deleted.
    pub fn relayed(&self, mark: &mut Mark) {
        mark.pass(self.last, self.more, &self.snapshot, self.drawn);
    }
}

/// The most that one look finds.
#[derive(Clone, Copy, Debug)]
pub struct Most {
    /// Rows.
    pub rows: i64,
    /// Orders, but for the last row.
    pub orders: i64,
}

impl Mark {
    /// How long to wait before the next look. Where looks must begin with the oldest row, because nothing was relayed yet and the
    /// last id cannot be asked for, they take a fiftieth of the time at most.
    #[must_use]
    pub fn rest(&self, poll: Duration, took: Duration) -> Duration {
        if self.nowhere() { poll.max(took * 50) } else { poll }
    }
}

/// Longest wait for what stands behind no lock and no disk's flush. The relay keeps its connection, and wakes wait meanwhile
/// when that has gone silent.
const READ: Duration = Duration::from_secs(2);

const _: () = assert!(READ.as_millis() < ANSWER.as_millis());

/// Looks for the oldest rows of a kind past the mark.
///
/// # Errors
/// Those of the database.
pub async fn look(
    connection: &mut PgConnection,
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
    // A full look may meet many rows that are deleted and not yet removed.
    let bound = if begin.full { ANSWER } else { READ };
    let found = within(bound, "reading the outbox", found.fetch_all(connection)).await?;
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
/// Those of the database. The rows are published again then, which is harmless.
pub async fn delete_wakes(connection: &mut PgConnection, ids: &[i64]) -> Result<(), DatabaseError> {
    // Fewer rows than ids is no error: a relay that was leader until a moment ago may have deleted them.
    let (first, last) = span(ids);
    let delete = sqlx::query_file!("src/outbox/delete_wakes.sql", ids, first, last);
    bounded("deleting from the outbox", delete.execute(connection)).await?;
    Ok(())
}

/// The first and the last of these ids.
fn span(ids: &[i64]) -> (i64, i64) {
    let (first, last) = (ids.iter().min(), ids.iter().max());
    (first.copied().unwrap_or_default(), last.copied().unwrap_or_default())
}

/// Whether a pod, this or another, is closing a large batch now: the first of their slots, see `close.sql`, is taken.
///
/// # Errors
/// Those of the database.
pub async fn large_batch_at_work(connection: &mut PgConnection) -> Result<bool, DatabaseError> {
    let taken = sqlx::query_scalar!(
        r#"SELECT NOT pg_catalog.pg_try_advisory_xact_lock_shared($1, 'outbox'::regclass::oid::int4) AS "taken!""#,
        FIRST_CLOSING_SLOT
    );
    within(READ, "asking who closes", taken.fetch_one(connection)).await
}

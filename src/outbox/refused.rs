//! Events that could not be published yet, one row for each order: refused or not confirmed by the broker, or waiting behind
//! such an event.

use std::sync::Arc;

use sqlx::PgExecutor;

use super::Look;
use crate::clock::DbTime;
use crate::database::{Connected, DatabaseError, Session, bounded};
use crate::wire::event::Event;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderEvent {
    /// Its place in the order of recording.
    pub outbox_id: i64,
    /// `order.closed` or another event type.
    pub kind: Arc<str>,
    /// When the transaction that recorded it began.
    pub recorded_at: DbTime,
    pub order_id: i64,
    pub payment_deadline: DbTime,
    /// The buyer.
    pub user_id: i64,
}

impl OrderEvent {
    /// The event as it is published.
    #[must_use]
    pub fn event(&self) -> Event<'_> {
        let Self { ref kind, recorded_at: at, order_id, payment_deadline, user_id, .. } = *self;
        Event { kind, at, order_id, user_id, payment_deadline }
    }
}

/// The events that a look has found, one for each order, in the order of recording.
#[must_use]
pub fn events(look: &Look) -> Vec<OrderEvent> {
    let mut events = Vec::with_capacity(look.orders());
    for row in &look.rows {
        events.extend(row.orders.iter().map(|&(order_id, payment_deadline, user_id)| OrderEvent {
            outbox_id: row.id,
            kind: Arc::clone(&row.kind),
            recorded_at: row.recorded_at,
            order_id,
            payment_deadline,
            user_id,
        }));
    }
    events
}

/// Why an event could not be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The broker refused it: a queue to which the event is routed is full or has no leader.
    Refused,
    /// The broker did not confirm it in time: perhaps a queue to which the event is routed has lost the majority of its nodes.
    Unconfirmed,
    /// Not tried: an earlier event of its order was refused, or the broker does not confirm events of its type.
    Waits,
}

impl Why {
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Refused => {
                "a queue to which it is routed is full and refuses it (x-overflow=reject-publish), or has no leader"
            }
            Self::Unconfirmed => {
                "a queue to which it is routed does not confirm it; has the queue lost the majority of its nodes?"
            }
            Self::Waits => "it waits for an earlier event of its order, or until its type is confirmed again",
        }
    }

    fn attempts(self) -> i32 {
        i32::from(self != Self::Waits)
    }
}

/// Deletes the rows that a look has found, and keeps the events that could not be published.
///
/// # Errors
/// When the database cannot be reached, does not answer in time, or refuses the statement. No row of the
/// outbox is deleted then, and all events are published again, which is harmless; those that were kept are held back.
pub async fn record(
    connection: &mut Session<impl Connected>,
    ids: &[i64],
    untold: &[(OrderEvent, Why)],
) -> Result<(), DatabaseError> {
    if !untold.is_empty() {
        keep(&mut *connection, untold).await?;
    }
    let (first, last) = super::span(ids);
    let delete = sqlx::query_file!("src/outbox/delete_events.sql", ids, first, last);
    bounded("deleting from the outbox", delete.execute(connection)).await?;
    Ok(())
}

async fn keep(on: impl PgExecutor<'_>, untold: &[(OrderEvent, Why)]) -> Result<(), DatabaseError> {
    let events = untold.iter().map(|(event, _)| event);
    let keep = sqlx::query!(
        "INSERT INTO refused_events (order_id, outbox_id, kind, recorded_at, payment_deadline, user_id, attempts,
                                     next_try_at, reason)
         SELECT order_id, outbox_id, kind, recorded_at, payment_deadline, user_id, attempts,
                pg_catalog.now() + pg_catalog.make_interval(secs => attempts), reason
         FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::bigint[],
                     $7::integer[], $8::text[])
              AS e (order_id, outbox_id, kind, recorded_at, payment_deadline, user_id, attempts, reason)
         ON CONFLICT DO NOTHING",
        &events.clone().map(|event| event.order_id).collect::<Vec<_>>(),
        &events.clone().map(|event| event.outbox_id).collect::<Vec<_>>(),
        &events.clone().map(|event| event.kind.to_string()).collect::<Vec<_>>(),
        &events.clone().map(|event| event.recorded_at.into()).collect::<Vec<_>>(),
        &events.clone().map(|event| event.payment_deadline.into()).collect::<Vec<_>>(),
        &events.clone().map(|event| event.user_id).collect::<Vec<_>>(),
        &untold.iter().map(|(_, why)| why.attempts()).collect::<Vec<_>>(),
        &untold.iter().map(|(_, why)| why.reason().to_owned()).collect::<Vec<_>>()
    );
    bounded("keeping events that could not be published", keep.execute(on)).await?;
    Ok(())
}

/// Which of these orders have an event that could not be published yet.
///
/// # Errors
/// When the database cannot be reached, does not answer in time, or refuses the statement.
pub async fn held_back(on: impl PgExecutor<'_>, orders: &[i64]) -> Result<Vec<i64>, DatabaseError> {
    let held = sqlx::query_scalar!("SELECT order_id FROM refused_events WHERE order_id = ANY ($1)", orders);
    bounded("asking for refused events", held.fetch_all(on)).await
}

/// An event that is due for a retry.
#[derive(Clone, Debug)]
pub struct Due {
    pub event: OrderEvent,
    /// Whether an earlier event of its order is not published yet.
    pub behind: bool,
}

/// The events that are due for a retry, the longest due first.
///
/// # Errors
/// When the database cannot be reached, does not answer in time, or refuses the statement.
pub async fn due(on: impl PgExecutor<'_>, most: usize) -> Result<Vec<Due>, DatabaseError> {
    let rows = sqlx::query!(
        r#"SELECT order_id, outbox_id, kind, recorded_at, payment_deadline, user_id,
                  EXISTS (SELECT FROM refused_events AS earlier
                          WHERE earlier.order_id = due.order_id AND earlier.outbox_id < due.outbox_id) AS "behind!"
           FROM (SELECT * FROM refused_events WHERE next_try_at <= pg_catalog.now() ORDER BY next_try_at LIMIT $1) AS due
           ORDER BY next_try_at"#,
        i64::try_from(most).unwrap_or(i64::MAX)
    );
    let rows = bounded("reading refused events", rows.fetch_all(on)).await?;
    let due = rows.into_iter().map(|row| Due {
        event: OrderEvent {
            outbox_id: row.outbox_id,
            kind: row.kind.into(),
            recorded_at: row.recorded_at.into(),
            order_id: row.order_id,
            payment_deadline: row.payment_deadline.into(),
            user_id: row.user_id,
        },
        behind: row.behind,
    });
    Ok(due.collect())
}

/// Records what became of retried events. A published event is deleted, and the events behind it are due at once. A refused
/// event waits twice as long as before, from a second to about four minutes. An event behind another one waits for that, or
/// ten seconds.
///
/// # Errors
/// When the database cannot be reached, does not answer in time, or refuses the statement. All of them
/// are retried then, which is harmless.
pub async fn settle_again(
    connection: &mut Session,
    told: &[&OrderEvent],
    refused: &[(&OrderEvent, Why)],
    behind: &[&OrderEvent],
) -> Result<(), DatabaseError> {
    const DOING: &str = "settling refused events";
    let keys = |events: &mut dyn Iterator<Item = &OrderEvent>| -> (Vec<i64>, Vec<i64>) {
        events.map(|event| (event.order_id, event.outbox_id)).unzip()
    };
    // Postponed first, because a published event, below, makes the events behind it due at once.
    let (orders, ids) = keys(&mut behind.iter().copied());
    let postpone = sqlx::query!(
        "UPDATE refused_events SET next_try_at = pg_catalog.now() + interval '10 s'
         FROM unnest($1::bigint[], $2::bigint[]) AS behind (order_id, outbox_id)
         WHERE refused_events.order_id = behind.order_id AND refused_events.outbox_id = behind.outbox_id
           AND EXISTS (SELECT FROM refused_events AS earlier
                       WHERE earlier.order_id = behind.order_id AND earlier.outbox_id < behind.outbox_id)",
        &orders,
        &ids
    );
    bounded(DOING, postpone.execute(&mut *connection)).await?;
    let (orders, ids) = keys(&mut told.iter().copied());
    let delete = sqlx::query!(
        "DELETE FROM refused_events USING unnest($1::bigint[], $2::bigint[]) AS told (order_id, outbox_id)
         WHERE refused_events.order_id = told.order_id AND refused_events.outbox_id = told.outbox_id",
        &orders,
        &ids
    );
    bounded(DOING, delete.execute(&mut *connection)).await?;
    let next = sqlx::query!(
        "UPDATE refused_events SET next_try_at = pg_catalog.now() WHERE order_id = ANY ($1) AND next_try_at > pg_catalog.now()",
        &orders
    );
    bounded(DOING, next.execute(&mut *connection)).await?;
    let (orders, ids) = keys(&mut refused.iter().map(|(event, _)| *event));
    let reasons: Vec<_> = refused.iter().map(|(_, why)| why.reason().to_owned()).collect();
    let later = sqlx::query!(
        "UPDATE refused_events
         SET attempts = attempts + 1, next_try_at = pg_catalog.now() + pg_catalog.make_interval(secs => 1 << LEAST(attempts, 8)), reason = refused.reason
         FROM unnest($1::bigint[], $2::bigint[], $3::text[]) AS refused (order_id, outbox_id, reason)
         WHERE refused_events.order_id = refused.order_id AND refused_events.outbox_id = refused.outbox_id",
        &orders,
        &ids,
        &reasons
    );
    bounded(DOING, later.execute(connection)).await?;
    Ok(())
}

/// How many events wait to be published.
///
/// # Errors
/// When the database cannot be reached, does not answer in time, or refuses the statement.
pub async fn waiting(on: impl PgExecutor<'_>) -> Result<i64, DatabaseError> {
    let waiting = sqlx::query_scalar!(r#"SELECT pg_catalog.count(*) AS "waiting!" FROM refused_events"#);
    bounded("counting refused events", waiting.fetch_one(on)).await
}

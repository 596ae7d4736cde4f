//! Runs one closing statement, and finds out why it left orders open.

use std::collections::{HashMap, HashSet};

use sqlx::PgExecutor;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::memory::Failure;
use super::{Closer, LARGE_BATCH, Verdict};
use crate::clock::DbTime;
use crate::database::locks::CLOSING_SLOTS;
use crate::database::{DatabaseError, Session, bounded};

/// `doing` of an error that occurred before there was a connection.
pub(super) const CONNECTING: &str = "connecting to close orders";

impl Closer {
    /// Returns a verdict or a failure for each order; `None` when no slot was free.
    pub(super) async fn close_part(
        &self,
        order_ids: &[i64],
        bound: Option<&'static str>,
    ) -> Result<Option<Vec<(i64, Result<Verdict, Failure>)>>, DatabaseError> {
        let connect = self.warm.take().await;
        let mut connection = connect.map_err(DatabaseError::during(CONNECTING))?;
        let closed = self.verdicts(&mut connection, order_ids, bound).await;
        // The server reports an error before it releases the failed statement's locks, which would block other parts of the batch.
        let released = match &closed {
            Ok(_) => true,
            Err(DatabaseError { source: sqlx::Error::Database(_), .. }) => connection.is_free().await,
            Err(_) => false,
        };
        if released {
            self.warm.keep(connection);
        }
        closed
    }

    async fn verdicts(
        &self,
        connection: &mut Session,
        order_ids: &[i64],
        bound: Option<&'static str>,
    ) -> Result<Option<Vec<(i64, Result<Verdict, Failure>)>>, DatabaseError> {
        let closed = match bound {
            None => self.close_on(&mut *connection, order_ids).await?,
            Some(limit) => {
                let mut transaction = bounded("beginning to close", connection.begin(limit)).await?;
                let closed = self.close_on(&mut transaction, order_ids).await?;
                bounded("closing orders", transaction.commit()).await?;
                closed
            }
        };
        let Some(closed) = closed else { return Ok(None) };
        let committed = self.clock.now();
        self.stats.closed(closed.deadlines.iter().map(|deadline| committed.since(*deadline)));
        let mut verdicts = closed.verdicts;
        if verdicts.len() < order_ids.len() {
            let known: HashSet<_> = verdicts.iter().map(|(id, _)| *id).collect();
            let rest = order_ids.iter().copied().filter(|id| !known.contains(id)).collect();
            let explained = self.explain(rest, connection).await?;
            verdicts.extend(explained.into_iter().map(|(id, verdict)| match verdict {
                // The statement locked the order and did not close it.
                Verdict::Locked if closed.picked.contains(&id) => (id, Err(Failure::kept_by_a_trigger(id))),
                verdict => (id, Ok(verdict)),
            }));
        }
        Ok(Some(verdicts))
    }

    async fn close_on(
        &self,
        on: impl PgExecutor<'_>,
        order_ids: &[i64],
    ) -> Result<Option<Closed>, DatabaseError> {
        let sent = Instant::now();
        let large = order_ids.len() >= LARGE_BATCH;
        let closed =
            sqlx::query_file!("src/closing/close.sql", order_ids, self.at_once, large, CLOSING_SLOTS);
        let closed = bounded("closing orders", closed.fetch_one(on)).await?;
        self.clock.observe(sent, Instant::now(), closed.answered_at.into());
        if !closed.ours {
            return Ok(None);
        }
        let mut verdicts: Vec<_> = closed.order_ids.into_iter().map(|id| (id, Ok(Verdict::Closed))).collect();
        let others = closed.others.into_iter().zip(closed.others_deadlines);
        verdicts.extend(others.map(|(id, deadline)| match deadline {
            None => (id, Ok(Verdict::NotPending)),
            Some(deadline) => (id, Ok(Verdict::NotDue { deadline: deadline.into() })),
        }));
        let deadlines = closed.deadlines.into_iter().map(DbTime::from).collect();
        Ok(Some(Closed { verdicts, deadlines, picked: closed.picked }))
    }

    /// Finds out why these orders were not closed: another transaction has locked or changed them, or they do not exist. A
    /// second statement on purpose: it sees what was committed in between.
    async fn explain(
        &self,
        order_ids: Vec<i64>,
        connection: &mut Session,
    ) -> Result<HashMap<i64, Verdict>, DatabaseError> {
        let sent = Instant::now();
        let rows = sqlx::query!(
            r#"SELECT order_id, status = 'PENDING' AS "pending!", payment_deadline, pg_catalog.clock_timestamp() AS "now!"
               FROM orders WHERE order_id = ANY ($1)"#,
            &order_ids
        );
        let rows = bounded("asking why orders were not closed", rows.fetch_all(connection)).await?;
        if let Some(row) = rows.first() {
            self.clock.observe(sent, Instant::now(), row.now.into());
        }
        let mut verdicts: HashMap<_, _> = order_ids.into_iter().map(|id| (id, Verdict::Unknown)).collect();
        for row in rows {
            let verdict = match (row.pending, row.payment_deadline > row.now) {
                (false, _) => Verdict::NotPending,
                (true, true) => Verdict::NotDue { deadline: row.payment_deadline.into() },
                (true, false) => Verdict::Locked,
            };
            verdicts.insert(row.order_id, verdict);
        }
        Ok(verdicts)
    }
}

struct Closed {
    verdicts: Vec<(i64, Result<Verdict, Failure>)>,
    deadlines: Vec<DbTime>,
    /// Orders that the statement locked to close them; empty if it closed them all.
    picked: Vec<i64>,
}

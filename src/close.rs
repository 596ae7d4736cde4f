//! Closes a batch of orders and says what became of each.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{PgPool, Postgres};
use time::OffsetDateTime;
use tokio::time::{Instant, sleep};

use crate::clock::{DbClock, DbTime};
use crate::config::Config;
use crate::database::{DatabaseError, Kept, Trouble, bounded, trouble, words};
use crate::stats::Stats;

/// What became of one order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This batch closed it.
    Closed,
    /// Paid, cancelled, closed before: nothing to do.
    NotPending,
    /// PENDING, and its deadline is still ahead.
    NotDue {
        /// The deadline now.
        deadline: DbTime,
    },
    /// PENDING and due, but somebody else had it locked.
    Locked,
    /// There is no such order (yet).
    Unknown,
    /// Closing it failed, alone.
    Failed {
        /// The database's words.
        reason: String,
    },
}

/// Closes orders in one database.
#[derive(Clone, Debug)]
pub struct Closer {
    /// The database.
    pub pool: PgPool,
    /// The connections that close.
    kept: Arc<Kept>,
    /// Fed with each answer.
    pub clock: Arc<DbClock>,
    /// Counts and lateness.
    pub stats: Arc<Stats>,
    /// How long an outage is waited for in place.
    patience: Duration,
    /// Most large batches at one time, of all pods.
    at_once: i32,
}

/// From how many orders on a batch is large: such batches probably share products.
pub const LARGE_BATCH: usize = 50;

/// How long until a batch is put again that found as many others at work as there may be. A place that becomes free stays so until
/// somebody asks; a batch takes 2 to 10 ms.
const NEXT_TURN: Duration = Duration::from_millis(10);
/// How long a batch waits for its turn before it is put in small parts, which need none: whoever has the places may hang.
const TURN_FOR: Duration = Duration::from_secs(5);

/// Into how many parts a batch that failed is split. Each level may wait for a lock once, so there should be few levels.
const PARTS: usize = 8;

/// How long a batch that meets locks is split any further: enough to find one order among the most that a batch has.
const SPLIT_FOR: Duration = Duration::from_millis(1_500);
/// And how long its parts are tried at all. When somebody holds a product that all of them have, each try would wait in
/// vain; the orders are looked at again soon, and the pod can stop meanwhile.
const TRY_FOR: Duration = Duration::from_millis(2_500);

impl Closer {
    /// A closer as configured.
    #[must_use]
    pub fn new(config: &Config, pool: PgPool, clock: Arc<DbClock>, stats: Arc<Stats>) -> Self {
        let kept = Arc::new(Kept::new(pool.clone(), config.close_concurrency));
        let at_once = i32::try_from(config.close_concurrency).unwrap_or(i32::MAX);
        Self { pool, kept, clock, stats, patience: config.outage_patience, at_once }
    }

    /// Closes the connections.
    pub async fn disconnect(&self) {
        self.kept.give_back();
        self.pool.close().await;
    }

    /// Closes those of the orders that are PENDING and due, and returns a verdict for each of the orders.
    ///
    /// A batch that fails for the sake of one order is split until the culprit is alone.
    ///
    /// # Errors
    /// When the database is away for longer than the patience, or not set up. Parts of the batch may be closed then;
    /// closing is idempotent, so the caller simply tries again later.
    pub async fn close(&self, mut order_ids: Vec<i64>) -> Result<HashMap<i64, Verdict>, DatabaseError> {
        order_ids.sort_unstable();
        order_ids.dedup();
        let mut verdicts = HashMap::with_capacity(order_ids.len());
        // The large parts first, so that those who are in nobody's way are closed before the search goes on.
        let mut parts = VecDeque::from([order_ids]);
        let (mut away_since, mut giving_way_since, mut turn_since) = (None, None::<Instant>, None::<Instant>);
        while let Some(part) = parts.pop_front() {
            let giving_way = giving_way_since.map_or(Duration::ZERO, |since| since.elapsed());
            if giving_way > TRY_FOR {
                verdicts.extend(part.into_iter().map(|id| (id, Verdict::Locked)));
                continue;
            }
            let began = Instant::now();
            let error = match self.close_part(&part).await {
                Ok(Some(closed)) => {
                    verdicts.extend(closed);
                    (away_since, turn_since) = (None, None);
                    continue;
                }
                Ok(None) => {
                    away_since = None;
                    if turn_since.get_or_insert(began).elapsed() > TURN_FOR {
                        parts.extend(part.chunks(LARGE_BATCH - 1).map(<[i64]>::to_vec));
                    } else {
                        sleep(NEXT_TURN).await;
                        parts.push_front(part);
                    }
                    continue;
                }
                Err(error) => error,
            };
            match (trouble(&error.source), part.as_slice()) {
                (Trouble::Away, _)
                    if away_since.get_or_insert_with(Instant::now).elapsed() < self.patience =>
                {
                    sleep(Duration::from_millis(100)).await;
                    parts.push_front(part);
                    continue;
                }
                (Trouble::Away | Trouble::Setup, _) => return Err(error),
                (Trouble::Conflict, part) if part.len() == 1 || giving_way > SPLIT_FOR => {
                    tracing::debug!(orders = part.len(), %error, "left for a later look");
                    verdicts.extend(part.iter().map(|id| (*id, Verdict::Locked)));
                }
                (Trouble::Order, [id]) => {
                    let reason = words(&error.source);
                    tracing::warn!(order_id = id, reason, "closing failed");
                    verdicts.insert(*id, Verdict::Failed { reason });
                }
                // Somebody holds a stock row for long, or one order cannot be closed: the others must be.
                (kind @ (Trouble::Conflict | Trouble::Order), part) => {
                    if kind == Trouble::Conflict {
                        giving_way_since.get_or_insert(began);
                    }
                    parts.extend(part.chunks(part.len().div_ceil(PARTS)).map(<[i64]>::to_vec));
                }
            }
            away_since = None;
        }
        Ok(verdicts)
    }

    /// Verdicts, or none when it was not this batch's turn.
    async fn close_part(&self, order_ids: &[i64]) -> Result<Option<HashMap<i64, Verdict>>, DatabaseError> {
        let connect = self.kept.take().await;
        let mut connection = connect.map_err(DatabaseError::during("connecting to close orders"))?;
        let sent = Instant::now();
        let large = order_ids.len() >= LARGE_BATCH;
        let closed = sqlx::query_file!("src/close.sql", order_ids, self.at_once, large);
        let closed = closed.fetch_one(&mut *connection);
        let closed = bounded("closing orders", closed).await?;
        self.clock.observe(sent, Instant::now(), closed.answered_at.into());
        if !closed.ours {
            self.kept.keep(connection);
            return Ok(None);
        }
        let committed = self.clock.now();
        self.stats.closed(closed.deadlines.into_iter().map(|deadline| committed.since(deadline.into())));
        let mut verdicts: HashMap<_, _> =
            closed.order_ids.into_iter().map(|id| (id, Verdict::Closed)).collect();
        let others = closed.others.into_iter().zip(closed.others_deadlines);
        verdicts.extend(others.map(|(id, deadline)| match deadline {
            None => (id, Verdict::NotPending),
            Some(deadline) => (id, Verdict::NotDue { deadline: deadline.into() }),
        }));
        if verdicts.len() < order_ids.len() {
            let rest = order_ids.iter().copied().filter(|id| !verdicts.contains_key(id)).collect();
            verdicts.extend(self.explain(rest, &mut connection).await?);
        }
        self.kept.keep(connection);
        Ok(Some(verdicts))
    }

    /// Why these orders were not closed: somebody has them locked, or changed them meanwhile, or they did not exist. A second
    /// statement on purpose: it sees what was committed in between.
    async fn explain(
        &self,
        order_ids: Vec<i64>,
        connection: &mut PoolConnection<Postgres>,
    ) -> Result<HashMap<i64, Verdict>, DatabaseError> {
        let sent = Instant::now();
        let rows = sqlx::query!(
            r#"SELECT order_id, status = 'PENDING' AS "pending!", payment_deadline, clock_timestamp() AS "now!"
               FROM orders WHERE order_id = ANY ($1)"#,
            &order_ids
        );
        let rows = bounded("asking why orders were not closed", rows.fetch_all(&mut **connection)).await?;
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

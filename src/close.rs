//! Closes a batch of orders and says what became of each.

mod cause;
mod memory;
mod suspicion;

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::{Connection, PgConnection, PgPool};
use time::OffsetDateTime;
use tokio::time::{Instant, sleep, timeout};

use crate::clock::{DbClock, DbTime};
use crate::config::Config;
use crate::database::{self, DatabaseError, Kept, bounded, words};
use crate::stats::{Count, Stats};
use cause::{Cause, cause, code};
use memory::Failure;
use suspicion::Suspicion;

pub use memory::tidy;

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
    /// It takes longer than a batch may: close it alone, see [`Closer::close_alone`].
    Slow,
    /// Closing it failed, alone.
    Failed {
        /// The database's words.
        reason: String,
    },
    /// Closing it failed as it does for all orders now, so it is not the order's failure.
    Blocked {
        /// The database's words.
        reason: String,
    },
}

/// Closes orders in one database.
#[derive(Clone, Debug)]
pub struct Closer {
    /// The database, for everything but closing.
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
    /// When failed orders are tried again: the first wait, and what the sweep leaves to the wakes.
    retry: (Duration, Duration),
    suspicion: Arc<Mutex<Suspicion>>,
    blocked_said: Arc<Mutex<Option<Instant>>>,
}

/// From how many orders on a batch is large: such batches probably share products.
pub const LARGE_BATCH: usize = 50;

/// How long a closing statement may take. One slow order must not hold up the others of its batch for longer.
pub const BATCH_FOR: &str = "1500ms";
/// How long a part of a batch may take, once the whole has shown that one of its orders is slow.
const PART_FOR: &str = "BEGIN; SET LOCAL statement_timeout = '500ms'";
/// How long an order alone may take: one with very many items.
const ALONE_FOR: &str = "BEGIN; SET LOCAL statement_timeout = '10s'";

/// How long until a batch is put again that found as many others at work as there may be. A place that becomes free stays so until
/// somebody asks; a batch takes 2 to 10 ms.
const NEXT_TURN: Duration = Duration::from_millis(10);
/// How long a batch waits for its turn before it is put in small parts, which need none: whoever has the places may hang.
const TURN_FOR: Duration = Duration::from_secs(5);

/// Into how many parts a batch that failed is split. Each level may wait for a lock once, so there should be few levels.
const PARTS: usize = 8;
/// Parts of at most this many orders are split into single ones at once: a further level would cost the good ones time.
const SINGLE_FROM: usize = 10;

/// While no order can be closed, so many of a batch are tried, alone.
const SAMPLE: usize = 8;

/// How long a batch that meets locks is split any further: enough to find one order among the most that a batch has.
const SPLIT_FOR: Duration = Duration::from_millis(800);
/// And how long its parts are tried at all. When somebody holds a product that all of them have, each try would wait in
/// vain; the orders are looked at again soon, and the pod can stop meanwhile.
const TRY_FOR: Duration = Duration::from_millis(1_600);

/// How long the database may take to show that it is not away.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);

/// While no order can be closed, this is logged so often.
const BLOCKED_AGAIN: Duration = Duration::from_secs(60);

/// A batch on its way to verdicts.
#[derive(Default)]
struct Work {
    /// The large parts first, so that those who are in nobody's way are closed before the search goes on.
    parts: VecDeque<Vec<i64>>,
    verdicts: HashMap<i64, Verdict>,
    failures: Vec<Failure>,
    away_since: Option<Instant>,
    /// The database answered a probe after a part had found it away; the part is tried once more.
    answered_others: bool,
    /// Codes that mean that the database is away, and that an order's trigger has raised while it was not.
    raised: HashSet<String>,
    /// From the end of the first wait for a lock: the wait itself must not use up the time.
    giving_way_since: Option<Instant>,
    turn_since: Option<Instant>,
    /// One of the orders is slow: parts are given less time than the whole.
    slow: bool,
    /// Why the last part is not tried, unless one of the sample is closed before it.
    untried: Option<String>,
}

impl Closer {
    /// A closer as configured; `pool` is the database for everything but closing.
    ///
    /// # Errors
    /// When the database URL cannot be used.
    pub fn new(
        config: &Config,
        pool: PgPool,
        clock: Arc<DbClock>,
        stats: Arc<Stats>,
    ) -> Result<Self, DatabaseError> {
        let kept = Arc::new(Kept::new(database::closing_pool(config)?, config.close_concurrency));
        let at_once = i32::try_from(config.close_concurrency).unwrap_or(i32::MAX);
        Ok(Self {
            pool,
            kept,
            clock,
            stats,
            patience: config.outage_patience,
            at_once,
            retry: (config.retry_base, config.sweep_grace),
            suspicion: Arc::default(),
            blocked_said: Arc::default(),
        })
    }

    /// Closes the connections.
    pub async fn disconnect(&self) {
        tokio::join!(self.kept.close(), self.pool.close());
    }

    /// Closes those of the orders that are PENDING and due, and returns a verdict for each of the orders.
    ///
    /// A batch that fails for the sake of one order is split until the culprit is alone.
    ///
    /// # Errors
    /// When the database is away for longer than the patience. Parts of the batch may be closed then; closing is
    /// idempotent, so the caller simply tries again later.
    pub async fn close(&self, order_ids: Vec<i64>) -> Result<HashMap<i64, Verdict>, DatabaseError> {
        self.close_within(order_ids, None).await
    }

    /// Closes one order that is too slow for a batch. A second one at the same time would take a connection from the
    /// others.
    ///
    /// # Errors
    /// As [`Closer::close`].
    pub async fn close_alone(&self, order_id: i64) -> Result<HashMap<i64, Verdict>, DatabaseError> {
        self.close_within(vec![order_id], Some(ALONE_FOR)).await
    }

    async fn close_within(
        &self,
        mut order_ids: Vec<i64>,
        alone: Option<&'static str>,
    ) -> Result<HashMap<i64, Verdict>, DatabaseError> {
        order_ids.sort_unstable();
        order_ids.dedup();
        let mut work = Work { parts: VecDeque::from([order_ids]), ..Work::default() };
        while let Some(part) = work.parts.pop_front() {
            let giving_way = work.giving_way_since.map_or(Duration::ZERO, |since| since.elapsed());
            if giving_way > TRY_FOR {
                work.verdicts.extend(part.into_iter().map(|id| (id, Verdict::Locked)));
                continue;
            }
            if part.len() > SAMPLE
                && !work.closed_any()
                && let Some(reason) = work.untried.take()
            {
                self.stats.add(Count::Blocked, part.len());
                work.verdicts
                    .extend(part.into_iter().map(|id| (id, Verdict::Blocked { reason: reason.clone() })));
                continue;
            }
            let bound = alone.or(work.slow.then_some(PART_FOR));
            match self.close_part(&part, bound).await {
                Ok(Some(closed)) => {
                    work.answered();
                    work.turn_since = None;
                    for (id, failed) in closed {
                        match failed {
                            Ok(verdict) => {
                                work.verdicts.insert(id, verdict);
                            }
                            Err(failure) => work.failures.push(failure),
                        }
                    }
                }
                Ok(None) => {
                    work.answered();
                    if work.turn_since.get_or_insert_with(Instant::now).elapsed() > TURN_FOR {
                        work.parts.extend(part.chunks(LARGE_BATCH - 1).map(<[i64]>::to_vec));
                    } else {
                        sleep(NEXT_TURN).await;
                        work.parts.push_front(part);
                    }
                }
                Err(error) => self.after(error, part, alone.is_some(), &mut work).await?,
            }
        }
        self.judge(&mut work).await;
        Ok(work.verdicts)
    }

    /// What happens to a part whose statement failed.
    async fn after(
        &self,
        error: DatabaseError,
        part: Vec<i64>,
        alone: bool,
        work: &mut Work,
    ) -> Result<(), DatabaseError> {
        let mut cause = cause(&error.source);
        if cause == Cause::Away && work.raised.contains(&code(&error.source)) {
            cause = Cause::Order;
        }
        if cause == Cause::Away {
            let since = *work.away_since.get_or_insert_with(Instant::now);
            sleep(Duration::from_millis(100)).await;
            let answers = self.answers().await;
            if !answers && since.elapsed() > self.patience {
                return Err(error);
            }
            // The database answers others, and answers this part as if it were away: something in the part says so.
            let said = answers && work.answered_others && error.source.as_database_error().is_some();
            work.answered_others = answers;
            if !said && since.elapsed() < self.patience {
                work.parts.push_front(part);
                return Ok(());
            }
            if said {
                work.raised.insert(code(&error.source));
            }
            cause = Cause::Order;
        }
        work.answered();
        match (cause, part.as_slice()) {
            (Cause::Conflict, part)
                if part.len() == 1
                    || work.giving_way_since.is_some_and(|since| since.elapsed() > SPLIT_FOR) =>
            {
                tracing::debug!(orders = part.len(), %error, "left for a later look");
                work.verdicts.extend(part.iter().map(|id| (*id, Verdict::Locked)));
            }
            (Cause::Slow, [id]) if !alone => {
                work.verdicts.insert(*id, Verdict::Slow);
            }
            (_, [id]) => work.failures.push(Failure::of(*id, &error)),
            // No order could be closed lately, and this part fails as those did. Some of its orders tell whether that is still
            // so. Others are drawn each time, so a good one among bad ones is found sooner or later.
            (Cause::Order, part) if part.len() > SAMPLE && self.expects(&error) && !work.closed_any() => {
                let (random, mut sample) = (RandomState::new(), part.to_vec());
                sample.sort_by_cached_key(|id| random.hash_one(id));
                let rest = sample.split_off(SAMPLE);
                for id in sample {
                    work.parts.push_front(vec![id]);
                }
                work.untried = Some(words(&error.source));
                work.parts.push_back(rest);
            }
            // Somebody holds a stock row for long, or one order cannot be closed: the others must be.
            (cause, part) => {
                match cause {
                    Cause::Conflict => work.giving_way_since = work.giving_way_since.or(Some(Instant::now())),
                    Cause::Slow => work.slow = true,
                    Cause::Away | Cause::Order => {}
                }
                let size = if part.len() > SINGLE_FROM { part.len().div_ceil(PARTS) } else { 1 };
                work.parts.extend(part.chunks(size).map(<[i64]>::to_vec));
            }
        }
        Ok(())
    }

    /// Whether the database answers now, and takes writes.
    async fn answers(&self) -> bool {
        let standby = sqlx::query_scalar!(r#"SELECT pg_catalog.pg_is_in_recovery() AS "standby!""#);
        let standby = timeout(ANSWERS_WITHIN, standby.fetch_one(&self.pool)).await;
        matches!(standby, Ok(Ok(false)))
    }

    fn expects(&self, error: &DatabaseError) -> bool {
        self.suspicion.lock().unwrap_or_else(PoisonError::into_inner).expects(&code(&error.source))
    }

    /// Says whose failures they are: the orders', which are noted and counted, or nobody's.
    async fn judge(&self, work: &mut Work) {
        let closed = work.verdicts.values().filter(|verdict| **verdict == Verdict::Closed).count();
        let failed: Vec<_> =
            work.failures.iter().map(|failure| (failure.order_id, failure.code.as_str())).collect();
        let nobodys: HashSet<i64> =
            self.suspicion.lock().unwrap_or_else(PoisonError::into_inner).judge(closed, &failed);
        let (blocked, failures): (Vec<_>, Vec<_>) = std::mem::take(&mut work.failures)
            .into_iter()
            .partition(|failure| nobodys.contains(&failure.order_id));
        if let Some(Failure { order_id, reason, .. }) = blocked.first() {
            self.stats.add(Count::Blocked, blocked.len());
            self.say_blocked(blocked.len(), *order_id, reason);
        }
        if let Some(Failure { order_id, reason, .. }) = failures.first() {
            // One line for all of them: a flood of failures is not to become a flood of lines.
            tracing::warn!(count = failures.len(), order_id, reason, "closing failed");
            if let Err(error) = memory::note(&self.pool, &failures, self.retry.0, self.retry.1).await {
                tracing::debug!(%error, "the sweep will try these orders sooner than it need");
            }
        }
        let blocked = blocked.into_iter().map(|f| (f.order_id, Verdict::Blocked { reason: f.reason }));
        work.verdicts.extend(blocked);
        work.verdicts
            .extend(failures.into_iter().map(|f| (f.order_id, Verdict::Failed { reason: f.reason })));
    }

    fn say_blocked(&self, orders: usize, order_id: i64, reason: &str) {
        let mut said = self.blocked_said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_none_or(|said| said.elapsed() > BLOCKED_AGAIN) {
            *said = Some(Instant::now());
            tracing::error!(
                orders,
                order_id,
                reason,
                "no order can be closed, and all fail alike: no attempt is counted, and closing is tried again slowly. Repair what \
                 the reason names (a trigger, a grant, a constraint)"
            );
        }
    }

    /// A verdict or a failure for each order, or none when it was not this batch's turn.
    async fn close_part(
        &self,
        order_ids: &[i64],
        bound: Option<&'static str>,
    ) -> Result<Option<Vec<(i64, Result<Verdict, Failure>)>>, DatabaseError> {
        let connect = self.kept.take().await;
        let mut connection = connect.map_err(DatabaseError::during("connecting to close orders"))?;
        let closed = match bound {
            None => self.close_on(&mut connection, order_ids).await?,
            Some(begin) => {
                let mut transaction = bounded("beginning to close", connection.begin_with(begin)).await?;
                let closed = self.close_on(&mut transaction, order_ids).await?;
                bounded("closing orders", transaction.commit()).await?;
                closed
            }
        };
        let Some(closed) = closed else {
            self.kept.keep(connection);
            return Ok(None);
        };
        let committed = self.clock.now();
        self.stats.closed(closed.deadlines.iter().map(|deadline| committed.since(*deadline)));
        let mut verdicts = closed.verdicts;
        if verdicts.len() < order_ids.len() {
            let known: HashSet<_> = verdicts.iter().map(|(id, _)| *id).collect();
            let rest = order_ids.iter().copied().filter(|id| !known.contains(id)).collect();
            let explained = self.explain(rest, &mut connection).await?;
            verdicts.extend(explained.into_iter().map(|(id, verdict)| match verdict {
                // We had it locked, and it was not closed.
                Verdict::Locked if closed.kept.contains(&id) => (id, Err(Failure::kept_by_a_trigger(id))),
                verdict => (id, Ok(verdict)),
            }));
        }
        self.kept.keep(connection);
        Ok(Some(verdicts))
    }

    async fn close_on(
        &self,
        connection: &mut PgConnection,
        order_ids: &[i64],
    ) -> Result<Option<Closed>, DatabaseError> {
        let sent = Instant::now();
        let large = order_ids.len() >= LARGE_BATCH;
        let closed = sqlx::query_file!("src/close.sql", order_ids, self.at_once, large);
        let closed = bounded("closing orders", closed.fetch_one(connection)).await?;
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
        Ok(Some(Closed { verdicts, deadlines, kept: closed.kept }))
    }

    /// Why these orders were not closed: somebody has them locked, or changed them meanwhile, or they did not exist. A second
    /// statement on purpose: it sees what was committed in between.
    async fn explain(
        &self,
        order_ids: Vec<i64>,
        connection: &mut PgConnection,
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

/// What one statement closed.
struct Closed {
    verdicts: Vec<(i64, Result<Verdict, Failure>)>,
    deadlines: Vec<DbTime>,
    /// Orders that a trigger kept from being closed.
    kept: Vec<i64>,
}

impl Work {
    fn closed_any(&self) -> bool {
        self.verdicts.values().any(|verdict| *verdict == Verdict::Closed)
    }

    /// The database has answered, with whatever.
    fn answered(&mut self) {
        (self.away_since, self.answered_others) = (None, false);
    }
}

impl Failure {
    fn of(order_id: i64, error: &DatabaseError) -> Self {
        Self { order_id, code: code(&error.source), reason: words(&error.source) }
    }

    fn kept_by_a_trigger(order_id: i64) -> Self {
        let reason = "a trigger on orders keeps it PENDING: the UPDATE that closes it was passed over or undone (SQLSTATE OVD02)";
        Self { order_id, code: "OVD02".to_owned(), reason: reason.to_owned() }
    }
}

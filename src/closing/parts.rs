//! Closes a failed batch in parts, until the order that causes the failure is alone.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::memory::Failure;
use super::statement::CONNECTING;
use super::{Closer, Verdict};
use crate::database::{DatabaseError, ErrorClass, error_class};
use crate::error_text::words;

/// Number of parts into which a failed batch is split. Each level may wait for a lock once, so there should be few levels.
const PARTS: usize = 8;
/// Parts of at most this many orders are split directly into single orders: another level would delay the good ones.
const SINGLE_FROM: usize = 10;

/// Number of orders of a batch that are tried, each alone, while no order can be closed.
const SAMPLE: usize = 8;

/// How long a batch that meets locks is split further: enough to find one order in a batch of the maximum size.
const SPLIT_FOR: Duration = Duration::from_millis(800);
/// How long the parts of such a batch are tried at all. When another transaction holds a product that all of them have,
/// each attempt would wait in vain. The orders are retried soon, and the pod can stop meanwhile.
pub(super) const TRY_FOR: Duration = Duration::from_millis(1_600);

const _: () = assert!(SPLIT_FOR.as_millis() < TRY_FOR.as_millis());

/// This many lost sessions in a row are attributed to the part's orders.
const OFTEN: usize = 3;

/// How long the database may take to show that it is available.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);

/// A batch whose orders do not all have a verdict yet.
#[derive(Default)]
pub(super) struct Work {
    /// Large parts come first, so that most good orders are closed before the search for the bad one goes on.
    pub parts: VecDeque<Vec<i64>>,
    pub verdicts: HashMap<i64, Verdict>,
    pub failures: Vec<Failure>,
    pub away_since: Option<Instant>,
    /// How often in a row the session was lost while a part was being closed.
    pub lost: usize,
    /// The end of the first wait for a lock. The wait itself must not use up the time.
    pub giving_way_since: Option<Instant>,
    pub no_slot_since: Option<Instant>,
    /// Whether one of the orders is slow. Parts then get less time than the whole batch.
    pub slow: bool,
    /// Orders that took longer than a part may, alone. They get the time of a whole batch before their verdict is `Slow`: on a
    /// machine that stalled, any order takes that long, and it would wait behind the orders that really are slow.
    pub suspects: HashSet<i64>,
    /// How many batches had closed orders when this one began.
    pub closes_before: u64,
    /// The rest of a batch after a sample was drawn, and the error for which it is not tried unless one of the sample is
    /// closed.
    pub untried: Option<(Vec<i64>, String)>,
}

impl Closer {
    /// Decides what happens to a part whose statement failed.
    pub(super) async fn after(
        &self,
        error: DatabaseError,
        part: Vec<i64>,
        alone: bool,
        work: &mut Work,
    ) -> Result<(), DatabaseError> {
        // Without a connection, the error says nothing about the orders.
        let mut error_class =
            if error.doing == CONNECTING { ErrorClass::Away } else { error_class(&error.source) };
        if error_class == ErrorClass::Away {
            let since = *work.away_since.get_or_insert_with(Instant::now);
            sleep(Duration::from_millis(100)).await;
            work.lost += usize::from(loses_the_session(&error));
            if since.elapsed() <= self.patience {
                work.parts.push_front(part);
                return Ok(());
            }
            // The database answers other sessions, so one of the orders ends each session that closes it: for example, its trigger
            // crashes the server's process.
            if work.lost < OFTEN || !self.answers().await {
                return Err(error);
            }
            error_class = ErrorClass::Other;
        }
        work.answered();
        match (error_class, part.as_slice()) {
            (ErrorClass::Conflict, part)
                if part.len() == 1
                    || work.giving_way_since.is_some_and(|since| since.elapsed() > SPLIT_FOR) =>
            {
                tracing::debug!(event = "left_for_later", orders = part.len(), %error, "orders left for a later attempt");
                work.verdicts.extend(part.iter().map(|id| (*id, Verdict::Locked)));
            }
            (ErrorClass::Slow, [id]) if !alone => {
                if work.slow && work.suspects.insert(*id) {
                    work.parts.push_back(part);
                } else {
                    work.verdicts.insert(*id, Verdict::Slow);
                }
            }
            (_, [id]) => work.failures.push(Failure::of(*id, &error)),
            // No order could be closed recently, and this part fails with the same code. A sample of it shows whether that is
            // still so. Each sample is drawn at random, so a good order among bad ones is found sooner or later.
            (ErrorClass::Setup | ErrorClass::Other, part)
                if part.len() > SAMPLE && self.expects(&error) && !work.closed_any() =>
            {
                let (random, mut sample) = (RandomState::new(), part.to_vec());
                sample.sort_by_cached_key(|id| random.hash_one(id));
                let rest = sample.split_off(SAMPLE);
                for id in sample {
                    work.parts.push_front(vec![id]);
                }
                work.untried = Some((rest.clone(), words(&error.source)));
                work.parts.push_back(rest);
            }
            // Another transaction holds a stock row for long, or one order cannot be closed. The others must still be closed.
            (error_class, part) => {
                match error_class {
                    ErrorClass::Conflict => {
                        work.giving_way_since = work.giving_way_since.or(Some(Instant::now()));
                    }
                    ErrorClass::Slow => work.slow = true,
                    ErrorClass::Away | ErrorClass::Setup | ErrorClass::Other => {}
                }
                let size = if part.len() > SINGLE_FROM { part.len().div_ceil(PARTS) } else { 1 };
                work.parts.extend(part.chunks(size).map(<[i64]>::to_vec));
            }
        }
        Ok(())
    }

    /// Whether the database answers other sessions, and is no standby.
    async fn answers(&self) -> bool {
        let standby = sqlx::query_scalar!(r#"SELECT pg_catalog.pg_is_in_recovery() AS "standby!""#);
        let standby = timeout(ANSWERS_WITHIN, standby.fetch_one(&self.pool)).await;
        matches!(standby, Ok(Ok(false)))
    }
}

/// Whether the session was lost in the middle of closing. An error of connecting, a full disk or a read-only server says
/// nothing about the orders.
fn loses_the_session(error: &DatabaseError) -> bool {
    error.doing != CONNECTING
        && match &error.source {
            sqlx::Error::Io(_) => true,
            sqlx::Error::Database(error) => !matches!(error.code().as_deref(), Some("53100" | "25006")),
            _ => false,
        }
}

impl Work {
    /// Whether this part gets less time than a whole batch.
    pub fn hurries(&self, part: &[i64]) -> bool {
        self.slow && !part.iter().all(|id| self.suspects.contains(id))
    }

    pub fn closed_any(&self) -> bool {
        self.verdicts.values().any(|verdict| *verdict == Verdict::Closed)
    }

    /// Records that the database has answered, with a result or an error.
    pub fn answered(&mut self) {
        (self.away_since, self.lost) = (None, 0);
    }
}

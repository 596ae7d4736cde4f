//! A batch that fails is closed in parts, until whoever is to blame is alone.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::memory::Failure;
use super::statement::CONNECTING;
use super::{Closer, Verdict};
use crate::database::{DatabaseError, ErrorClass, error_class};
use crate::error_text::words;

/// Into how many parts a batch that failed is split. Each level may wait for a lock once, so there should be few levels.
const PARTS: usize = 8;
/// Parts of at most this many orders are split into single ones at once: a further level would cost the good ones time.
const SINGLE_FROM: usize = 10;

/// While no order can be closed, so many of a batch are tried, alone.
const SAMPLE: usize = 8;

/// How long a batch that meets locks is split any further: enough to find one order among the most that a batch has.
const SPLIT_FOR: Duration = Duration::from_millis(800);
/// How long its parts are tried at all. When somebody holds a product that all of them have, each try would wait in
/// vain; the orders are looked at again soon, and the pod can stop meanwhile.
pub(super) const TRY_FOR: Duration = Duration::from_millis(1_600);

const _: () = assert!(SPLIT_FOR.as_millis() < TRY_FOR.as_millis());

/// This many lost sessions in a row are no accident.
const OFTEN: usize = 3;

/// How long the database may take to show that it is not away.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);

/// A batch on its way to verdicts.
#[derive(Default)]
pub(super) struct Work {
    /// The large parts first, so that those who are in nobody's way are closed before the search goes on.
    pub parts: VecDeque<Vec<i64>>,
    pub verdicts: HashMap<i64, Verdict>,
    pub failures: Vec<Failure>,
    pub away_since: Option<Instant>,
    /// How often the session ended while the part that is tried now was being closed.
    pub lost: usize,
    /// From the end of the first wait for a lock: the wait itself must not use up the time.
    pub giving_way_since: Option<Instant>,
    pub no_slot_since: Option<Instant>,
    /// One of the orders is slow: parts are given less time than the whole.
    pub slow: bool,
    /// Orders that took longer than a part may, alone. Before they are called slow they are given the time of a whole batch: on a
    /// machine that stalled, any order takes so long, and would wait behind those that are slow indeed.
    pub suspects: HashSet<i64>,
    /// How many batches had closed orders when this one began.
    pub closes_before: u64,
    /// What a sample was drawn from, and why it is not tried unless one of the sample is closed.
    pub untried: Option<(Vec<i64>, String)>,
}

impl Closer {
    /// What happens to a part whose statement failed.
    pub(super) async fn after(
        &self,
        error: DatabaseError,
        part: Vec<i64>,
        alone: bool,
        work: &mut Work,
    ) -> Result<(), DatabaseError> {
        // Without a connection nothing was learnt about the orders.
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
            // One of the orders ends each session that closes it, while others work: a trigger that crashes the server's process.
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
                tracing::debug!(event = "left_for_later", orders = part.len(), %error, "left for a later look");
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
            // No order could be closed lately, and this part fails as those did. Some of its orders tell whether that is still
            // so. Others are drawn each time, so a good one among bad ones is found sooner or later.
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
            // Somebody holds a stock row for long, or one order cannot be closed: the others must be.
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

    /// Whether the database answers others now.
    async fn answers(&self) -> bool {
        let standby = sqlx::query_scalar!(r#"SELECT pg_catalog.pg_is_in_recovery() AS "standby!""#);
        let standby = timeout(ANSWERS_WITHIN, standby.fetch_one(&self.pool)).await;
        matches!(standby, Ok(Ok(false)))
    }
}

/// Whether the session ended in the middle of closing. An error of connecting, or a server that is full, says nothing
/// about the orders.
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

    /// The database has answered, with whatever.
    pub fn answered(&mut self) {
        (self.away_since, self.lost) = (None, 0);
    }
}

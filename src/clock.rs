//! Time on the database's clock.
//!
//! Deadlines are set and compared on PostgreSQL's clock. [`DbClock`] only *estimates* that clock, so that a pod
//! knows when to look; the closing statement decides. An estimate that runs ahead costs one more short hold, never a
//! wrong close.

use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;

/// A moment on the database's clock: microseconds since 1970-01-01 UTC, PostgreSQL's own resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DbTime(pub i64);

impl DbTime {
    /// This moment moved forward by a duration, saturating.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(micros(by)))
    }

    /// This moment moved back by a duration, saturating.
    #[must_use]
    pub fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(micros(by)))
    }

    /// The first multiple of `step` since 1970 that is not before this moment; this moment if `step` is zero.
    #[must_use]
    pub fn rounded_up(self, step: Duration) -> Self {
        match micros(step) {
            0 => self,
            step => Self(self.0.saturating_add(step - 1).div_euclid(step).saturating_mul(step)),
        }
    }

    /// How long after `earlier` this moment is; zero when it is not after it.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl From<OffsetDateTime> for DbTime {
    fn from(at: OffsetDateTime) -> Self {
        // Years up to 9999 fit an i64 of microseconds with room to spare.
        Self(i64::try_from(at.unix_timestamp_nanos() / 1000).unwrap_or(i64::MAX))
    }
}

impl From<DbTime> for OffsetDateTime {
    fn from(at: DbTime) -> Self {
        Self::from_unix_timestamp_nanos(i128::from(at.0) * 1000).unwrap_or(Self::UNIX_EPOCH)
    }
}

impl fmt::Display for DbTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match OffsetDateTime::from(*self).format(&Rfc3339) {
            Ok(text) => f.write_str(&text),
            Err(_) => write!(f, "{} µs", self.0),
        }
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// Maximum drift between two clocks: 200 ppm, twice what NTP allows a quartz clock.
const DRIFT_PER_MILLION: i64 = 200;

/// The database's clock, estimated from the answers of statements that return it.
///
/// Each answer bounds the offset between the two clocks by its round trip. The bounds of all answers are intersected
/// and widened by the possible drift, so the estimate gets better with every statement and forgets nothing useful. An
/// answer that contradicts the bounds means that a clock was set; it replaces them.
#[derive(Debug)]
pub struct DbClock {
    origin: Instant,
    offset: Mutex<Option<Offset>>,
}

/// Bounds of (database clock − local monotonic clock), as they were at local time `at`; all in nanoseconds: in
/// microseconds, the drift between two answers a few microseconds apart would round to zero.
#[derive(Clone, Copy, Debug)]
struct Offset {
    low: i64,
    high: i64,
    at: i64,
}

impl Default for DbClock {
    fn default() -> Self {
        Self { origin: Instant::now(), offset: Mutex::new(None) }
    }
}

impl DbClock {
    /// Records one answer: the database read its clock as `db` at some moment between `sent` and `received`.
    pub fn observe(&self, sent: Instant, received: Instant, db: DbTime) {
        let (sent, received) = (self.local(sent), self.local(received));
        let db = db.0.saturating_mul(1_000);
        let fresh = Offset { low: db.saturating_sub(received), high: db.saturating_sub(sent), at: received };
        let mut offset = self.lock();
        *offset = Some(match offset.map(|known| known.widened(received)) {
            Some(known) if known.low <= fresh.high && fresh.low <= known.high => {
                Offset { low: known.low.max(fresh.low), high: known.high.min(fresh.high), at: received }
            }
            _ => fresh,
        });
    }

    /// The database's time now: the earliest that the bounds allow, so that what is due by this estimate is due in the
    /// database.
    #[must_use]
    pub fn now(&self) -> DbTime {
        self.at(Instant::now())
    }

    /// The local moment at which [`DbClock::now`] reaches `when`; in the past if it already has.
    #[must_use]
    pub fn instant(&self, when: DbTime) -> Instant {
        let now = Instant::now();
        now + when.since(self.at(now))
    }

    fn at(&self, now: Instant) -> DbTime {
        let local = self.local(now);
        match *self.lock() {
            Some(offset) => DbTime(local.saturating_add(offset.widened(local).low).div_euclid(1_000)),
            // Before the first answer, the machine's own clock is the best estimate.
            None => OffsetDateTime::now_utc().into(),
        }
    }

    fn local(&self, at: Instant) -> i64 {
        i64::try_from(at.saturating_duration_since(self.origin).as_nanos()).unwrap_or(i64::MAX)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Offset>> {
        // A panic while the lock is held cannot leave a half-written value: it is assigned as a whole.
        self.offset.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Offset {
    fn widened(self, now: i64) -> Self {
        // Divides first: after a long time, the product would overflow.
        let drift = (now - self.at).max(0) / 1_000 * DRIFT_PER_MILLION / 1_000 + 1;
        Self { low: self.low - drift, high: self.high + drift, at: self.at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bounds, rounded to milliseconds: the drift between answers widens them by a few microseconds.
    fn bounds(clock: &DbClock) -> (i64, i64) {
        let rounded = |nanos: i64| (nanos + 500_000) / 1_000_000;
        clock.lock().map(|offset| (rounded(offset.low), rounded(offset.high))).unwrap_or_default()
    }

    #[test]
    fn a_moment_is_rounded_up_to_a_step_and_never_down() {
        let step = Duration::from_millis(100);
        for (at, rounded) in [(0, 0), (1, 100_000), (100_000, 100_000), (100_001, 200_000), (-1, 0)] {
            assert_eq!(DbTime(at).rounded_up(step), DbTime(rounded), "{at}");
            assert_eq!(DbTime(at).rounded_up(Duration::ZERO), DbTime(at));
        }
        assert!(DbTime(i64::MAX).rounded_up(step) > DbTime(i64::MAX - 1_000_000));
    }

    #[test]
    fn each_answer_narrows_the_estimate_and_a_set_clock_replaces_it() {
        let clock = DbClock::default();
        let at = |ms: u64| clock.origin + Duration::from_millis(ms);

        clock.observe(at(0), at(10), DbTime(1_000_000));
        assert_eq!(bounds(&clock), (990, 1_000));
        clock.observe(at(10), at(12), DbTime(1_008_000));
        assert_eq!(bounds(&clock), (996, 998), "a short round trip narrows it");
        clock.observe(at(12), at(22), DbTime(1_014_000));
        assert_eq!(bounds(&clock), (996, 998), "a long one changes little");
        clock.observe(at(22), at(23), DbTime(9_000_000));
        assert_eq!(bounds(&clock), (8_977, 8_978), "the clock was set");
    }

    #[test]
    fn a_database_whose_clock_runs_slower_is_never_anticipated_by_more_than_the_drift_of_a_moment() {
        let clock = DbClock::default();
        // Ten seconds, an answer each millisecond after a round trip of 500 µs; the database's clock loses 150 µs a second.
        for ms in 0..10_000_u32 {
            let sent = clock.origin + Duration::from_millis(u64::from(ms));
            let received = sent + Duration::from_micros(500);
            let truth = i64::from(ms) * 1_000 + 250 - i64::from(ms) * 150 / 1_000;
            clock.observe(sent, received, DbTime(truth));
            let now = i64::from(ms) * 1_000 + 500 - i64::from(ms) * 150 / 1_000;
            assert!(clock.at(received).0 <= now, "{ms} ms: ahead by {} µs", clock.at(received).0 - now);
        }
    }

    #[test]
    fn what_is_due_by_the_estimate_is_due_in_the_database() {
        let clock = DbClock::default();
        // The database read its clock as early as the round trip allows: the estimate must not run ahead of it.
        clock.observe(clock.origin, clock.origin + Duration::from_millis(4), DbTime(500));
        assert!(clock.at(clock.origin + Duration::from_millis(4)) <= DbTime(500));
    }

    #[test]
    fn prints_as_rfc3339() {
        assert_eq!(DbTime(1_767_225_600_123_000).to_string(), "2026-01-01T00:00:00.123Z");
    }
}

//! Where the next look at the outbox begins: past everything that has been relayed.
//!
//! Deleted rows stay in table and index until vacuum removes them, which an open snapshot prevents for as long as it is open. A
//! look that began with the oldest row would scan all of them each time. Ids are drawn before their transaction commits, so a slow
//! transaction can leave rows behind the mark. The mark remembers such a transaction with the position of its first possible row.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

/// Before every id.
const START: i64 = i64::MIN;

/// The position of one reader.
#[derive(Debug)]
pub struct Mark {
    /// Everything up to this id has been relayed, except what transactions still at work may bring.
    id: i64,
    /// The id before the last move. Ids drawn by a transaction that the mark does not know yet lie past it.
    before: i64,
    /// Transactions that were at work when the mark moved, each with the id past which its rows lie.
    running: BTreeMap<i64, i64>,
    /// The last id drawn as of the last look; known only while nothing has been relayed yet.
    drawn: Option<i64>,
    /// When the next full look is due.
    full_at: Instant,
}

/// Where a look begins.
#[derive(Debug)]
pub struct Begin {
    /// The mark's id, or one before every id in a full look.
    pub id: i64,
    /// Transactions whose end makes the look begin further back.
    pub transactions: Vec<i64>,
    /// Where the look then begins, for each.
    pub positions: Vec<i64>,
    /// Whether this look begins with the oldest row.
    pub full: bool,
    /// Whether to ask for the last id drawn: nothing was relayed yet, and deleted rows must not be scanned again.
    pub asks: bool,
}

/// Minimum interval between two full looks.
const FULL_EVERY: Duration = Duration::from_secs(1);
/// Full looks take at most this share of the time: one hundredth.
const FULL_SHARE: u32 = 100;

impl Default for Mark {
    fn default() -> Self {
        Self { id: START, before: START, drawn: None, running: BTreeMap::new(), full_at: Instant::now() }
    }
}

impl Mark {
    /// Where the next look begins. Now and then it is a full one, because ids may lie before the mark for reasons
    /// that the transactions do not show, such as a sequence that was set back or hands out ids in blocks.
    #[must_use]
    pub fn begin(&self, now: Instant) -> Begin {
        let full = now >= self.full_at;
        let (transactions, positions) = self.running.iter().unzip();
        Begin { id: if full { START } else { self.id }, transactions, positions, full, asks: self.nowhere() }
    }

    /// Whether there is no position yet, so that looks begin with the oldest row.
    #[must_use]
    pub fn nowhere(&self) -> bool {
        self.id == START
    }

    /// Schedules the next full look, after one that took this long.
    pub fn looked_fully(&mut self, now: Instant, took: Duration) {
        self.full_at = now + FULL_EVERY.max(took * FULL_SHARE);
    }

    /// Moves past what a look has found, once all of it is relayed. `last` is the last id found, `limited` whether there may be
    /// more behind it, `snapshot` what the look saw, as PostgreSQL writes it (`xmin:xmax:xip,…`), and
    /// `drawn` the last id drawn, if it was asked for.
    pub fn pass(&mut self, last: Option<i64>, limited: bool, snapshot: &str, drawn: Option<i64>) {
        let Some(at_work) = at_work(snapshot) else {
            // The snapshot is unreadable, so nothing counts as relayed.
            (self.id, self.before, self.drawn) = (START, START, None);
            self.running.clear();
            return;
        };
        self.running.retain(|transaction, _| at_work.contains(transaction));
        for transaction in at_work {
            self.running.entry(transaction).or_insert(self.before.min(self.id));
        }
        let id = match last {
            Some(last) if limited => last,
            Some(last) => last.max(self.id),
            // All ids up to this one were drawn before this look began, so their transactions have ended or are known to it.
            None => self.id.max(self.drawn.unwrap_or(START)),
        };
        self.drawn = drawn;
        self.before = self.id.min(id);
        self.id = id;
    }
}

/// The transactions that a snapshot lists as at work.
fn at_work(snapshot: &str) -> Option<BTreeSet<i64>> {
    let mut parts = snapshot.split(':');
    let (_, _, listed) = (parts.next()?, parts.next()?, parts.next()?);
    listed.split(',').filter(|number| !number.is_empty()).map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begins(mark: &Mark, ended: &[i64]) -> i64 {
        let from = mark.begin(mark.full_at - Duration::from_millis(1));
        let positions = from.transactions.iter().zip(&from.positions);
        positions
            .filter(|(at_work, _)| ended.contains(at_work))
            .map(|(_, at)| *at)
            .min()
            .unwrap_or(from.id)
            .min(from.id)
    }

    #[test]
    fn a_look_begins_past_what_was_relayed_and_further_back_when_a_slow_transaction_has_ended() {
        let mut mark = Mark::default();
        mark.looked_fully(Instant::now(), Duration::ZERO);
        mark.pass(Some(100), false, "5:9:", None);
        mark.pass(Some(150), false, "9:12:", None);
        assert_eq!(begins(&mark, &[]), 150);
        // Transaction 12 has drawn ids past 100 and is at work; others have committed up to 300.
        mark.pass(Some(300), false, "12:14:12", None);
        mark.pass(Some(400), false, "12:15:12", None);
        assert_eq!(begins(&mark, &[]), 400);
        assert_eq!(begins(&mark, &[12]), 100);
        // Transaction 12 left more rows than one look takes: the next look resumes there.
        mark.pass(Some(200), true, "15:15:", None);
        assert_eq!(begins(&mark, &[12]), 200, "12 is forgotten, its rows are not");
        mark.pass(None, false, "15:15:", None);
        assert_eq!(begins(&mark, &[]), 200);
    }

    #[test]
    fn an_empty_outbox_is_passed_by_the_ids_drawn_before_the_look() {
        let mut mark = Mark::default();
        mark.looked_fully(Instant::now(), Duration::ZERO);
        mark.pass(None, false, "5:7:6", Some(900));
        assert!(mark.nowhere(), "900 may have been drawn after the snapshot was taken");
        mark.pass(None, false, "6:8:6", Some(950));
        assert_eq!((begins(&mark, &[]), begins(&mark, &[6])), (900, START));
        mark.pass(None, false, "8:8:", None);
        assert_eq!(begins(&mark, &[]), 950);
    }

    #[test]
    fn a_snapshot_that_cannot_be_read_begins_with_the_oldest_row() {
        for snapshot in ["", "5:6", "5:6:x", "5:6:7,"] {
            let mut mark = Mark::default();
            mark.looked_fully(Instant::now(), Duration::ZERO);
            mark.pass(Some(9), false, "1:1:", None);
            mark.pass(Some(10), false, snapshot, None);
            assert_eq!(begins(&mark, &[]), if snapshot == "5:6:7," { 10 } else { START }, "{snapshot}");
        }
    }

    #[test]
    fn full_looks_take_a_hundredth_of_the_time() {
        let (mut mark, now) = (Mark::default(), Instant::now());
        assert!(mark.begin(now).full, "the first one");
        mark.looked_fully(now, Duration::from_millis(1));
        assert!(!mark.begin(now + Duration::from_millis(999)).full && mark.begin(now + FULL_EVERY).full);
        mark.looked_fully(now, Duration::from_millis(100));
        assert!(!mark.begin(now + Duration::from_millis(9_999)).full);
        assert!(mark.begin(now + Duration::from_secs(10)).full);
    }
}

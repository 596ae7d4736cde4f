//! When the sweep looks, and from which deadline on. Pure but for the random phase.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::DbTime;

/// While wakes are missing, a look follows the last one after this time.
const HURRY: Duration = Duration::from_millis(100);
/// How long after an order was found the looks keep following each other like this.
const HURRY_FOR: Duration = Duration::from_secs(10);
/// Looks take at most a fiftieth of the time: an open snapshot, or an order that stays locked, may make each of them slow.
const SHARE: u32 = 50;
/// A pod whose own orders are waiting asks again after this time whether they still are.
const BUSY: Duration = Duration::from_millis(50);
/// Interval between two full looks. The others begin at the low-water mark: a full one may walk over a million index
/// entries of closed orders that an open snapshot keeps.
const FULL: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Looks {
    every: Duration,
    next: Instant,
    /// The next full look; also one that is made though the pod's own orders wait.
    full_at: Instant,
    /// Orders with an earlier deadline were closed, or cannot be closed now, when the last look ended.
    low_water: Option<DbTime>,
    full: bool,
    hurry_until: Option<Instant>,
}

impl Looks {
    /// The first look is a full one, after a random part of `every`: pods that start together look one after the other.
    pub fn new(every: Duration, now: Instant) -> Self {
        let next = now + every.mul_f64(random());
        Self { every, next, full_at: next, low_water: None, full: true, hurry_until: None }
    }

    /// When to look next.
    pub fn next(&self) -> Instant {
        self.next
    }

    /// Whether to look now. A pod with due orders of its own waiting leaves the others to idle pods, until a full look is due.
    pub fn begin(&mut self, now: Instant, behind: bool) -> bool {
        self.full = now >= self.full_at;
        if behind && !self.full {
            self.next = now + BUSY;
            return false;
        }
        true
    }

    /// The deadline from which on the look that has begun looks; `None` for all.
    pub fn from(&self) -> Option<DbTime> {
        self.low_water.filter(|_| !self.full)
    }

    /// A look has ended; it took this long, with closing. `away`: no wake can come now.
    pub fn done(&mut self, now: Instant, took: Duration, low_water: DbTime, found: bool, away: bool) {
        self.low_water = Some(low_water);
        if self.full {
            self.full_at = now + FULL;
        }
        if found || away {
            self.hurry_until = Some(now + HURRY_FOR);
        }
        let hurries = self.hurry_until.is_some_and(|until| now < until);
        // Some randomness in each wait, so that pods do not fall into step.
        let every = self.every.mul_f64(0.75 + 0.5 * random());
        let wait = if hurries { every.min(HURRY) } else { every };
        // What took long was closing, if something was found.
        self.next = now + if found { wait } else { wait.max(took * SHARE) };
    }
}

/// From 0 to 1.
fn random() -> f64 {
    f64::from(u16::try_from(RandomState::new().hash_one(0) >> 48).unwrap_or(0)) / f64::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn looks_follow_each_other_after_a_second_or_soon_while_wakes_are_missing() {
        let now = Instant::now();
        let mut looks = Looks::new(SECOND, now);
        assert!(looks.next() <= now + SECOND);
        let now = looks.next();
        assert!(looks.begin(now, false) && looks.from().is_none(), "the first look is a full one");
        looks.done(now, MS, DbTime(7), false, false);
        assert!((now + SECOND * 3 / 4..=now + SECOND * 5 / 4).contains(&looks.next()));
        assert!(looks.begin(now + SECOND, false));
        assert_eq!(looks.from(), Some(DbTime(7)), "the others begin at the low-water mark");
        looks.done(now + SECOND, MS, DbTime(8), true, false);
        assert!(looks.next() <= now + SECOND + HURRY);
        looks.done(now + 10 * SECOND, MS, DbTime(8), false, false);
        assert!(looks.next() <= now + 10 * SECOND + HURRY, "for a while");
        looks.done(now + 12 * SECOND, MS, DbTime(8), false, false);
        assert!(looks.next() > now + 12 * SECOND + HURRY);
        looks.done(now + 13 * SECOND, MS, DbTime(8), false, true);
        assert!(looks.next() <= now + 13 * SECOND + HURRY, "nothing found, but no wake can come");
        looks.done(now + 14 * SECOND, SECOND, DbTime(8), false, true);
        assert_eq!(looks.next(), now + 64 * SECOND, "looks that are slow are seldom");
    }

    #[test]
    fn a_pod_whose_own_orders_wait_looks_seldom_but_looks() {
        let mut looks = Looks::new(SECOND, Instant::now());
        let now = looks.next();
        assert!(looks.begin(now, true), "the first look is made in any case");
        looks.done(now, MS, DbTime(7), false, false);
        assert!(!looks.begin(now + SECOND, true));
        assert_eq!(looks.next(), now + SECOND + BUSY);
        assert!(looks.begin(now + SECOND, false));
        assert!(looks.begin(now + 30 * SECOND, true) && looks.from().is_none());
    }
}

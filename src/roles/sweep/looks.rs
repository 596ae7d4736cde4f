//! When the sweep looks, and from which deadline on. Pure but for the random phase.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::DbTime;

/// While wakes are missing, a look follows the last one after this time.
const HURRY: Duration = Duration::from_millis(100);
/// How long after an order was found the looks keep following each other like this.
const HURRY_FOR: Duration = Duration::from_secs(10);
/// Looks take at most a fiftieth of the time: an open snapshot may make each of them slow.
const SHARE: u32 = 50;
/// A pod whose own orders are waiting asks again after this time whether they still are.
const BUSY: Duration = Duration::from_millis(50);
/// Interval between two full looks. The others begin at the low-water mark: a full one may walk over a million index
/// entries of closed orders that an open snapshot keeps.
const FULL: Duration = Duration::from_secs(30);
/// The same, while orders fail that a look has tried: their low-water mark has passed.
const FULL_WHILE_FAILING: Duration = Duration::from_secs(10);

/// What a look saw.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// How long looking took, without closing.
    pub took: Duration,
    /// Orders with an earlier deadline were closed, or cannot be closed now.
    pub low_water: DbTime,
    /// Whether it closed an order.
    pub found: bool,
    /// Whether orders failed.
    pub failing: bool,
    /// Whether no wake can come now.
    pub away: bool,
}

#[derive(Debug)]
pub(super) struct Looks {
    every: Duration,
    next: Instant,
    /// The next full look; also one that is made though the pod's own orders wait.
    full_at: Instant,
    /// Of the last look.
    low_water: Option<DbTime>,
    /// How long the last full look and the last other one took.
    took: [Duration; 2],
    full: bool,
    hurry_until: Option<Instant>,
}

impl Looks {
    /// The first look is a full one, after a random part of `every`: pods that start together look one after the other.
    pub fn new(every: Duration, now: Instant) -> Self {
        let next = now + every.mul_f64(random());
        Self {
            every,
            next,
            full_at: next,
            low_water: None,
            took: [Duration::ZERO; 2],
            full: true,
            hurry_until: None,
        }
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

    /// A look has ended.
    pub fn done(&mut self, now: Instant, seen: Seen) {
        self.low_water = Some(seen.low_water);
        // A single slow look may have met a stall of the database, and says nothing about the next one.
        let before = std::mem::replace(&mut self.took[usize::from(self.full)], seen.took);
        let rest = seen.took.min(before) * SHARE;
        if self.full {
            self.full_at = now + FULL.max(rest);
        }
        if seen.failing {
            self.full_at = self.full_at.min(now + FULL_WHILE_FAILING.max(rest));
        }
        if seen.found || seen.away {
            self.hurry_until = Some(now + HURRY_FOR);
        }
        let hurries = self.hurry_until.is_some_and(|until| now < until);
        // Some randomness in each wait, so that pods do not fall into step.
        let every = self.every.mul_f64(0.75 + 0.5 * random());
        let wait = if hurries { every.min(HURRY) } else { every };
        // The next look begins at the low-water mark, whatever a full one costs.
        self.next = now + if self.full { wait } else { wait.max(rest) };
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

    fn seen(took: Duration) -> Seen {
        Seen { took, low_water: DbTime(8), found: false, failing: false, away: false }
    }

    #[test]
    fn looks_follow_each_other_after_a_second_or_soon_while_wakes_are_missing() {
        let now = Instant::now();
        let mut looks = Looks::new(SECOND, now);
        assert!(looks.next() <= now + SECOND);
        let now = looks.next();
        assert!(looks.begin(now, false) && looks.from().is_none(), "the first look is a full one");
        looks.done(now, Seen { low_water: DbTime(7), ..seen(MS) });
        assert!((now + SECOND * 3 / 4..=now + SECOND * 5 / 4).contains(&looks.next()));
        assert!(looks.begin(now + SECOND, false));
        assert_eq!(looks.from(), Some(DbTime(7)), "the others begin at the low-water mark");
        looks.done(now + SECOND, Seen { found: true, ..seen(MS) });
        assert!(looks.next() <= now + SECOND + HURRY);
        looks.done(now + 10 * SECOND, seen(MS));
        assert!(looks.next() <= now + 10 * SECOND + HURRY, "for a while");
        looks.done(now + 12 * SECOND, seen(MS));
        assert!(looks.next() > now + 12 * SECOND + HURRY);
        looks.done(now + 13 * SECOND, Seen { away: true, ..seen(MS) });
        assert!(looks.next() <= now + 13 * SECOND + HURRY, "nothing found, but no wake can come");
    }

    #[test]
    fn looks_that_are_slow_are_seldom_but_one_that_met_a_stall_delays_nothing() {
        let mut looks = Looks::new(SECOND, Instant::now());
        let now = looks.next();
        assert!(looks.begin(now, false));
        looks.done(now, seen(SECOND));
        assert!(looks.next() < now + 2 * SECOND, "a full look says nothing of the others");
        assert!(looks.begin(now + SECOND, false) && looks.from().is_some());
        looks.done(now + SECOND, seen(8 * SECOND));
        assert!(looks.next() < now + 3 * SECOND, "a stall");
        assert!(looks.begin(now + 2 * SECOND, false));
        looks.done(now + 2 * SECOND, seen(SECOND));
        assert_eq!(looks.next(), now + 52 * SECOND, "two in a row");
        assert!(looks.begin(now + 52 * SECOND, false) && looks.from().is_none(), "a full one is due");
        looks.done(now + 52 * SECOND, seen(2 * SECOND));
        assert!(
            !looks.begin(now + 101 * SECOND, true),
            "full looks are slow, too: the last two took at least a second"
        );
        assert!(looks.begin(now + 102 * SECOND, true));
    }

    #[test]
    fn what_failed_is_looked_at_again_before_the_next_full_look_would_come() {
        let mut looks = Looks::new(SECOND, Instant::now());
        let now = looks.next();
        assert!(looks.begin(now, false));
        looks.done(now, Seen { failing: true, ..seen(MS) });
        assert!(looks.begin(now + 9 * SECOND, false) && looks.from().is_some());
        looks.done(now + 9 * SECOND, seen(MS));
        assert!(looks.begin(now + 10 * SECOND, false) && looks.from().is_none());
        looks.done(now + 10 * SECOND, seen(MS));
        assert!(looks.begin(now + 39 * SECOND, false) && looks.from().is_some(), "nothing fails any more");
        assert!(looks.begin(now + 40 * SECOND, false) && looks.from().is_none());
    }

    #[test]
    fn a_pod_whose_own_orders_wait_looks_seldom_but_looks() {
        let mut looks = Looks::new(SECOND, Instant::now());
        let now = looks.next();
        assert!(looks.begin(now, true), "the first look is made in any case");
        looks.done(now, seen(MS));
        assert!(!looks.begin(now + SECOND, true));
        assert_eq!(looks.next(), now + SECOND + BUSY);
        assert!(looks.begin(now + SECOND, false));
        assert!(looks.begin(now + 30 * SECOND, true) && looks.from().is_none());
    }
}

//! Which delay lane a wake goes into, and for how long.
//!
//! A queue expires messages only at its head, so a lane must hold messages of (nearly) one length: one queue per window.
//! Everything here is pure; the caller passes `now`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::clock::DbTime;
use crate::wire::keys::KEY_DELAY;

/// One delay lane: a queue whose messages all wait about `length`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lane {
    /// As the operator wrote it, and part of the queue's name: `15m`.
    pub label: String,
    /// The payment window this lane serves in one hop.
    pub length: Duration,
}

/// The lanes in ascending order of length, with the two durations that the choice depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lanes {
    lanes: Vec<Lane>,
    /// How long before its moment a wake should reach a pod.
    lead: Duration,
    /// How much less than a lane's length may remain for a wake to take the lane with its exact remaining time.
    /// The tolerance bounds how long a message can stand behind an earlier one with a longer expiration.
    tolerance: Duration,
}

/// Where a wake goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// Straight to the pods: less time remains than any lane takes, and a pod holds the wake on a timer.
    Hold,
    /// Into lane `lane`, to arrive at a pod just before its moment.
    Last {
        /// Index into [`Lanes::as_slice`].
        lane: usize,
        /// The message's expiration.
        wait: Duration,
    },
    /// Into lane `lane`, to arrive early and be scheduled again.
    Stage {
        /// Index into [`Lanes::as_slice`].
        lane: usize,
        /// The message's expiration.
        wait: Duration,
    },
}

/// The longest lane: RabbitMQ keeps an expiration in 32 bits of milliseconds.
const LONGEST: Duration = Duration::from_millis(u32::MAX as u64);

/// The longest time that a pod without room holds a wake in memory: held wakes take room that due ones need.
pub const LONGEST_HOLD: Duration = Duration::from_secs(5);

/// A lane list that cannot work, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LaneError {
    #[error("at least one lane is needed, such as `1s,10s,1m,15m`")]
    Empty,
    #[error("`{0}` is not a length: write a whole number and a unit (ms, s, m, h, d), such as `15m`")]
    Label(String),
    /// Two names for one length would split one window over two queues.
    #[error("`{0}` and `{1}` are the same length: keep one")]
    Twice(String, String),
    #[error(
        "`{0}` is longer than the broker can count (49 days): longer windows take several hops by themselves"
    )]
    TooLong(String),
    #[error("the shortest lane, `{0}`, must be longer than lead and lane_tolerance together ({1:?})")]
    ShorterThanLead(String, Duration),
    /// Pods would hold wakes for longer than [`LONGEST_HOLD`].
    #[error(
        "the shortest lane, `{0}`, is longer than {LONGEST_HOLD:?}: keep a short one, such as `1s`, \
         because pods hold what is shorter than every lane"
    )]
    NoShortOne(String),
    #[error("lane_tolerance ({0:?}) must not exceed the lead ({1:?}), which makes up for its delay")]
    ToleranceOverLead(Duration, Duration),
}

impl Lane {
    /// Routing key into the lane.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{KEY_DELAY}.{self}")
    }
}

impl Lanes {
    /// Checks and sorts the list.
    ///
    /// # Errors
    /// A [`LaneError`] that names the lane or setting that cannot work, and why.
    pub fn new(labels: &str, lead: Duration, tolerance: Duration) -> Result<Self, LaneError> {
        let labels = labels.split(',').map(str::trim).filter(|label| !label.is_empty());
        let mut lanes = labels.map(Lane::from_str).collect::<Result<Vec<_>, _>>()?;
        lanes.sort_by_key(|lane| lane.length);
        let shortest = lanes.first().ok_or(LaneError::Empty)?;
        // With a shorter lane, a wake that has just left it, with the lead remaining, would fit into it again, forever.
        if shortest.length <= lead + tolerance {
            return Err(LaneError::ShorterThanLead(shortest.label.clone(), lead + tolerance));
        }
        if shortest.length > LONGEST_HOLD {
            return Err(LaneError::NoShortOne(shortest.label.clone()));
        }
        if tolerance > lead {
            return Err(LaneError::ToleranceOverLead(tolerance, lead));
        }
        if let Some([a, b]) = lanes.array_windows().find(|[a, b]| a.length == b.length) {
            return Err(LaneError::Twice(a.label.clone(), b.label.clone()));
        }
        Ok(Self { lanes, lead, tolerance })
    }

    /// The lanes, shortest first.
    #[must_use]
    pub fn as_slice(&self) -> &[Lane] {
        &self.lanes
    }

    /// The shortest expiration that a message in any lane can have.
    #[must_use]
    pub fn shortest_wait(&self) -> Duration {
        // More than zero: see `new`.
        self.lanes[0].length.saturating_sub(self.lead + self.tolerance)
    }

    /// The hop for a wake that is to look at its orders at `due`.
    ///
    /// A lane of length L carries expirations from L − lead − tolerance to L − lead. A wake that needs one of these
    /// takes it, exact to the millisecond. Any other takes the longest lane that brings it back before its moment.
    #[must_use]
    pub fn hop(&self, due: DbTime, now: DbTime) -> Hop {
        let remaining = due.since(now);
        let fitting = self
            .lanes
            .iter()
            .position(|lane| remaining <= lane.length && remaining + self.tolerance >= lane.length);
        if let Some(lane) = fitting {
            return Hop::Last { lane, wait: remaining.saturating_sub(self.lead) };
        }
        match self.lanes.iter().rposition(|lane| lane.length < remaining) {
            Some(lane) => Hop::Stage { lane, wait: self.lanes[lane].length.saturating_sub(self.lead) },
            None => Hop::Hold,
        }
    }
}

impl FromStr for Lane {
    type Err = LaneError;

    fn from_str(label: &str) -> Result<Self, LaneError> {
        let wrong = || LaneError::Label(label.to_owned());
        // The label names a queue and a routing key, where a dot or a space would mean something else.
        let digits = label.chars().take_while(char::is_ascii_digit).count();
        let unit = match &label[digits..] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        // Leading zeros would give one length many names, and a name longer than a queue's may be.
        if label.starts_with('0') {
            return Err(wrong());
        }
        let count: u64 = label[..digits].parse().map_err(|_| wrong())?;
        let length = Duration::from_millis(count.checked_mul(unit).ok_or_else(wrong)?);
        match length {
            length if length > LONGEST => Err(LaneError::TooLong(label.to_owned())),
            length => Ok(Self { label: label.to_owned(), length }),
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LEAD: Duration = Duration::from_millis(250);
    const TOLERANCE: Duration = Duration::from_millis(200);
    const DEFAULT: &str = "1s,2s,5s,10s,30s,1m,2m,5m,10m,15m,30m,1h,2h,6h,12h,24h,3d,7d";
    const NOW: DbTime = DbTime(1_767_225_600_000_000);

    fn lanes() -> Lanes {
        Lanes::new(DEFAULT, LEAD, TOLERANCE).expect("the default lanes")
    }

    fn secs(s: f64) -> Duration {
        Duration::from_secs_f64(s)
    }

    #[test]
    fn a_usual_window_takes_one_hop_with_the_exact_remaining_time() {
        let lanes = lanes();
        let quarter = lanes.as_slice().iter().position(|lane| lane.label == "15m").expect("15m");
        assert_eq!(lanes.hop(NOW.plus(secs(900.0)), NOW), Hop::Last { lane: quarter, wait: secs(899.75) });
        assert_eq!(lanes.hop(NOW.plus(secs(899.9)), NOW), Hop::Last { lane: quarter, wait: secs(899.65) });
    }

    #[test]
    fn another_window_takes_the_longest_lane_below_it_and_comes_back_early() {
        let lanes = lanes();
        assert_eq!(lanes.hop(NOW.plus(secs(1000.0)), NOW), Hop::Stage { lane: 9, wait: secs(899.75) });
        assert_eq!(lanes.hop(NOW.plus(secs(899.0)), NOW), Hop::Stage { lane: 8, wait: secs(599.75) });
    }

    #[test]
    fn what_is_nearly_due_or_overdue_goes_straight_to_the_pods() {
        let lanes = lanes();
        assert_eq!(lanes.hop(NOW.plus(secs(0.7)), NOW), Hop::Hold);
        assert_eq!(lanes.hop(NOW.minus(secs(70.0)), NOW), Hop::Hold);
    }

    #[test]
    fn a_list_that_cannot_work_is_refused_with_the_reason() {
        let refuse = |labels| Lanes::new(labels, LEAD, TOLERANCE).expect_err(labels).to_string();
        assert!(refuse("").contains("at least one lane"));
        assert!(refuse("1s,fast").contains("`fast` is not a length"));
        assert!(refuse("1s,1.5m").contains("`1.5m`"));
        assert!(refuse("0s").contains("`0s`"));
        assert!(refuse("1s,015m").contains("`015m`"));
        assert!(refuse("1s,60s,1m").contains("`60s` and `1m` are the same length"));
        assert!(refuse("1s,50d").contains("49 days"));
        assert!(refuse("15m,1h").contains("keep a short one"));
        assert!(refuse("200ms,1s").contains("must be longer than lead"));
        assert!(Lanes::new("1s", LEAD, secs(0.3)).is_err());
    }

    proptest! {
        /// Follows a wake hop by hop: it always arrives before its moment, each hop brings it nearer, and the last one
        /// arrives within lead + the shortest lane, so that a pod holds it for a bounded time.
        #[test]
        fn every_deadline_is_met_in_few_hops(window_ms in 0_u64..40 * 86_400_000) {
            let lanes = lanes();
            let due = NOW.plus(Duration::from_millis(window_ms));
            let mut now = NOW;
            let mut hops = 0;
            loop {
                match lanes.hop(due, now) {
                    Hop::Hold => break,
                    Hop::Last { lane, wait } => {
                        let longest = lanes.as_slice()[lane].length.saturating_sub(LEAD);
                        prop_assert!(wait <= longest && wait + TOLERANCE >= longest);
                        now = now.plus(wait);
                        prop_assert_eq!(due.since(now), LEAD);
                    }
                    Hop::Stage { lane, wait } => {
                        prop_assert_eq!(wait, lanes.as_slice()[lane].length.saturating_sub(LEAD));
                        now = now.plus(wait);
                        prop_assert!(due.since(now) > LEAD);
                    }
                }
                hops += 1;
                prop_assert!(hops <= 40, "{} hops for {} ms", hops, window_ms);
            }
            prop_assert!(due.since(now) < lanes.as_slice()[0].length);
        }
    }
}

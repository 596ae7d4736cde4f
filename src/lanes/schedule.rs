//! Puts wakes into the lanes: groups them into messages, chooses the lane, sets the expiration.

use std::time::Duration;

use lapin::BasicProperties;

use super::lane::{Hop, LONGEST_HOLD, Lanes};
use crate::clock::DbTime;
use crate::wire::keys::KEY_PROCESS;
use crate::wire::outgoing::Outgoing;
use crate::wire::wake::{self, WAKE_TYPE, Wake};

/// Wakes that come back early from their lane wait for others for this long, because all that take a lane together share a message.
pub const GATHER: Duration = Duration::from_millis(500);

#[derive(Clone, Debug)]
pub struct Scheduler {
    lanes: Lanes,
    coalesce: Duration,
    most: usize,
}

/// The content of one message: a hop and the orders that take it together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WakeGroup {
    pub hop: Hop,
    /// Earliest first.
    pub wakes: Vec<Wake>,
}

impl Scheduler {
    /// A scheduler for these lanes; see the settings of the same names.
    #[must_use]
    pub fn new(lanes: Lanes, coalesce: Duration, max_orders_per_wake: usize) -> Self {
        Self { lanes, coalesce, most: max_orders_per_wake }
    }

    /// Whether less time remains than any lane takes, so that a pod should hold this wake.
    #[must_use]
    pub fn holds(&self, wake: &Wake, now: DbTime) -> bool {
        self.lanes.hop(wake.due, now) == Hop::Hold
    }

    /// Whether a wake may wait for others, for up to [`GATHER`], before it goes into a lane: it would come back early, and so loses
    /// nothing by going a little later. One that takes its last lane now, or soon, goes at once.
    #[must_use]
    pub fn may_gather(&self, due: DbTime, now: DbTime) -> bool {
        due.since(now) > LONGEST_HOLD && matches!(self.lanes.hop(due, now), Hop::Stage { .. })
    }

    /// The messages that carry these wakes into their lanes, or straight to the pods.
    #[must_use]
    pub fn messages(&self, wakes: Vec<Wake>, now: DbTime) -> Vec<Outgoing> {
        self.groups(wakes, now).iter().map(|group| self.message(group, now)).collect()
    }

    /// Groups wakes by hop.
    ///
    /// On the last hop the deadlines of a group lie within `coalesce`, because the group arrives for the first of them.
    /// On any other hop it is enough that all take the same lane: they come back before the first deadline and are
    /// grouped again.
    fn groups(&self, mut wakes: Vec<Wake>, now: DbTime) -> Vec<WakeGroup> {
        wakes.sort_unstable();
        // An order whose deadline was moved often has a wake for each move, and all of them end at the last deadline.
        wakes.dedup_by_key(|wake| (wake.due, wake.order_id));
        let mut groups: Vec<WakeGroup> = Vec::new();
        // The open group of each lane, and last the one that goes straight to the pods; wakes come in order of `due`.
        let mut open: Vec<Option<usize>> = vec![None; self.lanes.as_slice().len() + 1];
        for wake in wakes {
            let hop = self.lanes.hop(wake.due, now);
            let slot = match hop {
                Hop::Hold => open.len() - 1,
                Hop::Last { lane, .. } | Hop::Stage { lane, .. } => lane,
            };
            match open[slot].map(|at| &mut groups[at]).filter(|group| self.takes(group, hop, &wake)) {
                Some(group) => group.wakes.push(wake),
                None => {
                    open[slot] = Some(groups.len());
                    groups.push(WakeGroup { hop, wakes: vec![wake] });
                }
            }
        }
        groups
    }

    fn takes(&self, group: &WakeGroup, hop: Hop, wake: &Wake) -> bool {
        group.wakes.len() < self.most
            && match (group.hop, hop) {
                (Hop::Hold, Hop::Hold) | (Hop::Stage { .. }, Hop::Stage { .. }) => true,
                (Hop::Last { .. }, Hop::Last { .. }) => wake.due.since(group.wakes[0].due) <= self.coalesce,
                (Hop::Hold | Hop::Last { .. } | Hop::Stage { .. }, _) => false,
            }
    }

    fn message(&self, group: &WakeGroup, now: DbTime) -> Outgoing {
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_type(WAKE_TYPE.into())
            .with_timestamp(u64::try_from(now.0 / 1_000_000).unwrap_or(0));
        let (key, properties) = match group.hop {
            Hop::Hold => (KEY_PROCESS.to_owned(), properties),
            Hop::Last { lane, wait } | Hop::Stage { lane, wait } => {
                // Rounded down: a message may come early, never late.
                let expiration = wait.as_millis().to_string();
                (self.lanes.as_slice()[lane].key(), properties.with_expiration(expiration.into()))
            }
        };
        Outgoing { key, body: wake::encode(&group.wakes), properties, mandatory: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: DbTime = DbTime(1_767_225_600_000_000);

    fn scheduler(most: usize) -> Scheduler {
        let lanes =
            Lanes::new("1s,5s,10s", Duration::from_millis(250), Duration::from_millis(200)).expect("lanes");
        Scheduler::new(lanes, Duration::from_millis(100), most)
    }

    fn wake(order_id: i64, millis: u64) -> Wake {
        Wake { due: NOW.plus(Duration::from_millis(millis)), order_id, attempt: 0, announced: false }
    }

    fn sizes(scheduler: &Scheduler, wakes: Vec<Wake>) -> Vec<usize> {
        scheduler.groups(wakes, NOW).iter().map(|group| group.wakes.len()).collect()
    }

    #[test]
    fn orders_of_one_lane_with_nearly_the_same_deadline_share_a_message() {
        let wakes = vec![wake(1, 4_900), wake(2, 5_000), wake(3, 4_999), wake(4, 4_850)];
        assert_eq!(sizes(&scheduler(200), wakes.clone()), [2, 2], "within 100 ms of the first of each");
        assert_eq!(sizes(&scheduler(1), wakes), [1, 1, 1, 1], "strictly one message per order");
    }

    #[test]
    fn only_a_wake_that_comes_back_early_and_has_time_may_wait_for_others() {
        let scheduler = scheduler(200);
        for (millis, may) in [
            (30_000, true),
            (7_000, true),
            (10_000, false),
            (9_900, false),
            (3_000, false),
            (500, false),
            (0, false),
        ] {
            assert_eq!(scheduler.may_gather(wake(1, millis).due, NOW), may, "{millis} ms");
        }
    }

    #[test]
    fn on_the_way_all_that_take_a_lane_travel_together() {
        assert_eq!(
            sizes(&scheduler(200), (0..150).map(|n| wake(n, 5_100 + 10 * n.unsigned_abs())).collect()),
            [150]
        );
        assert_eq!(
            sizes(&scheduler(200), (0..250).map(|n| wake(n, 20_000 + n.unsigned_abs())).collect()),
            [200, 50]
        );
    }

    #[test]
    fn the_expiration_is_the_exact_remaining_time_less_the_lead() {
        let message = scheduler(200).messages(vec![wake(1, 4_987)], NOW).remove(0);
        assert_eq!(message.key, "order.delay.5s");
        assert_eq!(message.properties.expiration().as_ref().map(|text| text.as_str()), Some("4737"));
        let message = scheduler(200).messages(vec![wake(1, 500)], NOW).remove(0);
        assert_eq!(message.key, "order.process");
        assert!(message.properties.expiration().is_none());
    }

    proptest! {
        #[test]
        fn no_wake_is_lost_or_doubled_and_every_load_arrives_in_time(
            millis in prop::collection::vec(0_u64..30_000, 0..400), most in 1_usize..300,
        ) {
            let wakes: Vec<_> = (1..).zip(&millis).map(|(n, ms)| wake(n, *ms)).collect();
            let groups = scheduler(most).groups(wakes.clone(), NOW);
            let mut out: Vec<_> = groups.iter().flat_map(|group| group.wakes.clone()).collect();
            out.sort_unstable_by_key(|wake| wake.order_id);
            prop_assert_eq!(out, wakes);
            for group in &groups {
                prop_assert!(group.wakes.len() <= most);
                let (Hop::Last { wait, .. } | Hop::Stage { wait, .. }) = group.hop else { continue };
                for wake in &group.wakes {
                    prop_assert!(NOW.plus(wait) <= wake.due);
                }
            }
        }
    }
}

//! What a pod has in flight: wakes on their timers, and for each message how many of its orders are open. Pure.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use crate::clock::DbTime;
use crate::wire::wake::Wake;

/// A message's delivery tag: it names the message on its channel until it is acknowledged.
pub type Tag = u64;

/// A wake in flight, with the message that brought it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Held {
    /// The first field, so that the heap is ordered by due time.
    pub wake: Wake,
    /// The message to be acknowledged when all of its orders are done.
    pub tag: Tag,
    /// How many times in a row the order was found locked.
    pub deferrals: u32,
}

/// Wakes on a timer and messages to be acknowledged.
#[derive(Debug, Default)]
pub struct InFlight {
    waiting: BinaryHeap<Reverse<Held>>,
    /// Wakes of orders that have failed before: closed apart, so that the others need not wait for them.
    failed: BinaryHeap<Reverse<Held>>,
    /// How many orders of each message are not done yet.
    open: BTreeMap<Tag, usize>,
    /// The sum of `open`.
    orders: usize,
    /// Messages whose orders are all done and that are not acknowledged yet.
    owed: Vec<Tag>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    pub tag: Tag,
    /// Whether it also acknowledges all messages delivered before.
    pub multiple: bool,
}

impl InFlight {
    /// Takes a message with this many orders. A message without orders is done when [`InFlight::done`] is called once.
    pub fn take(&mut self, tag: Tag, orders: usize) {
        self.open.insert(tag, orders);
        self.orders += orders;
    }

    /// Puts a wake on the timer; its message was taken before.
    pub fn hold(&mut self, held: Held) {
        let timer = if held.wake.attempt > 0 { &mut self.failed } else { &mut self.waiting };
        timer.push(Reverse(held));
    }

    /// When the next wake is due whose order has not failed before.
    #[must_use]
    pub fn next_due(&self) -> Option<DbTime> {
        next(&self.waiting)
    }

    /// When the next wake is due whose order has failed before.
    #[must_use]
    pub fn next_failed_due(&self) -> Option<DbTime> {
        next(&self.failed)
    }

    /// Takes up to `most` due wakes off the timer, of orders that have not failed before.
    pub fn due(&mut self, now: DbTime, most: usize) -> Vec<Held> {
        take_due(&mut self.waiting, now, most)
    }

    /// Takes up to `most` due wakes off the timer, of orders that have failed before.
    pub fn failed_due(&mut self, now: DbTime, most: usize) -> Vec<Held> {
        take_due(&mut self.failed, now, most)
    }

    /// Takes all wakes off the timer, due or not.
    pub fn take_held(&mut self) -> Vec<Held> {
        self.waiting.drain().chain(self.failed.drain()).map(|Reverse(held)| held).collect()
    }

    /// Marks one order of a message as done. After its last order, the message is to be acknowledged.
    pub fn done(&mut self, tag: Tag) {
        let Some(open) = self.open.get_mut(&tag) else {
            return;
        };
        if *open > 0 {
            *open -= 1;
            self.orders -= 1;
        }
        if *open == 0 {
            self.open.remove(&tag);
            self.owed.push(tag);
        }
    }

    /// Takes the acknowledgements that are owed, as few as possible: one for all messages before the first open one, and one
    /// for each of the others.
    pub fn take_acks(&mut self) -> Vec<Ack> {
        let mut owed = std::mem::take(&mut self.owed);
        owed.sort_unstable();
        let first_open = self.open.first_key_value().map_or(Tag::MAX, |(tag, _)| *tag);
        let together = owed.partition_point(|tag| *tag < first_open);
        let each = owed.iter().skip(together.saturating_sub(1)).enumerate();
        each.map(|(n, tag)| Ack { tag: *tag, multiple: n == 0 && together > 1 }).collect()
    }

    /// Messages that are done and not acknowledged yet.
    #[must_use]
    pub fn owed(&self) -> usize {
        self.owed.len()
    }

    /// Orders in flight, whether waiting, being closed, or being scheduled again.
    #[must_use]
    pub fn orders(&self) -> usize {
        self.orders
    }

    /// Messages with orders that are not done.
    #[must_use]
    pub fn messages(&self) -> usize {
        self.open.len()
    }

    /// Messages that the broker counts as unacknowledged: those with open orders, and those that are done but
    /// not acknowledged yet.
    #[must_use]
    pub fn unacknowledged(&self) -> usize {
        self.open.len() + self.owed.len()
    }
}

fn next(timer: &BinaryHeap<Reverse<Held>>) -> Option<DbTime> {
    timer.peek().map(|Reverse(held)| held.wake.due)
}

fn take_due(timer: &mut BinaryHeap<Reverse<Held>>, now: DbTime, most: usize) -> Vec<Held> {
    let mut due = Vec::new();
    while due.len() < most && next(timer).is_some_and(|at| at <= now) {
        due.extend(timer.pop().map(|Reverse(held)| held));
    }
    due
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(due: i64, order_id: i64, tag: Tag) -> Held {
        Held { wake: Wake { due: DbTime(due), order_id, attempt: 0, announced: false }, tag, deferrals: 0 }
    }

    #[test]
    fn a_message_is_acknowledged_when_the_last_of_its_orders_is_done() {
        let mut in_flight = InFlight::default();
        in_flight.take(1, 2);
        in_flight.take(2, 1);
        for held in [held(30, 103, 2), held(10, 101, 1), held(20, 102, 1)] {
            in_flight.hold(held);
        }
        assert_eq!(
            (in_flight.orders(), in_flight.messages(), in_flight.next_due()),
            (3, 2, Some(DbTime(10)))
        );
        assert_eq!(in_flight.due(DbTime(20), 10), [held(10, 101, 1), held(20, 102, 1)]);
        in_flight.done(1);
        assert_eq!((in_flight.owed(), in_flight.unacknowledged()), (0, 2));
        in_flight.done(1);
        assert_eq!((in_flight.owed(), in_flight.unacknowledged()), (1, 2));
        assert_eq!(in_flight.take_acks(), [Ack { tag: 1, multiple: false }]);
        assert_eq!(in_flight.due(DbTime(99), 10), [held(30, 103, 2)]);
        in_flight.done(2);
        in_flight.done(2);
        assert_eq!(in_flight.take_acks(), [Ack { tag: 2, multiple: false }]);
        assert_eq!((in_flight.orders(), in_flight.unacknowledged(), in_flight.next_due()), (0, 0, None));
    }

    #[test]
    fn wakes_that_have_failed_before_are_taken_apart() {
        let mut in_flight = InFlight::default();
        in_flight.take(1, 2);
        let failed = Held { wake: Wake { attempt: 1, ..held(10, 101, 1).wake }, ..held(10, 101, 1) };
        in_flight.hold(failed);
        in_flight.hold(held(20, 102, 1));
        assert_eq!((in_flight.next_due(), in_flight.next_failed_due()), (Some(DbTime(20)), Some(DbTime(10))));
        assert_eq!(in_flight.due(DbTime(99), 10), [held(20, 102, 1)]);
        assert_eq!(in_flight.failed_due(DbTime(99), 10), [failed]);
        in_flight.hold(failed);
        assert_eq!(in_flight.take_held(), [failed]);
    }

    #[test]
    fn a_message_without_orders_is_open_until_it_is_done() {
        let mut in_flight = InFlight::default();
        in_flight.take(1, 0);
        assert_eq!((in_flight.orders(), in_flight.messages(), in_flight.owed()), (0, 1, 0));
        in_flight.done(1);
        assert_eq!((in_flight.messages(), in_flight.take_acks()), (0, vec![Ack { tag: 1, multiple: false }]));
    }

    #[test]
    fn one_acknowledgement_covers_no_message_that_is_still_open() {
        let acks = |done: &[Tag], delivered: Tag| {
            let mut in_flight = InFlight::default();
            for tag in 1..=delivered {
                in_flight.take(tag, 1);
            }
            for tag in done {
                in_flight.done(*tag);
            }
            in_flight.take_acks().into_iter().map(|ack| (ack.tag, ack.multiple)).collect::<Vec<_>>()
        };
        assert_eq!(acks(&[], 3), []);
        assert_eq!(acks(&[2, 1, 3], 3), [(3, true)], "all of them");
        assert_eq!(acks(&[1, 2, 4, 6], 6), [(2, true), (4, false), (6, false)], "the third is open");
        assert_eq!(acks(&[2, 3], 3), [(2, false), (3, false)], "the first is open");
        assert_eq!(acks(&[1, 3], 3), [(1, false), (3, false)], "a single message needs no multiple");
    }
}

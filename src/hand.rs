//! What a pod has in hand: wakes on their timer, and for each message how many of its orders are still open.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use crate::clock::DbTime;
use crate::wake::Wake;

/// A message's delivery tag: it names the message on its channel until it is acknowledged.
pub type Tag = u64;

/// A wake in hand, with the message that brought it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Held {
    /// First, so that the heap is ordered by the moment.
    pub wake: Wake,
    /// The message to be acknowledged when all of its orders are done.
    pub tag: Tag,
    /// How many times in a row the order was found locked.
    pub deferrals: u32,
}

/// Wakes on a timer and messages to be acknowledged.
#[derive(Debug, Default)]
pub struct Hand {
    waiting: BinaryHeap<Reverse<Held>>,
    /// Orders of each message that are not done yet.
    open: HashMap<Tag, usize>,
    /// The sum of `open`.
    orders: usize,
}

impl Hand {
    /// Takes a message with this many orders in hand.
    pub fn take(&mut self, tag: Tag, orders: usize) {
        self.open.insert(tag, orders);
        self.orders += orders;
    }

    /// Puts a wake of a message in hand on the timer.
    pub fn wait(&mut self, held: Held) {
        self.waiting.push(Reverse(held));
    }

    /// The moment of the next wake.
    #[must_use]
    pub fn next_due(&self) -> Option<DbTime> {
        self.waiting.peek().map(|Reverse(held)| held.wake.due)
    }

    /// Takes at most `most` wakes off the timer whose moment has come.
    pub fn due(&mut self, now: DbTime, most: usize) -> Vec<Held> {
        let mut due = Vec::new();
        while due.len() < most && self.next_due().is_some_and(|at| at <= now) {
            due.extend(self.waiting.pop().map(|Reverse(held)| held));
        }
        due
    }

    /// Takes all wakes off the timer, whatever their moment.
    pub fn leave(&mut self) -> Vec<Held> {
        self.waiting.drain().map(|Reverse(held)| held).collect()
    }

    /// Notes that one order of a message is done; true when it was the last, so that the message is to be acknowledged.
    #[must_use]
    pub fn done(&mut self, tag: Tag) -> bool {
        let Some(open) = self.open.get_mut(&tag) else {
            return false;
        };
        *open -= 1;
        self.orders -= 1;
        let last = *open == 0;
        if last {
            self.open.remove(&tag);
        }
        last
    }

    /// Orders in hand, whether waiting, being closed, or being scheduled again.
    #[must_use]
    pub fn orders(&self) -> usize {
        self.orders
    }

    /// Messages in hand.
    #[must_use]
    pub fn messages(&self) -> usize {
        self.open.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(due: i64, order_id: i64, tag: Tag) -> Held {
        Held { wake: Wake { due: DbTime(due), order_id, attempt: 0 }, tag, deferrals: 0 }
    }

    #[test]
    fn a_message_is_acknowledged_when_the_last_of_its_orders_is_done() {
        let mut hand = Hand::default();
        hand.take(1, 2);
        hand.take(2, 1);
        for held in [held(30, 103, 2), held(10, 101, 1), held(20, 102, 1)] {
            hand.wait(held);
        }
        assert_eq!((hand.orders(), hand.messages(), hand.next_due()), (3, 2, Some(DbTime(10))));
        assert_eq!(hand.due(DbTime(20), 10), [held(10, 101, 1), held(20, 102, 1)]);
        assert!(!hand.done(1));
        assert!(hand.done(1));
        assert_eq!(hand.due(DbTime(99), 10), [held(30, 103, 2)]);
        assert!(hand.done(2) && !hand.done(2));
        assert_eq!((hand.orders(), hand.messages(), hand.next_due()), (0, 0, None));
    }
}

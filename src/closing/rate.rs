//! `close_rate`: how many orders are closed in a second, so that a million due orders after an outage leave the database to buyers.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// This pod's share of the rate of all pods together.
#[derive(Debug)]
pub struct Rate {
    /// Orders a second; 0 is no limit.
    of_all: u32,
    /// Pods that close.
    pods: AtomicU32,
    /// When the next batch is to begin.
    next: Mutex<Instant>,
}

/// A batch that begins late, because timers and answers come late, shortens the waits of the next ones by this much at most. Without
/// that, a busy pod would stay a third below its rate.
const MADE_UP: Duration = Duration::from_millis(20);

impl Rate {
    /// Of all pods together; 0 is no limit.
    #[must_use]
    pub fn new(of_all: u32) -> Self {
        Self { of_all, pods: AtomicU32::new(1), next: Mutex::new(Instant::now()) }
    }

    /// Shares the rate with this many pods, this one included.
    pub fn share(&self, pods: u32) {
        self.pods.store(pods.max(1), Ordering::Relaxed);
    }

    /// How many pods share the rate.
    pub fn pods(&self) -> u32 {
        self.pods.load(Ordering::Relaxed)
    }

    /// Whether there is a rate.
    pub fn is_limited(&self) -> bool {
        self.of_all > 0
    }

    /// Waits until a batch of so many orders may begin: at once after a quiet time, or when the batch before it has had its time.
    pub async fn wait(&self, orders: usize) -> Turn<'_> {
        // Made before the wait, which may be given up, too.
        let mut turn = Turn { rate: self, left: 0 };
        if self.is_limited() {
            let begin = self.turn(orders, Instant::now());
            turn.left = orders;
            sleep_until(begin).await;
        }
        turn
    }

    fn give_back(&self, orders: usize) {
        if self.is_limited() && orders > 0 {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            *next = next.checked_sub(self.time_of(orders)).unwrap_or(*next);
        }
    }

    /// When this batch may begin. The next one may when this one's orders have had their time.
    fn turn(&self, orders: usize, now: Instant) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let due = now.checked_sub(MADE_UP).map_or(*next, |earliest| earliest.max(*next));
        *next = due + self.time_of(orders);
        due.max(now)
    }

    fn time_of(&self, orders: usize) -> Duration {
        Duration::from_secs_f64(orders as f64 * f64::from(self.pods()) / f64::from(self.of_all))
    }
}

/// The time of a batch. Orders that it did not close give theirs back: paid meanwhile, locked, or given up in an outage.
#[derive(Debug)]
#[must_use]
pub struct Turn<'r> {
    rate: &'r Rate,
    left: usize,
}

impl Turn<'_> {
    /// So many orders of the batch were closed.
    pub fn used(mut self, closed: usize) {
        self.left = self.left.saturating_sub(closed);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.rate.give_back(self.left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A rate of 1,000 orders a second, and the moment from which it counts.
    fn thousand() -> (Rate, Instant) {
        let rate = Rate::new(1_000);
        let start = *rate.next.lock().expect("the rate");
        (rate, start)
    }

    #[test]
    fn batches_follow_one_another_at_the_rate_and_the_first_after_a_rest_begins_at_once() {
        let (rate, start) = thousand();
        let begins: Vec<_> = [50, 50, 100, 1].map(|orders| rate.turn(orders, start) - start).to_vec();
        assert_eq!(begins, [Duration::ZERO, 50 * MS, 100 * MS, 200 * MS]);
        let later = start + 500 * MS;
        let begins: Vec<_> = [15, 15, 15].map(|orders| rate.turn(orders, later) - later).to_vec();
        assert_eq!(begins, [Duration::ZERO, Duration::ZERO, 10 * MS], "a rest saves up next to nothing");
    }

    #[test]
    fn batches_that_begin_late_are_made_up_for() {
        let (rate, start) = thousand();
        // Each is asked for 3 ms after it might have begun.
        let last = (0..100).fold(start, |now, _| rate.turn(10, now + 3 * MS).max(now + 3 * MS));
        let took = last - start;
        assert!(took < 1_010 * MS, "99 batches of 10 ms began within {took:?}");
    }

    #[test]
    fn only_orders_that_are_closed_take_their_time() {
        let (rate, start) = thousand();
        // Two batches are at work at one time; of each, nine of ten orders were paid.
        let mut begins: Vec<_> = [100, 100].map(|orders| rate.turn(orders, start)).to_vec();
        for batch in 0..20 {
            rate.give_back(90);
            begins.push(rate.turn(100, begins[batch]));
        }
        let took = begins[21] - start;
        assert!(took < 350 * MS, "22 batches, 220 closed orders, began within {took:?}");
    }

    #[tokio::test]
    async fn a_batch_that_is_given_up_gives_its_time_back() {
        let (rate, start) = thousand();
        drop(rate.wait(60_000).await);
        let turn = rate.wait(1_000).await;
        assert!(tokio::time::timeout(Duration::ZERO, rate.wait(60_000)).await.is_err(), "a second is taken");
        turn.used(1_000);
        assert!(rate.turn(1, Instant::now()) - start < 30_000 * MS);
    }

    #[test]
    fn pods_share_the_rate() {
        let (rate, start) = thousand();
        rate.share(4);
        rate.turn(50, start);
        assert_eq!(rate.turn(50, start) - start, 200 * MS);
        rate.share(0);
        assert_eq!(rate.turn(1, start) - start, 400 * MS, "at least this pod");
    }
}

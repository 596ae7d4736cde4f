//! Decides whether a failure is an order's own or common to all orders. Pure.
//!
//! An order that fails while others are closed is itself the cause. If no order is closed and all fail with one code, the
//! failure is common: a broken trigger was deployed, or a grant was revoked. Attempts must not be counted then, or one
//! mistake would park every order that is due.

use std::collections::HashSet;

/// This many orders must fail alike, with none closed in between, before a failure is common: fewer may each be bad.
const ENOUGH: usize = 3;

/// Maximum number of orders remembered as bad. Beyond it all are forgotten, and some attempts are not counted.
const MOST_KNOWN: usize = 100_000;

/// Maximum number of orders remembered that fail alike, and of those that are slow.
const MOST_FRESH: usize = 1_000;

/// What the failures since the last closed order have in common.
#[derive(Debug, Default)]
pub(super) struct Suspicion {
    /// The SQLSTATE that they share.
    code: String,
    /// Orders that first failed with this code after the last order was closed.
    fresh: HashSet<i64>,
    /// Orders that were too slow for a batch, if no order has been closed since that batch began.
    slow: HashSet<i64>,
    /// Number of batches that closed orders.
    closes: u64,
    /// Orders that failed while others were closed.
    known: HashSet<i64>,
}

impl Suspicion {
    /// Whether a failure with this code is expected: enough orders failed with it, and none has been closed since.
    pub fn expects(&self, code: &str) -> bool {
        self.fresh.len() >= ENOUGH && self.code == code
    }

    /// Number of batches that have closed orders so far.
    pub fn closes(&self) -> u64 {
        self.closes
    }

    /// Records orders that were too slow for a batch; `closes_before` is the value of `closes` when the batch began. If other
    /// orders were closed while these were slow, or are closed before these fail, their failure is their own.
    pub fn suspect(&mut self, slow: impl Iterator<Item = i64>, closes_before: u64) {
        if self.closes == closes_before {
            let room = MOST_FRESH.saturating_sub(self.slow.len());
            self.slow.extend(slow.take(room));
        } else {
            self.remember(slow);
        }
    }

    /// Records what became of a batch, and returns the orders whose failure is common.
    pub fn judge(&mut self, closed: usize, failed: &[(i64, &str)]) -> HashSet<i64> {
        let orders = failed.iter().map(|(order, _)| *order);
        if closed > 0 {
            self.closes += 1;
            self.acquit();
            self.remember(orders);
            return HashSet::new();
        }
        let Some((_, code)) = failed.first() else { return HashSet::new() };
        let alike = failed.iter().all(|(_, other)| other == code);
        if !alike || self.code != *code {
            self.fresh.clear();
            (*code).clone_into(&mut self.code);
        }
        if !alike {
            return HashSet::new();
        }
        let fresh: HashSet<_> = orders.filter(|order| !self.known.contains(order)).collect();
        let room = MOST_FRESH.saturating_sub(self.fresh.len());
        self.fresh.extend(fresh.iter().take(room));
        if self.expects(code) { fresh } else { HashSet::new() }
    }

    /// An order was closed, so the failures before it were not common: remembers those orders as bad.
    fn acquit(&mut self) {
        let (fresh, slow) = (std::mem::take(&mut self.fresh), std::mem::take(&mut self.slow));
        self.remember(fresh.into_iter().chain(slow));
    }

    fn remember(&mut self, orders: impl Iterator<Item = i64>) {
        if self.known.len() > MOST_KNOWN {
            self.known.clear();
        }
        self.known.extend(orders);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The orders whose failure is common, of a batch in which all orders fail with one code.
    fn nobodys(suspicion: &mut Suspicion, orders: &[i64], code: &str) -> Vec<i64> {
        let failed: Vec<_> = orders.iter().map(|order| (*order, code)).collect();
        let nobodys = suspicion.judge(0, &failed);
        orders.iter().copied().filter(|order| nobodys.contains(order)).collect()
    }

    #[test]
    fn where_nothing_is_closed_and_all_fail_alike_it_is_nobodys() {
        let mut suspicion = Suspicion::default();
        assert_eq!(nobodys(&mut suspicion, &[1, 2, 3, 4], "42501"), [1, 2, 3, 4]);
        assert!(suspicion.expects("42501") && !suspicion.expects("P0001"));
        assert_eq!(nobodys(&mut suspicion, &[5], "42501"), [5], "and a later one, even alone");
    }

    #[test]
    fn few_orders_that_fail_are_to_blame_themselves() {
        let mut suspicion = Suspicion::default();
        assert_eq!(nobodys(&mut suspicion, &[1], "SHOP1"), [0; 0]);
        assert_eq!(nobodys(&mut suspicion, &[1], "SHOP1"), [0; 0], "the same order again");
        assert_eq!(nobodys(&mut suspicion, &[2], "SHOP1"), [0; 0]);
        assert_eq!(nobodys(&mut suspicion, &[3], "SHOP1"), [3], "a third one, with none closed meanwhile");
    }

    #[test]
    fn orders_that_failed_while_others_were_closed_stay_to_blame_when_they_come_again_together() {
        let mut suspicion = Suspicion::default();
        let bad: Vec<_> = (1..=40).collect();
        let failed: Vec<_> = bad.iter().map(|order| (*order, "SHOP1")).collect();
        assert!(suspicion.judge(35, &failed).is_empty());
        assert_eq!(nobodys(&mut suspicion, &bad, "SHOP1"), [0; 0], "a batch of nothing but bad ones");
        assert_eq!(nobodys(&mut suspicion, &[41, 42], "SHOP1"), [0; 0], "few new ones");
    }

    #[test]
    fn different_codes_are_different_orders_troubles_and_a_close_ends_the_suspicion() {
        let mut suspicion = Suspicion::default();
        let mixed = [(1, "P0001"), (2, "23514"), (3, "P0001"), (4, "P0001")];
        assert!(suspicion.judge(0, &mixed).is_empty());
        assert_eq!(nobodys(&mut suspicion, &[5, 6, 7], "P0001"), [5, 6, 7]);
        suspicion.judge(1, &[]);
        assert!(!suspicion.expects("P0001"));
        assert_eq!(nobodys(&mut suspicion, &[5, 6, 7], "P0001"), [0; 0], "one was closed since they failed");
    }

    #[test]
    fn orders_that_are_slow_while_others_are_closed_are_to_blame_when_they_fail_later() {
        let mut suspicion = Suspicion::default();
        let before = suspicion.closes();
        suspicion.judge(20, &[]);
        suspicion.suspect([1, 2, 3].into_iter(), before);
        for order in [1, 2, 3] {
            assert_eq!(nobodys(&mut suspicion, &[order], "57014"), [0; 0]);
        }
        // Others were closed after these were slow and before they failed.
        suspicion.suspect([4, 5, 6].into_iter(), suspicion.closes());
        suspicion.judge(1, &[]);
        assert_eq!(nobodys(&mut suspicion, &[4, 5, 6], "57014"), [0; 0]);
        // If every order is slow, the failure is common.
        suspicion.suspect([7, 8, 9].into_iter(), suspicion.closes());
        assert_eq!(nobodys(&mut suspicion, &[7, 8, 9], "57014"), [7, 8, 9]);
    }
}

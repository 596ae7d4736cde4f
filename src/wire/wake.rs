//! A wake: "look at this order at this moment". A hint only; the database decides what happens then.

use crate::clock::DbTime;

/// One order to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wake {
    /// When to look, on the database's clock. The first field, so that wakes sort by it.
    pub due: DbTime,
    pub order_id: i64,
    /// How many times closing this order has failed. Counted in the body, because the meaning of the broker's counters
    /// depends on its version.
    pub attempt: u32,
    /// Whether a service's message named the order. Such an order may not be committed yet, or never be; an order that
    /// the database's trigger recorded existed at that time.
    pub announced: bool,
}

/// The property `type` of the messages in lanes and process queue.
pub const WAKE_TYPE: &str = "overdue.wake";

/// The most orders in a message, so that a forged one cannot make a pod hold an unlimited number.
pub const MAX_ORDERS_PER_WAKE: usize = 1_000;

/// Writes the body of a message that wakes these orders: `{"wake":[[order_id,due_µs,attempt],…]}`, with a
/// fourth element, 1, where a service's message named the order.
#[must_use]
pub fn encode(wakes: &[Wake]) -> Vec<u8> {
    use std::io::Write;
    let mut body = Vec::with_capacity(10 + wakes.len() * 40);
    body.extend_from_slice(b"{\"wake\":[");
    for (n, Wake { due, order_id, attempt, announced }) in wakes.iter().enumerate() {
        let comma = if n == 0 { "" } else { "," };
        // Writing to a Vec cannot fail.
        let _ = write!(body, "{comma}[{order_id},{},{attempt}{}]", due.0, if *announced { ",1" } else { "" });
    }
    body.extend_from_slice(b"]}");
    body
}

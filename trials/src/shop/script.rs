//! What becomes of each order, drawn from the seed before the round begins.

use std::time::Duration;

use overdue_testkit::random::Random;
use rand::Rng;
use rand::seq::IndexedRandom;

/// Products 1 to this; product 1 is in many orders.
pub const PRODUCTS: i64 = 20;
/// Of each product, at the beginning.
pub const STOCK: i64 = 1_000_000;

/// One order, from its placing to its end.
#[derive(Clone, Debug)]
pub struct Life {
    /// When it is placed, from the beginning of the load.
    pub at: Duration,
    /// How long it can be paid.
    pub window: Duration,
    /// Products and quantities, in the order of the products.
    pub items: Vec<(i64, i64)>,
    /// How Overdue hears of it.
    pub via: Via,
    /// What its buyer does.
    pub end: End,
}

/// How Overdue hears of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// By the trigger.
    Sql,
    /// By the trigger and by messages, more than once.
    Both,
    /// By a message alone, with the deadline in its body.
    Message,
    /// By a message alone, with the delay as its expiration.
    Expiration,
}

/// What a buyer does with an order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    /// Nothing.
    Left,
    /// Pays after this share of the window: 1.0 is a race with the deadline.
    Paid(f64),
    /// Cancels after this share of the window, by the shop's own SQL.
    Cancelled(f64),
    /// Cancels with Overdue's command, which also records an event.
    CancelledByCommand,
    /// Gets so much more time after half the window, and pays or does not.
    Extended(Duration, bool),
}

/// Draws the orders of one round.
pub fn draw(random: &mut Random, load: Duration, per_second: u32, longest: Duration) -> Vec<Life> {
    let count = load.as_millis() * u128::from(per_second) / 1_000;
    let mut lives: Vec<_> = (0..count).map(|_| life(random, load, longest)).collect();
    lives.sort_by_key(|life| life.at);
    lives
}

fn life(random: &mut Random, load: Duration, longest: Duration) -> Life {
    let window =
        Duration::from_millis(random.random_range(300..=u64::try_from(longest.as_millis()).unwrap_or(1)));
    let mut products: Vec<i64> =
        (2..=PRODUCTS).collect::<Vec<_>>().choose_multiple(random, 2).copied().collect();
    if random.random_bool(0.3) {
        products.push(1);
    }
    products.sort_unstable();
    products.truncate(random.random_range(1..=3));
    let via = match random.random_range(0..100) {
        0..70 => Via::Sql,
        70..80 => Via::Both,
        80..92 => Via::Message,
        _ => Via::Expiration,
    };
    let end = match random.random_range(0..100) {
        0..45 => End::Left,
        45..60 => End::Paid(random.random_range(0.0..0.95)),
        60..78 => End::Paid(random.random_range(0.98..1.02)),
        78..88 => End::Cancelled(random.random_range(0.1..1.0)),
        88..89 => End::CancelledByCommand,
        _ => End::Extended(Duration::from_millis(random.random_range(1..2_000)), random.random_bool(0.3)),
    };
    // A moved deadline is the trigger's business: a service that announces by message sends another one.
    let via = if matches!(end, End::Extended(..)) && via != Via::Both { Via::Sql } else { via };
    Life {
        at: load.mul_f64(random.random_range(0.0..1.0)),
        window,
        items: products.into_iter().map(|product| (product, random.random_range(1..=3))).collect(),
        via,
        end,
    }
}

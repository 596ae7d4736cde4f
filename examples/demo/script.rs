//! The script: what happens to each order. Pure, and the same in every run, so that two runs can be compared.

use std::time::Duration;

use overdue_testkit::random::{Random, Rng, seeded};

/// Orders in all, and the time over which they are placed: about 235 a second.
const ORDERS: u32 = 4_000;
const OVER: Duration = Duration::from_secs(17);
pub const PRODUCTS: i64 = 20;
/// Initial stock of each product: enough that no order is refused.
pub const STOCK: i64 = 10_000;
/// The first few products are in most demand.
const HOT: i64 = 3;

/// What happens to one order.
#[derive(Clone, Debug)]
pub struct Part {
    /// When it is placed, from the opening of the shop.
    pub at: Duration,
    pub user_id: i64,
    /// How long the buyer has to pay.
    pub window: Duration,
    /// Products in ascending order, with quantities.
    pub items: Vec<(i64, i64)>,
    /// How and when a service also announces it by AMQP, if at all.
    pub announced: Option<(Form, Timing)>,
    pub fate: Fate,
}

/// The body forms of an order-created message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `{"order_id": 1, "payment_deadline": "…"}`
    Deadline,
    /// `{"order_id": 1}` with the delay as `expiration`.
    Delay,
    /// `1` with the delay as `expiration`.
    Number,
    /// CloudEvents 1.0, structured JSON.
    CloudEvent,
}

impl Form {
    pub const ALL: [Self; 4] = [Self::Deadline, Self::Delay, Self::Number, Self::CloudEvent];
}

/// When a service announces an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timing {
    AfterCommit,
    /// A service that publishes inside its transaction: the message arrives before the order is visible.
    BeforeCommit,
    /// A service that retries.
    Twice,
}

/// What becomes of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Unpaid,
    /// Paid this long after it was placed.
    Paid(Duration),
    /// Paid this long after a moment 20 ms before the deadline: the payment races the close.
    PaidAtTheLastMoment(Duration),
    /// Cancelled by the buyer this long after it was placed.
    Cancelled(Duration),
    /// Not paid; meanwhile a service publishes a message in this form that says it is due now.
    Forged(Form),
    /// The buyer gets more time when half of the window is over, and never pays.
    Extended,
}

/// All parts, in the order in which their orders are placed.
pub fn write() -> Vec<Part> {
    let mut dice = seeded(2_026);
    (0..ORDERS).map(|n| part(n, &mut dice)).collect()
}

fn part(n: u32, dice: &mut Random) -> Part {
    let mut window = Duration::from_millis(dice.random_range(2_000..=20_000));
    let fate = match n {
        700 => Fate::Extended,
        _ if n % 500 == 250 => Fate::Forged(Form::ALL[n as usize / 500 % Form::ALL.len()]),
        _ => match dice.random_range(1..=1_000) {
            1..=250 => Fate::Paid(window * dice.random_range(5..=90) / 100),
            251..=290 => Fate::PaidAtTheLastMoment(Duration::from_millis(dice.random_range(0..=40))),
            291..=340 => Fate::Cancelled(window * dice.random_range(5..=90) / 100),
            _ => Fate::Unpaid,
        },
    };
    if matches!(fate, Fate::Extended | Fate::Forged(_)) {
        window = Duration::from_secs(8);
    }
    let user_id = dice.random_range(1..=1_500);
    Part {
        at: OVER * n / ORDERS,
        user_id,
        window,
        items: items(dice),
        announced: announcement(n, dice),
        fate,
    }
}

fn announcement(n: u32, dice: &mut Random) -> Option<(Form, Timing)> {
    let timing = match dice.random_range(1..=10) {
        1..=2 => Timing::BeforeCommit,
        3..=4 => Timing::Twice,
        _ => Timing::AfterCommit,
    };
    // Every third order, with the forms in rotation.
    n.is_multiple_of(3).then(|| (Form::ALL[n as usize / 3 % Form::ALL.len()], timing))
}

fn items(dice: &mut Random) -> Vec<(i64, i64)> {
    let mut products: Vec<i64> =
        (0..dice.random_range(1..=3))
            .map(|_| {
                if dice.random_bool(0.4) {
                    dice.random_range(1..=HOT)
                } else {
                    dice.random_range(1..=PRODUCTS)
                }
            })
            .collect();
    // In ascending order, which everything that locks several products should follow.
    products.sort_unstable();
    products.dedup();
    products.into_iter().map(|product| (product, dice.random_range(1..=3))).collect()
}

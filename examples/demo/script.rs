//! The script: what each order will meet. Pure, and the same at every run, so that two runs can be compared.

use std::time::Duration;

/// Orders in all, and the time over which they are placed: about 235 a second.
const ORDERS: u32 = 4_000;
const OVER: Duration = Duration::from_secs(17);
/// Products, and what the shop has of each at first: enough that nobody is refused.
pub const PRODUCTS: i64 = 20;
/// See [`PRODUCTS`].
pub const STOCK: i64 = 10_000;
/// The first few are what everybody wants today.
const HOT: i64 = 3;

/// One order's part.
#[derive(Clone, Debug)]
pub struct Part {
    /// When it is placed, from the opening of the shop.
    pub at: Duration,
    /// Who places it.
    pub user_id: i64,
    /// How long the buyer has.
    pub window: Duration,
    /// Products in ascending order, with quantities.
    pub items: Vec<(i64, i64)>,
    /// Whether a service announces it by AMQP, too.
    pub announced: Option<(Form, Timing)>,
    /// What becomes of it.
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
    /// Each of them.
    pub const ALL: [Self; 4] = [Self::Deadline, Self::Delay, Self::Number, Self::CloudEvent];
}

/// When a service announces an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timing {
    /// As one expects.
    AfterCommit,
    /// A service that publishes inside its transaction: the message comes before the order is there.
    BeforeCommit,
    /// A service that retries.
    Twice,
}

/// What becomes of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nobody pays.
    Unpaid,
    /// Paid this long after it was placed.
    Paid(Duration),
    /// Paid this long after a moment 20 ms before the deadline: the payment races the close.
    PaidAtTheLastMoment(Duration),
    /// Cancelled by the buyer this long after it was placed.
    Cancelled(Duration),
    /// Not paid; meanwhile somebody publishes a message in this form that says it is due now.
    Forged(Form),
    /// The buyer gets more time when half of the window is over, and does not pay after all.
    Extended,
}

/// Writes all parts, in the order in which they are placed.
pub fn write() -> Vec<Part> {
    let mut dice = Dice(2_026);
    (0..ORDERS).map(|n| part(n, &mut dice)).collect()
}

fn part(n: u32, dice: &mut Dice) -> Part {
    let mut window = Duration::from_millis(dice.between(2_000, 20_000));
    let fate = match n {
        700 => Fate::Extended,
        _ if n % 500 == 250 => Fate::Forged(Form::ALL[n as usize / 500 % Form::ALL.len()]),
        _ => match dice.between(1, 1_000) {
            1..=250 => Fate::Paid(window * dice.between_u32(5, 90) / 100),
            251..=290 => Fate::PaidAtTheLastMoment(Duration::from_millis(dice.between(0, 40))),
            291..=340 => Fate::Cancelled(window * dice.between_u32(5, 90) / 100),
            _ => Fate::Unpaid,
        },
    };
    if matches!(fate, Fate::Extended | Fate::Forged(_)) {
        window = Duration::from_secs(8);
    }
    let user_id = dice.between_i64(1, 1_500);
    Part {
        at: OVER * n / ORDERS,
        user_id,
        window,
        items: items(dice),
        announced: announcement(n, dice),
        fate,
    }
}

fn announcement(n: u32, dice: &mut Dice) -> Option<(Form, Timing)> {
    let timing = match dice.between(1, 10) {
        1..=2 => Timing::BeforeCommit,
        3..=4 => Timing::Twice,
        _ => Timing::AfterCommit,
    };
    // Every third order; its forms take turns.
    n.is_multiple_of(3).then(|| (Form::ALL[n as usize / 3 % Form::ALL.len()], timing))
}

fn items(dice: &mut Dice) -> Vec<(i64, i64)> {
    let mut products: Vec<i64> =
        (0..dice.between(1, 3))
            .map(|_| {
                if dice.between(1, 10) <= 4 {
                    dice.between_i64(1, HOT)
                } else {
                    dice.between_i64(1, PRODUCTS)
                }
            })
            .collect();
    // In ascending order, as everybody who locks several products should.
    products.sort_unstable();
    products.dedup();
    products.into_iter().map(|product| (product, dice.between_i64(1, 3))).collect()
}

/// `SplitMix64` (Steele, Lea, Flood 2014): random enough for a play.
struct Dice(u64);

impl Dice {
    /// Both ends included.
    fn between(&mut self, least: u64, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        least + (z ^ (z >> 31)) % (most - least + 1)
    }

    fn between_u32(&mut self, least: u32, most: u32) -> u32 {
        u32::try_from(self.between(least.into(), most.into())).unwrap_or(most)
    }

    fn between_i64(&mut self, least: i64, most: i64) -> i64 {
        least + i64::from(self.between_u32(0, u32::try_from(most - least).unwrap_or(0)))
    }
}

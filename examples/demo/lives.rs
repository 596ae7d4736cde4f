//! Each order's life in the shop, following the script: placed, announced, and paid, cancelled, extended or left unpaid.

use std::time::Duration;

use overdue_testkit::shop::{Placed, Shop};
use time::OffsetDateTime;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::Result;
use crate::script::{Fate, Form, Part, Timing};
use crate::services::Services;

/// What the shop knows about an order when its part is over.
#[derive(Debug)]
pub struct Life {
    pub order_id: i64,
    /// How and when a service announced it, if at all.
    pub announced: Option<(Form, Timing)>,
    pub end: End,
}

/// How an order's life in the shop ended.
#[derive(Debug)]
pub enum End {
    LeftUnpaid,
    /// The buyer was told "paid".
    Paid,
    /// The buyer was told "cancelled".
    Cancelled,
    /// The buyer wanted to pay, cancel or extend, and was told that the order is closed.
    TooLate,
    /// A forged message claimed that it was due.
    Forged {
        /// Whether it was still PENDING a quarter of its window later.
        withstood: bool,
    },
    Extended {
        /// The deadline before that.
        from: OffsetDateTime,
    },
}

/// Plays all parts, each from its own start time on. The first error ends all of them.
pub async fn play(shop: &Shop, services: &Services, script: Vec<Part>) -> Result<Vec<Life>> {
    let opened = Instant::now();
    let (mut playing, mut lives) = (JoinSet::new(), Vec::with_capacity(script.len()));
    for part in script {
        sleep_until(opened + part.at).await;
        let (shop, services) = (shop.clone(), services.clone());
        playing.spawn(async move { live(&shop, &services, part).await });
        while let Some(ended) = playing.try_join_next() {
            lives.push(ended??);
        }
    }
    while let Some(ended) = playing.join_next().await {
        lives.push(ended??);
    }
    Ok(lives)
}

async fn live(shop: &Shop, services: &Services, part: Part) -> Result<Life> {
    let placed = place(shop, services, &part).await?;
    let order_id = placed.order_id;
    let end = match part.fate {
        Fate::Unpaid => End::LeftUnpaid,
        Fate::Paid(after) => {
            sleep(after).await;
            told(shop, order_id, shop.pay(order_id).await?, End::Paid).await?
        }
        Fate::PaidAtTheLastMoment(after) => {
            // 20 ms on either side of the deadline.
            sleep_until(placed.until - Duration::from_millis(20) + after).await;
            told(shop, order_id, shop.pay(order_id).await?, End::Paid).await?
        }
        Fate::Cancelled(after) => {
            sleep(after).await;
            told(shop, order_id, shop.cancel(order_id).await?, End::Cancelled).await?
        }
        Fate::Forged(form) => {
            sleep(part.window / 4).await;
            services.forge(form, order_id).await?;
            sleep(part.window / 4).await;
            End::Forged { withstood: shop.status(order_id).await? == "PENDING" }
        }
        Fate::Extended => {
            sleep(part.window / 2).await;
            let extended = shop.extend(order_id, Duration::from_secs(6)).await?;
            told(shop, order_id, extended, End::Extended { from: placed.payment_deadline }).await?
        }
    };
    Ok(Life { order_id, announced: part.announced, end })
}

async fn place(shop: &Shop, services: &Services, part: &Part) -> Result<Placed> {
    let draft = shop.draft(part.user_id, part.window).await?;
    if let Some((form, Timing::BeforeCommit)) = part.announced {
        services.announce(form, &draft.placed).await?;
        // Long enough for the message to be through the intake before the order is there.
        sleep(Duration::from_millis(150)).await;
    }
    let placed = draft.commit(&part.items).await?;
    match part.announced {
        Some((form, Timing::AfterCommit)) => services.announce(form, &placed).await?,
        Some((form, Timing::Twice)) => {
            services.announce(form, &placed).await?;
            services.announce(form, &placed).await?;
        }
        Some((_, Timing::BeforeCommit)) | None => {}
    }
    Ok(placed)
}

/// Only a close may be faster than the buyer.
async fn told(shop: &Shop, order_id: i64, won: bool, end: End) -> Result<End> {
    if won {
        return Ok(end);
    }
    match shop.status(order_id).await?.as_str() {
        "CLOSED" => Ok(End::TooLate),
        status => Err(format!("order {order_id} could not be changed, but is {status}").into()),
    }
}

//! A buyer who places an order and pays it, ten times a second, and looks at the clock.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use overdue_testkit::deployment::Deployment;
use overdue_testkit::shop::Shop;
use sqlx::postgres::PgPoolOptions;
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

/// How long each purchase took in milliseconds, and how many failed.
type Purchases = (Vec<f64>, usize);

/// Buys until it is dropped.
#[derive(Debug)]
pub struct Buyer {
    purchases: Arc<Mutex<Purchases>>,
    buying: AbortHandle,
}

/// What a buyer waits for at most.
const PATIENCE: Duration = Duration::from_secs(5);

impl Buyer {
    /// Goes shopping, in a task and with a connection of its own: the shop's other business does not hold it up.
    pub fn start(deployment: &Deployment) -> Result<Self> {
        let purchases = Arc::<Mutex<Purchases>>::default();
        let pool = PgPoolOptions::new().max_connections(1).connect_lazy(&deployment.database_url)?;
        let shop = Shop { pool };
        let buying = tokio::spawn({
            let purchases = Arc::clone(&purchases);
            async move {
                let mut ticks = interval(Duration::from_millis(100));
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                for n in 0.. {
                    ticks.tick().await;
                    let began = Instant::now();
                    let bought = matches!(timeout(PATIENCE, buy(&shop, n)).await, Ok(Ok(())));
                    let mut purchases = purchases.lock().unwrap_or_else(PoisonError::into_inner);
                    if bought {
                        purchases.0.push(began.elapsed().as_secs_f64() * 1e3);
                    } else {
                        purchases.1 += 1;
                    }
                }
            }
        });
        Ok(Self { purchases, buying: buying.abort_handle() })
    }

    /// What was bought since the last time.
    pub fn take(&self) -> Purchases {
        std::mem::take(&mut self.purchases.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Buyer {
    fn drop(&mut self) {
        self.buying.abort();
    }
}

async fn buy(shop: &Shop, n: i64) -> Result<()> {
    let placed = shop.draft(1, Duration::from_secs(30)).await?.commit(&[(2 + n % 19, 1)]).await?;
    ensure!(shop.pay(placed.order_id).await?, "too late");
    Ok(())
}

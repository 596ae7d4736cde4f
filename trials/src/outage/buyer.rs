//! A buyer who places an order and pays it, ten times a second, and looks at the clock.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use sqlx::postgres::PgPoolOptions;
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::pods::Place;
use crate::shop::{Announcer, End, Life, Till, Via};

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
    pub fn start(place: &Place) -> Result<Self> {
        let purchases = Arc::<Mutex<Purchases>>::default();
        let pool = PgPoolOptions::new().max_connections(1).connect_lazy(&place.database_url)?;
        let till = Till::new(pool, Announcer::new(place.clone()), place.clone());
        let buying = tokio::spawn({
            let purchases = Arc::clone(&purchases);
            async move {
                let mut ticks = interval(Duration::from_millis(100));
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                for n in 0.. {
                    ticks.tick().await;
                    let began = Instant::now();
                    let bought = matches!(timeout(PATIENCE, buy(&till, n)).await, Ok(Ok(())));
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

async fn buy(till: &Till, n: i64) -> Result<()> {
    let (via, window) = (Via::Sql, Duration::from_secs(30));
    let items = vec![(2 + n % 19, 1)];
    let order = till.place(&Life { at: Duration::ZERO, window, items, via, end: End::Paid(0.0) }).await?;
    ensure!(till.pay(order).await?, "too late");
    Ok(())
}

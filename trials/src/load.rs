//! Steady load: a busy shop for as long as something else takes.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use overdue_testkit::random::{Random, SeedableRng};
use sqlx::PgPool;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::shop::{Life, Till, Via, script};

/// How busy the shop is.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Orders with a buyer, in each second.
    pub per_second: u32,
    /// The longest window; the shortest is a fraction of a second.
    pub longest: Duration,
    /// Whether services announce some orders by AMQP alone. They would have to give up when the broker is away for long.
    pub by_message: bool,
}

impl Load {
    /// Keeps the shop busy until `scene` ends, then lets every buyer finish.
    pub async fn during<T>(self, till: &Arc<Till>, scene: impl Future<Output = Result<T>>) -> Result<T> {
        let mut random = Random::from_os_rng();
        let mut scene = pin!(scene);
        let mut lives = JoinSet::new();
        let mut second = interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let outcome = loop {
            tokio::select! {
                outcome = &mut scene => break outcome?,
                _ = second.tick() => {
                    let drawn = script::draw(&mut random, Duration::from_secs(1), self.per_second, self.longest);
                    for life in drawn {
                        lives.spawn(live(Arc::clone(till), self.adapt(life)));
                    }
                }
                Some(lived) = lives.join_next() => lived?.context("the shop")?,
            }
        };
        while let Some(lived) = lives.join_next().await {
            lived?.context("the shop")?;
        }
        Ok(outcome)
    }

    fn adapt(self, life: Life) -> Life {
        let via = if self.by_message { life.via } else { Via::Sql };
        Life { via, ..life }
    }
}

async fn live(till: Arc<Till>, life: Life) -> Result<()> {
    sleep(life.at).await;
    // Who finds every till busy leaves: on a slow machine the queue would grow without end.
    let busy = till.shop.pool.num_idle() == 0
        && till.shop.pool.size() >= till.shop.pool.options().get_max_connections();
    if busy { Ok(()) } else { till.live(&life).await }
}

/// Places many orders at once, that nobody pays: the first is due after `first`, the others evenly within `spread`.
pub async fn bulk(pool: &PgPool, orders: u32, first: Duration, spread: Duration) -> Result<()> {
    let mut transaction = pool.begin().await?;
    // In the order of the products, as every buyer takes them: nobody deadlocks.
    sqlx::query("SELECT FROM inventory ORDER BY product_id FOR NO KEY UPDATE")
        .execute(&mut *transaction)
        .await?;
    let placed = sqlx::query(
        "WITH placed AS (
             INSERT INTO orders (user_id, payment_deadline)
             SELECT 2, clock_timestamp() + make_interval(secs => $2 + $3 * n / $1) FROM generate_series(1, $1) AS n
             RETURNING order_id
         ), items AS (
             INSERT INTO order_items SELECT order_id, 1 + order_id % $4, 1 FROM placed RETURNING product_id
         )
         UPDATE inventory SET stock = stock - taken
         FROM (SELECT product_id, count(*) AS taken FROM items GROUP BY product_id) AS items
         WHERE inventory.product_id = items.product_id",
    );
    let placed = placed.bind(i32::try_from(orders)?).bind(first.as_secs_f64()).bind(spread.as_secs_f64());
    placed.bind(script::PRODUCTS).execute(&mut *transaction).await?;
    Ok(transaction.commit().await?)
}

//! The shop puts away what is settled, as every shop does some day: its tables, and the trial's memory, stay small. What is
//! put away is judged then and there, by the same checker, which sees it in a schema of its own.

use std::time::Duration;

use anyhow::{Result, ensure};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Executor, PgPool};

use crate::arena::Arena;
use crate::checker::{self, Evidence, Tally};
use crate::shop::Ledger;
use overdue_testkit::subscriber::News;

/// Orders older than this are settled: the longest window, what it may be extended by, and plenty for being late.
pub const AGE: Duration = Duration::from_secs(100);

/// What was put away so far.
#[derive(Debug)]
pub struct Archive {
    pool: PgPool,
    /// Counts of it.
    pub tally: Tally,
}

impl Archive {
    /// An empty one.
    pub async fn new(arena: &Arena) -> Result<Self> {
        for table in ["orders", "order_items", "trial_history", "inventory"] {
            let statement = format!("CREATE UNLOGGED TABLE archive.{table} (LIKE public.{table})");
            arena.pool().execute("CREATE SCHEMA IF NOT EXISTS archive").await?;
            arena.pool().execute(sqlx::AssertSqlSafe(statement)).await?;
        }
        let options: PgConnectOptions = arena.deployment.database_url.parse()?;
        let options = options.options([("search_path", "archive")]);
        let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(options);
        Ok(Self { pool, tally: Tally::default() })
    }

    /// Puts away what is old, and judges it.
    pub async fn put_away(&mut self, arena: &Arena) -> Result<()> {
        let newest = sqlx::query_scalar(
            "SELECT coalesce(max(order_id), 0) FROM orders WHERE created_at < now() - make_interval(secs => $1)",
        );
        let newest: i64 = newest.bind(AGE.as_secs_f64()).fetch_one(arena.pool()).await?;
        self.move_up_to(arena, newest).await?;
        let (ledger, news): (Ledger, News) = (arena.till.forget(newest), arena.subscriber.forget(newest));
        let evidence = Evidence { pool: &self.pool, ledger: &ledger, news: &news, parked: &[], rubbish: &[] };
        let broken = checker::judge(&evidence).await?;
        ensure!(broken.is_empty(), "broken promises, in the archive:\n  {}", broken.join("\n  "));
        self.count(&checker::tally(&self.pool).await?);
        self.pool.execute("TRUNCATE orders, order_items, trial_history").await?;
        Ok(())
    }

    /// Adds what was not put away because the end came first.
    pub async fn count_the_rest(&mut self, arena: &Arena) -> Result<()> {
        self.count(&checker::tally(arena.pool()).await?);
        Ok(())
    }

    fn count(&mut self, tally: &Tally) {
        self.tally = Tally {
            placed: self.tally.placed + tally.placed,
            paid: self.tally.paid + tally.paid,
            cancelled: self.tally.cancelled + tally.cancelled,
            closed: self.tally.closed + tally.closed,
            latest_ms: self.tally.latest_ms.max(tally.latest_ms),
        };
    }

    async fn move_up_to(&self, arena: &Arena, newest: i64) -> Result<()> {
        let mut transaction = arena.pool().begin().await?;
        for statement in [
            "WITH old AS (DELETE FROM trial_history WHERE order_id <= $1 RETURNING *)
             INSERT INTO archive.trial_history OVERRIDING SYSTEM VALUE SELECT * FROM old",
            "WITH old AS (DELETE FROM order_items WHERE order_id <= $1 RETURNING *)
             INSERT INTO archive.order_items SELECT * FROM old",
            "WITH old AS (DELETE FROM orders WHERE order_id <= $1 RETURNING *)
             INSERT INTO archive.orders SELECT * FROM old",
        ] {
            sqlx::query(statement).bind(newest).execute(&mut *transaction).await?;
        }
        // Products last, and in their order, as every buyer takes them: nobody waits for long. What was sold is bought
        // again, so that the balance of the stock that is left is what it was.
        (&mut *transaction).execute("SELECT FROM inventory ORDER BY product_id FOR NO KEY UPDATE").await?;
        let bought = "UPDATE inventory SET stock = stock + sold
             FROM (SELECT product_id, sum(quantity)::bigint AS sold
                   FROM archive.order_items JOIN archive.orders USING (order_id)
                   WHERE status NOT IN ('CLOSED', 'CANCELLED') GROUP BY product_id) AS items
             WHERE inventory.product_id = items.product_id";
        (&mut *transaction).execute(bought).await?;
        Ok(transaction.commit().await?)
    }
}

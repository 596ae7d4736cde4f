//! Connections that go from one closing transaction straight to the next.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{PgPool, Postgres};
use tokio::time::Instant;

/// A connection that has rested for longer may have gone silent unnoticed: the pool asks it for a sign of life.
const RESTED: Duration = Duration::from_secs(1);

/// Connections that were used a moment ago and will be needed again. The pool asks each for two signs of life whenever it
/// comes back: round trips that cost as much as closing a few orders does.
#[derive(Debug)]
pub struct WarmConnections {
    pool: PgPool,
    most: usize,
    idle: Mutex<Vec<(PoolConnection<Postgres>, Instant)>>,
}

impl WarmConnections {
    /// Keeps at most so many of the pool's connections from it.
    #[must_use]
    pub fn new(pool: PgPool, most: usize) -> Self {
        Self { pool, most, idle: Mutex::default() }
    }

    /// A connection: the one used last, else the pool's.
    ///
    /// # Errors
    /// The pool's, when none is free or the database does not answer.
    pub async fn take(&self) -> Result<PoolConnection<Postgres>, sqlx::Error> {
        let last = self.with(|idle| idle.pop().filter(|(_, since)| since.elapsed() < RESTED));
        match last {
            Some((connection, _)) => Ok(connection),
            // Boxed: it is 14 KB, and whoever closes is a task, which the runtime copies ten times.
            None => Box::pin(self.pool.acquire()).await,
        }
    }

    /// Keeps a connection whose last statement was answered. Any other is to be dropped: then the pool looks at it.
    pub fn keep(&self, connection: PoolConnection<Postgres>) {
        let (now, most) = (Instant::now(), self.most);
        self.with(|idle| {
            idle.retain(|(_, since)| now - *since < RESTED);
            if idle.len() < most {
                idle.push((connection, now));
            }
        });
    }

    /// Closes all of them.
    pub async fn close(&self) {
        self.with(Vec::clear);
        self.pool.close().await;
    }

    fn with<T>(&self, change: impl FnOnce(&mut Vec<(PoolConnection<Postgres>, Instant)>) -> T) -> T {
        change(&mut self.idle.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

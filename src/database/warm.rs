//! Connections that pass straight from one closing transaction to the next.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{Database, Session};

/// A connection that has been idle for longer may have died unnoticed. It goes back to the pool, which pings it.
const RESTED: Duration = Duration::from_secs(1);

/// Connections that were used a moment ago and will be needed again. The pool would ping each of them twice whenever it came
/// back: round trips that cost as much as closing a few orders does.
#[derive(Debug)]
pub struct WarmConnections {
    pool: Database,
    most: usize,
    idle: Mutex<Vec<(Session, Instant)>>,
}

impl WarmConnections {
    /// Keeps at most `most` of the pool's connections.
    #[must_use]
    pub fn new(pool: Database, most: usize) -> Self {
        Self { pool, most, idle: Mutex::default() }
    }

    /// Takes the connection that was used last, or one from the pool.
    ///
    /// # Errors
    /// When the pool has no free connection, or the database does not answer.
    pub async fn take(&self) -> Result<Session, sqlx::Error> {
        let last = self.with(|idle| idle.pop().filter(|(_, since)| since.elapsed() < RESTED));
        match last {
            Some((connection, _)) => Ok(connection),
            // Boxed: this future is 14 KB, and it is part of a closing task, which the runtime copies ten times.
            None => Box::pin(self.pool.acquire()).await,
        }
    }

    /// Keeps a connection whose last statement was answered. Drop any other one instead: the pool then checks it.
    pub fn keep(&self, connection: Session) {
        let (now, most) = (Instant::now(), self.most);
        self.with(|idle| {
            idle.retain(|(_, since)| now - *since < RESTED);
            if idle.len() < most {
                idle.push((connection, now));
            }
        });
    }

    /// Closes these connections and the pool.
    pub async fn close(&self) {
        self.with(Vec::clear);
        self.pool.close().await;
    }

    fn with<T>(&self, change: impl FnOnce(&mut Vec<(Session, Instant)>) -> T) -> T {
        change(&mut self.idle.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

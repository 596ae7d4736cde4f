//! How our settings reach a session, directly or through a pooler, and how a pooler is recognized.

use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::{AssertSqlSafe, Connection, Error, PgConnection, Postgres, Transaction};
use tokio::time::timeout;

use super::session::Settings;
use super::{ANSWER, code};
use crate::config::{Config, Pooler};

/// How our settings reach the sessions of a pool.
#[derive(Debug)]
pub(super) struct Way {
    settings: Settings,
    /// Begins a transaction with our settings.
    pub begin: String,
    /// Whether a pooler was seen on the way. It stays true: what is right through a pooler is right without one, too.
    pooled: AtomicBool,
}

impl Way {
    pub fn new(settings: Settings, config: &Config) -> Self {
        let begin = settings.begin();
        Self { settings, begin, pooled: AtomicBool::new(config.database_pooler == Pooler::Always) }
    }

    pub fn pooled(&self) -> bool {
        self.pooled.load(Ordering::Acquire)
    }

    /// Checks that a new connection's statements get our settings.
    ///
    /// # Errors
    /// The database's, or a refusal that names the first unsuitable setting, its value, and what to do.
    pub async fn check(&self, connection: &mut PgConnection) -> Result<(), Error> {
        if !self.pooled() {
            let seen = self.settings.look(connection).await?;
            if seen.is_direct()? {
                return self.settings.judge(&seen);
            }
            self.pooled.store(true, Ordering::Release);
        }
        let mut transaction = connection.begin_with(AssertSqlSafe(self.begin.as_str())).await?;
        let seen = self.settings.look(&mut transaction).await;
        self.settings.judge(&settle(transaction, seen).await?)
    }

    /// Whether this may be a pooler's refusal of our start-up parameters. PgBouncer reports it as a protocol violation (08P01), as it
    /// does much else; others may use another code of that class.
    pub fn refuses_parameters(&self, error: &Error) -> bool {
        !self.pooled() && matches!(error, Error::Database(_)) && code(error).starts_with("08")
    }
}

/// Commits if the statement succeeded. Otherwise rolls back at once: the transaction's locks would be held until the session is used
/// again.
pub(super) async fn settle<T>(
    transaction: Transaction<'_, Postgres>,
    outcome: Result<T, Error>,
) -> Result<T, Error> {
    match outcome {
        Ok(outcome) => transaction.commit().await.map(|()| outcome),
        Err(error) => {
            // A server that does not answer ends the transaction with the connection.
            let _ = timeout(ANSWER, transaction.rollback()).await;
            Err(error)
        }
    }
}

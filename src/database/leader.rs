//! Leadership: an advisory lock of PostgreSQL for work that one pod at a time does.
//!
//! The lock ends with the database session that holds it, which has no other purpose. A pod that dies loses it when its
//! socket closes; a pod that hangs loses it because the server ends idle sessions. For a moment two pods may both believe
//! that they lead: everything done under this lock is harmless when done twice.

use std::time::Duration;

use sqlx::{Connection, PgConnection};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::locks::RoleKey;
use super::{DatabaseError, bounded, connect};
use crate::config::Config;

/// Interval between two attempts to become leader. After a leader has died, there is none for about this time.
const CAMPAIGN: Duration = Duration::from_millis(500);
/// Interval between two heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// The server ends a session that has been idle for this long, which frees its lock.
const SILENCE: Duration = Duration::from_secs(5);

const _: () = assert!(HEARTBEAT.as_millis() * 2 < SILENCE.as_millis(), "one late heartbeat is tolerated");

/// Leadership, held until this is dropped.
#[derive(Debug)]
pub struct Leadership {
    session: PgConnection,
    /// The OID of the outbox table, which the lock's key contains.
    outbox: i32,
}

impl Leadership {
    /// Waits until this pod leads; `None` if `stop` is cancelled before.
    ///
    /// # Errors
    /// When the database cannot be reached, does not answer in time, or refuses a statement, or when the session lacks our
    /// settings.
    pub async fn campaign(
        config: &Config,
        key: RoleKey,
        stop: &CancellationToken,
    ) -> Result<Option<Self>, DatabaseError> {
        let silence = format!("{}s", SILENCE.as_secs());
        let mut session = connect(config, &[("idle_session_timeout", &silence)]).await?;
        while !stop.is_cancelled() {
            let won = sqlx::query_scalar!(
                r#"SELECT CASE WHEN pg_catalog.pg_try_advisory_lock($1, 'outbox'::regclass::oid::int4)
                               THEN 'outbox'::regclass::oid::int4 END AS outbox"#,
                key.class()
            );
            let won = bounded("trying to become leader", won.fetch_one(&mut session)).await?;
            if let Some(outbox) = won {
                tracing::info!(event = "leading", ?key, "leading");
                return Ok(Some(Self { session, outbox }));
            }
            tokio::select! {
                () = sleep(CAMPAIGN) => {}
                () = stop.cancelled() => {}
            }
        }
        Ok(None)
    }

    /// Sends heartbeats for as long as this pod leads; returns only when leadership is lost. A table that has replaced the
    /// outbox has another OID, and other pods would lead by that one.
    pub async fn hold(&mut self) -> DatabaseError {
        loop {
            sleep(HEARTBEAT).await;
            let outbox = sqlx::query_scalar!(r#"SELECT 'outbox'::regclass::oid::int4 AS "outbox!""#);
            let alive = timeout(SILENCE, outbox.fetch_one(&mut self.session));
            let source = match alive.await.unwrap_or(Err(sqlx::Error::PoolTimedOut)) {
                Ok(outbox) if outbox == self.outbox => continue,
                Ok(_) => sqlx::Error::Protocol("the table outbox was replaced by another".to_owned()),
                Err(source) => source,
            };
            return DatabaseError { doing: "leading", source };
        }
    }

    /// Gives up leadership at once, so that another pod need not wait.
    pub async fn resign(self) {
        let _ = timeout(SILENCE, self.session.close()).await;
    }
}

//! Work that one pod at a time does, under an advisory lock of PostgreSQL.
//!
//! The lock lives and dies with a database session of its own. A pod that dies loses it when its socket closes; one
//! that hangs loses it because the session that stops talking is ended by the server. For a moment two pods may both
//! believe that they lead: everything done under this lock is harmless when done twice.

use std::time::Duration;

use sqlx::{Connection, PgConnection};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::locks::RoleKey;
use super::{DatabaseError, bounded, connect};
use crate::config::Config;

/// Between two attempts to become leader: the time without a leader after one has died is about this.
const CAMPAIGN: Duration = Duration::from_millis(500);
/// Between two signs of life.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// A session that is silent for this long is ended by the server, and its lock is free.
const SILENCE: Duration = Duration::from_secs(5);

const _: () = assert!(HEARTBEAT.as_millis() * 2 < SILENCE.as_millis(), "one late sign of life is no silence");

/// A lead that is held; it is given up when this is dropped.
#[derive(Debug)]
pub struct Leadership {
    session: PgConnection,
    /// The table that the lock names.
    outbox: i32,
}

impl Leadership {
    /// Waits until this pod leads; `None` when stopped before.
    ///
    /// # Errors
    /// Those of the database.
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

    /// Gives signs of life for as long as this pod leads; returns only when the lead is lost. A table in the outbox's place has
    /// another number: other pods would lead by that one.
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

    /// Gives up the lead at once, so that another pod need not wait.
    pub async fn resign(self) {
        let _ = timeout(SILENCE, self.session.close()).await;
    }
}

//! Leadership: a lease in the table `leases` for work that one pod at a time does.
//!
//! The leader renews its lease every second. A lease lasts five seconds on the database's clock, so a pod that dies or hangs loses
//! it within that time. It needs no session of its own, and works through any pooler. For a moment two pods may both believe that
//! they lead: everything done under a lease is harmless when done twice.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{Database, DatabaseError, bounded, within};

/// Interval between two attempts to become leader. After a leader has resigned, there is none for about this time.
const CAMPAIGN: Duration = Duration::from_millis(500);
/// Interval between two renewals.
const RENEW: Duration = Duration::from_secs(1);
/// How long a lease lasts without a renewal.
const LEASE: Duration = Duration::from_secs(5);
/// How long a renewal may take.
const ANSWER: Duration = Duration::from_secs(1);

const _: () =
    assert!((RENEW.as_millis() + ANSWER.as_millis()) * 2 < LEASE.as_millis(), "one renewal may fail");

/// A name for a pod's leases: its host for people, and a random number, because a host may have several pods.
#[must_use]
pub fn holder() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}/{}/{:016x}", host.trim(), std::process::id(), RandomState::new().hash_one(0))
}

/// Leadership, held as long as [`Leadership::hold`] runs.
#[derive(Debug)]
pub struct Leadership {
    pool: Database,
    role: &'static str,
    holder: String,
    /// The lease lasts at least until then: it was asked for `LEASE` before.
    until: Instant,
}

impl Leadership {
    /// Waits until this pod leads; `None` if `stop` is cancelled before.
    ///
    /// # Errors
    /// When the database cannot be reached, does not answer in time, or refuses a statement.
    pub async fn campaign(
        pool: &Database,
        role: &'static str,
        holder: &str,
        stop: &CancellationToken,
    ) -> Result<Option<Self>, DatabaseError> {
        while !stop.is_cancelled() {
            let asked = Instant::now();
            // A pod that does not win only reads: the row is locked only where its lease has expired.
            let won = sqlx::query_scalar!(
                r#"INSERT INTO leases AS lease (role, holder, elected_at, expires_at)
                   SELECT $1, $2, pg_catalog.clock_timestamp(), pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => $3)
                   WHERE NOT EXISTS (
                       -- A lease that lasts longer than any was granted for: the clock was set back.
                       SELECT FROM leases WHERE role = $1 AND expires_at > pg_catalog.clock_timestamp()
                           AND expires_at < pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => 2 * $3))
                   ON CONFLICT (role) DO UPDATE
                   SET holder = excluded.holder, elected_at = excluded.elected_at, expires_at = excluded.expires_at
                   WHERE lease.expires_at <= pg_catalog.clock_timestamp()
                      OR lease.expires_at >= pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => 2 * $3)
                   RETURNING true AS "won!""#,
                role,
                holder,
                LEASE.as_secs_f64()
            );
            if bounded("trying to become leader", won.fetch_optional(pool)).await?.is_some() {
                tracing::info!(event = "leading", role, "leading");
                let (pool, holder) = (pool.clone(), holder.to_owned());
                return Ok(Some(Self { pool, role, holder, until: asked + LEASE }));
            }
            tokio::select! {
                () = sleep(CAMPAIGN) => {}
                () = stop.cancelled() => {}
            }
        }
        Ok(None)
    }

    /// Renews the lease for as long as this pod leads; returns only when leadership is lost. A renewal that fails is tried again
    /// as long as the lease lasts.
    pub async fn hold(&mut self) -> DatabaseError {
        loop {
            sleep(RENEW).await;
            let asked = Instant::now();
            let renewed = sqlx::query_scalar!(
                r#"UPDATE leases SET expires_at = pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => $3)
                   WHERE role = $1 AND holder = $2 AND expires_at > pg_catalog.clock_timestamp()
                   RETURNING true AS "renewed!""#,
                self.role,
                self.holder,
                LEASE.as_secs_f64()
            );
            match within(ANSWER, "leading", renewed.fetch_optional(&self.pool)).await {
                Ok(Some(_)) => self.until = asked + LEASE,
                Ok(None) => {
                    let source =
                        sqlx::Error::Protocol("the lease has expired, or another pod holds it".to_owned());
                    return DatabaseError { doing: "leading", source };
                }
                // The next renewal must be answered before the lease expires, or another pod leads beside this one.
                Err(error) if Instant::now() + RENEW + ANSWER > self.until => return error,
                Err(_) => {}
            }
        }
    }

    /// Gives up leadership at once, so that another pod need not wait. If that fails, the lease expires.
    pub async fn resign(self) {
        let resigned =
            sqlx::query!("DELETE FROM leases WHERE role = $1 AND holder = $2", self.role, self.holder);
        let _ = within(ANSWER, "resigning", resigned.execute(&self.pool)).await;
    }
}

//! The table `pods`: which pods there are, when each was seen last, and when due orders last waited in it.

use std::time::Duration;

use super::{Database, DatabaseError, bounded, within};
use crate::clock::DbTime;

/// How often a pod says that it is there.
pub const PRESENT: Duration = Duration::from_secs(1);

/// How long after a pod was seen last it still counts as there, such as for its share of `close_rate`.
pub const THERE: Duration = Duration::from_secs(5);

/// Records that this pod is there, what its roles are, and whether due orders have waited in it since the last time. Returns how
/// many other pods close orders.
///
/// # Errors
/// When the database cannot be reached, does not answer in time, or refuses the statement.
pub async fn present(pool: &Database, pod: &str, roles: &[String], busy: bool) -> Result<u32, DatabaseError> {
    let present = sqlx::query_scalar!(
        r#"WITH present AS (
               INSERT INTO pods AS known (pod, version, roles, started_at, seen_at, busy_at)
               VALUES ($1, $2, $3, pg_catalog.clock_timestamp(), pg_catalog.clock_timestamp(),
                       CASE WHEN $4::boolean THEN pg_catalog.clock_timestamp() END)
               ON CONFLICT (pod) DO UPDATE
               SET seen_at = excluded.seen_at, busy_at = coalesce(excluded.busy_at, known.busy_at)
           )
           SELECT pg_catalog.count(*) AS "others!" FROM pods
           WHERE pod <> $1 AND roles && '{close,sweep}' AND seen_at > pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => $5)"#,
        pod,
        env!("CARGO_PKG_VERSION"),
        roles,
        busy,
        THERE.as_secs_f64()
    );
    let others = bounded("saying that this pod is there", present.fetch_one(pool)).await?;
    Ok(u32::try_from(others).unwrap_or(u32::MAX))
}

/// How many pods close orders.
///
/// # Errors
/// When the database cannot be reached, does not answer in time, or refuses the statement.
pub async fn closing(pool: &Database) -> Result<u32, DatabaseError> {
    let closing = sqlx::query_scalar!(
        r#"SELECT pg_catalog.count(*) AS "closing!" FROM pods
           WHERE roles && '{close,sweep}' AND seen_at > pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => $1)"#,
        THERE.as_secs_f64()
    );
    let closing = bounded("asking for the other pods", closing.fetch_one(pool)).await?;
    Ok(u32::try_from(closing).unwrap_or(u32::MAX))
}

/// Deletes this pod's row.
///
/// # Errors
/// When the database cannot be reached, does not answer in time, or refuses the statement.
pub async fn gone(pool: &Database, pod: &str) -> Result<(), DatabaseError> {
    let gone = sqlx::query!("DELETE FROM pods WHERE pod = $1", pod);
    bounded("saying that this pod is gone", gone.execute(pool)).await?;
    Ok(())
}

/// Deletes the rows of pods that have been gone for a day: a pod that is killed leaves its own.
///
/// # Errors
/// When the database cannot be reached, does not answer in time, or refuses the statement.
pub async fn forget(pool: &Database) -> Result<(), DatabaseError> {
    let forget = sqlx::query!(
        "DELETE FROM pods WHERE seen_at < pg_catalog.now() - pg_catalog.make_interval(days => 1)"
    );
    bounded("forgetting pods that are gone", forget.execute(pool)).await?;
    Ok(())
}

/// How long before a moment a pod may have been seen last to count as there, or have been busy to count as busy.
const RECENTLY: Duration = Duration::from_secs(60);
/// Due orders that waited this long before a moment still waited then: pods say so once a second.
const JUST_NOW: Duration = Duration::from_secs(2);

/// Whether a pod was silent or busy at this moment: not seen since then, though shortly before, and for two seconds at least; or with
/// due orders waiting. Ask a few seconds later, when every pod that is well has been seen again.
///
/// # Errors
/// When the database cannot be reached, does not answer in time, or refuses the statement.
pub async fn any_silent_or_busy(pool: &Database, at: DbTime) -> Result<bool, DatabaseError> {
    let moment = time::OffsetDateTime::from;
    let any = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM pods WHERE (seen_at BETWEEN $1 AND LEAST($2, pg_catalog.clock_timestamp() - interval '2 s')) OR busy_at >= $3) AS "any!""#,
        moment(at.minus(RECENTLY)),
        moment(at),
        moment(at.minus(JUST_NOW))
    );
    within(Duration::from_secs(2), "asking for the other pods", any.fetch_one(pool)).await
}

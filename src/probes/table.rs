//! The table `lane_probes`: which probes are in flight, and which have come back.

use std::time::Duration;

use super::{Probe, forgettable, is_of_another_shop};
use crate::clock::DbTime;
use crate::database::{Database, DatabaseError, bounded};

/// Reads the database's time and all probes.
///
/// # Errors
/// When the database cannot be reached, does not answer in time, or refuses the statement.
pub async fn read(pool: &Database) -> Result<(DbTime, Vec<Probe>), DatabaseError> {
    let rows = sqlx::query!(
        r#"SELECT pg_catalog.clock_timestamp() AS "now!", number AS "number?", queue AS "queue?", announced_at AS "announced_at?",
                  due_at AS "due_at?", returned_at AS "returned_at?"
           FROM (SELECT) AS one LEFT JOIN lane_probes ON true"#
    );
    let rows = bounded("reading the probes", rows.fetch_all(pool)).await?;
    let now = rows.first().map_or(DbTime(0), |row| row.now.into());
    let probes = rows.into_iter().filter_map(|row| {
        Some(Probe {
            number: row.number?,
            queue: row.queue?,
            announced_at: row.announced_at?.into(),
            due_at: row.due_at.map(DbTime::from),
            returned_at: row.returned_at.map(DbTime::from),
        })
    });
    Ok((now, probes.collect()))
}

/// Records that a probe is about to be published, and returns its number and token. It cannot be late before it is
/// [`confirmed`].
///
/// # Errors
/// When the database cannot be reached, does not answer in time, or refuses the statement.
pub async fn announce(pool: &Database, queue: &str) -> Result<(i64, String), DatabaseError> {
    // The token begins with the shop, so that another shop that receives the probe can tell.
    let row = sqlx::query!(
        "INSERT INTO lane_probes (queue, token)
         SELECT $1, pg_catalog.replace(shop_id::text, '-', '') || '-' || pg_catalog.gen_random_uuid()::text FROM overdue_database
         RETURNING number, token",
        queue
    );
    let row = bounded("announcing a probe", row.fetch_one(pool)).await?;
    Ok((row.number, row.token))
}

/// Records that the broker has confirmed a probe, which must be back within this time.
///
/// # Errors
/// When the database cannot be reached, does not answer in time, or refuses the statement.
pub async fn confirmed(pool: &Database, number: i64, within: Duration) -> Result<(), DatabaseError> {
    let placed = sqlx::query!(
        "UPDATE lane_probes SET placed_at = pg_catalog.now(), due_at = pg_catalog.now() + pg_catalog.make_interval(secs => $2) WHERE number = $1",
        number,
        within.as_secs_f64()
    );
    bounded("recording a placed probe", placed.execute(pool)).await?;
    Ok(())
}

/// Records that these probes have come back, and returns the queue of each and how late it was (zero if it was in time). A
/// token of no probe of ours, or of one that is back already, is ignored.
///
/// # Errors
/// When the database cannot be reached, does not answer in time, or refuses the statement.
pub async fn returned(pool: &Database, tokens: &[String]) -> Result<Vec<(String, Duration)>, DatabaseError> {
    let rows = sqlx::query!(
        r#"UPDATE lane_probes SET returned_at = pg_catalog.clock_timestamp() WHERE token = ANY ($1) AND returned_at IS NULL
           RETURNING queue, due_at, returned_at AS "returned_at!""#,
        tokens
    );
    let rows = bounded("recording a returned probe", rows.fetch_all(pool)).await?;
    let late =
        |due: Option<_>, back| due.map_or(Duration::ZERO, |due| DbTime::from(back).since(DbTime::from(due)));
    Ok(rows.into_iter().map(|row| (row.queue, late(row.due_at, row.returned_at))).collect())
}

/// How many of these probes another shop has sent. If there are any, the two shops take each other's messages.
///
/// # Errors
/// When the database cannot be reached, does not answer in time, or refuses the statement.
pub async fn of_another_shop(pool: &Database, tokens: &[String]) -> Result<usize, DatabaseError> {
    let shop = sqlx::query_scalar!(
        r#"SELECT pg_catalog.replace(shop_id::text, '-', '') AS "shop!" FROM overdue_database"#
    );
    let shop = bounded("asking which shop this is", shop.fetch_one(pool)).await?;
    Ok(tokens.iter().filter(|token| is_of_another_shop(token, &shop)).count())
}

/// Deletes the probes of a lane that tell nothing more.
///
/// # Errors
/// When the database cannot be reached, does not answer in time, or refuses the statement.
pub async fn forget(pool: &Database, probes: &[&Probe]) -> Result<(), DatabaseError> {
    let old = forgettable(probes);
    if !old.is_empty() {
        let delete = sqlx::query!("DELETE FROM lane_probes WHERE number = ANY ($1)", &old);
        bounded("deleting old probes", delete.execute(pool)).await?;
    }
    Ok(())
}

//! Detects that the database is another server or on another timeline: a standby was promoted, or a backup restored.

use super::executor::{Connected, Session};
use super::pool::Database;
use super::{DatabaseError, bounded};

/// Compares server and timeline with those recorded last. One of all pods reports a change, and returns true.
///
/// # Errors
/// When the database cannot be reached, does not answer in time, or refuses the statement.
pub async fn note(pool: &Database) -> Result<bool, DatabaseError> {
    let connection = bounded("connecting to the database", pool.acquire()).await;
    note_by(&mut connection?).await
}

/// Same as [`note`], over this connection.
pub(super) async fn note_by(connection: &mut Session<impl Connected>) -> Result<bool, DatabaseError> {
    // The names of a promoted server's WAL files show its new timeline at once; pg_control follows at a checkpoint.
    let row = sqlx::query!(
        r#"SELECT o.system_identifier, o.timeline, c.system_identifier AS "server!",
                  CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()) END AS log_file
           FROM overdue_database AS o CROSS JOIN pg_catalog.pg_control_system() AS c"#
    );
    let row = bounded("asking which server this is", row.fetch_optional(&mut *connection)).await?;
    let Some(row) = row else { return Ok(false) };
    let Some(timeline) = row.log_file.as_deref().and_then(timeline) else { return Ok(false) };
    if (row.system_identifier, row.timeline) == (Some(row.server), Some(timeline)) {
        return Ok(false);
    }
    // Only the pod that changes the row reports it.
    let noted = sqlx::query!(
        "UPDATE overdue_database SET system_identifier = $1, timeline = $2, noted_at = pg_catalog.now()
         WHERE system_identifier IS NOT DISTINCT FROM $3 AND timeline IS NOT DISTINCT FROM $4",
        row.server,
        timeline,
        row.system_identifier,
        row.timeline
    );
    let noted = bounded("recording which server this is", noted.execute(connection)).await?;
    let changed = (noted.rows_affected(), row.system_identifier, row.timeline);
    if let (1, Some(server), Some(before)) = changed {
        tracing::error!(
            event = "database_changed",
            server_before = server,
            timeline_before = before,
            server = row.server,
            timeline,
            "the database is another server or on another timeline than before: a standby was promoted, or a backup restored. \
             It may lack the last transactions of the previous one: orders whose close was announced to subscribers may be \
             open again or gone, and event ids may be used a second time"
        );
        return Ok(true);
    }
    Ok(false)
}

/// The timeline in the name of a WAL file: its first eight hexadecimal digits.
fn timeline(file: &str) -> Option<i64> {
    file.get(..8).and_then(|digits| i64::from_str_radix(digits, 16).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_files_name_begins_with_the_timeline() {
        assert_eq!(timeline("00000001000000000000001A"), Some(1));
        assert_eq!(timeline("0000000B000000000000001A"), Some(11));
        assert_eq!(timeline("short"), None);
    }
}

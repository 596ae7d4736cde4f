//! The database's part of a verification.

use crate::config::Config;
use crate::database::{self, Database, DatabaseError, PLACE};
use crate::finding::Finding;

/// Every finding about the database.
///
/// A database that cannot be asked is a finding too, so that the broker's part is reported all the same.
pub async fn findings(pool: &Database, config: &Config) -> Vec<Finding> {
    match database::verify(pool, config).await {
        Ok(findings) => findings,
        Err(error) => vec![unseen(&error)],
    }
}

fn unseen(error: &DatabaseError) -> Finding {
    match &error.source {
        // The session lacks settings that closing needs. The text has the remedy.
        sqlx::Error::Configuration(_) => Finding::differs(
            PLACE,
            "session",
            error.to_string(),
            "the problem names the remedy; nothing else in the database was looked at",
        ),
        _ => Finding::cannot_tell(
            PLACE,
            "everything in it",
            error.to_string(),
            "make the database reachable for this command, and run it again",
        ),
    }
}

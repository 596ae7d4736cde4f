//! The database's part of a verification.

use sqlx::PgPool;

use super::{Finding, about};
use crate::database::bounded;

/// Every finding about the database.
///
/// A database that cannot be asked is a finding too, so that the broker's part is reported all the same.
pub async fn findings(pool: &PgPool) -> Vec<Finding> {
    let probe = sqlx::query("SELECT 1");
    match bounded("connecting", probe.execute(pool)).await {
        Ok(_) => about("database", "connection", Vec::new()),
        Err(error) => vec![Finding::cannot_tell(
            "database",
            "everything in it",
            error.to_string(),
            "make the database reachable for this command, and run it again",
        )],
    }
}

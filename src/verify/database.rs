//! The database's part of a verification.

use super::Finding;
use crate::config::Config;
use crate::database::{self, DatabaseError};

/// Every finding about the database: the session, the schema, its functions and triggers, the role's rights.
///
/// A database that cannot be asked is a finding too, so that the broker's part is reported all the same.
pub async fn findings(config: &Config) -> Vec<Finding> {
    match asked(config).await {
        Ok(findings) => findings,
        Err(error) => vec![Finding::cannot_tell(
            "database",
            "everything in it",
            error.to_string(),
            "make the database reachable for this command, and run it again",
        )],
    }
}

async fn asked(config: &Config) -> Result<Vec<Finding>, DatabaseError> {
    let pool = database::pool(config)?;
    let place = format!("schema {}", config.schema);
    let found = database::verify(&pool, config).await?;
    let finding = |finding| match finding {
        database::Finding::Fine { what } => Finding::fine(&place, &what),
        database::Finding::Differs { problem, remedy } => {
            Finding::differs(&place, "what pods need", problem, remedy)
        }
        database::Finding::CannotTell { why, remedy } => {
            Finding::cannot_tell(&place, "what pods need", why, remedy)
        }
    };
    Ok(found.into_iter().map(finding).collect())
}

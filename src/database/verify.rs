//! Checks that the database has what pods need: the schema, its functions and triggers, and the role's rights.

use sqlx::PgExecutor;
use tokio::time::timeout;

use super::catalog::{self, Repair};
use super::executor::{Connected, Session};
use super::pool::{Database, connect};
use super::schema::newest;
use super::session::{identifier, refusal};
use super::timeline::note_by;
use super::{DatabaseError, PROBE, bounded, rights};
use crate::config::Config;
use crate::finding::{Finding, Outcome};

/// `place` of the findings.
pub const PLACE: &str = "database";

/// `what` of the findings that are not fine.
const PARTS: &str = "schema, functions, triggers and rights";

const MIGRATE: &str = "run `overdue migrate`";

/// Compares the database with what the code needs.
///
/// # Errors
/// When the database cannot be reached, does not answer in time, or refuses the statement.
pub async fn verify(pool: &Database, config: &Config) -> Result<Vec<Finding>, DatabaseError> {
    let connection = bounded("connecting to the database", pool.acquire()).await;
    bounded("looking at the database's schema", look(&mut connection?, &config.schema)).await
}

/// Checks that a pod can work with this database, and records which server it is. A pod with a wrong one would close wrongly,
/// or not at all. Returns whether it was reached through a pooler.
///
/// # Errors
/// When the database cannot be reached or does not answer in time, or a refusal with the first difference and its remedy.
pub async fn fit(config: &Config) -> Result<bool, DatabaseError> {
    let mut connection = connect(config).await?;
    let findings = bounded("looking at the database's schema", look(&mut connection, &config.schema)).await?;
    let mut wrong = Vec::new();
    for finding in findings {
        match finding.outcome {
            Outcome::Fine => {}
            Outcome::CannotTell { why, remedy } => {
                tracing::warn!(event = "schema_unseen", "the database's schema: {why}; {remedy}");
            }
            Outcome::Differs { problem, remedy } => wrong.push(format!("{problem}: {remedy}")),
        }
    }
    let Some(first) = wrong.first() else {
        // Closing needs neither of these, so their errors are ignored.
        let _ = note_by(&mut connection).await;
        let pooled = connection.through_a_pooler();
        let _ = timeout(PROBE, connection.close()).await;
        return Ok(pooled);
    };
    let more = match wrong.len() - 1 {
        0 => String::new(),
        more => format!(" (and {more} more; `overdue verify` lists them)"),
    };
    Err(DatabaseError { doing: "checking the database's schema", source: refusal(format!("{first}{more}")) })
}

async fn look(session: &mut Session<impl Connected>, schema: &str) -> Result<Vec<Finding>, sqlx::Error> {
    if let Some(finding) = reach(&mut *session, schema).await? {
        return Ok(vec![finding]);
    }
    let catalog = catalog::read(&mut *session, schema).await?;
    let mut findings = Vec::new();
    let newer = is_newer(session).await?;
    let differences = catalog::differences(&catalog, schema);
    if differences.iter().any(|difference| difference.repair == Repair::Tables) {
        return Ok(vec![no_tables(session, schema).await?]);
    }
    match (newer, differences.is_empty()) {
        (Some(true), _) => findings.push(Finding::cannot_tell(
            PLACE,
            PARTS,
            format!("a newer Overdue has migrated the schema {schema}, and this version does not know what that one needs"),
            "upgrade the other pods too",
        )),
        (_, true) => {
            findings.push(Finding::fine(PLACE, &format!("tables, functions and triggers in the schema {schema}")));
        }
        (_, false) => findings.extend(differences.into_iter().map(|difference| {
            let remedy = match difference.repair {
                Repair::ByHand => format!(
                    "`overdue migrate` cannot repair this; correct {} by hand or from a backup",
                    difference.object
                ),
                _ => MIGRATE.to_owned(),
            };
            differs(difference.problem, remedy)
        })),
    }
    if newer == Some(false) {
        findings.push(differs(format!("the schema {schema} lacks migrations of this version"), MIGRATE));
    }
    let missing = rights::missing(session, schema).await?;
    if missing.is_empty() {
        findings.push(Finding::fine(PLACE, "the role's rights on tables, functions and sequences"));
    }
    findings.extend(missing.into_iter().map(|missing| differs(missing.problem, missing.remedy)));
    Ok(findings)
}

/// Why the schema cannot be read at all, or `None`: the catalog shows names without their schema only if the role may use it.
async fn reach(on: impl PgExecutor<'_>, schema: &str) -> Result<Option<Finding>, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT pg_catalog.quote_ident(current_user) AS "role!",
                  (SELECT pg_catalog.has_schema_privilege(oid, 'USAGE') FROM pg_catalog.pg_namespace
                   WHERE nspname OPERATOR(pg_catalog.=) $1::text) AS may_use"#,
        schema
    );
    let row = row.fetch_one(on).await?;
    Ok(match row.may_use {
        Some(true) => None,
        Some(false) => Some(differs(
            format!("the role {} may not use the schema {schema}", row.role),
            format!("GRANT USAGE ON SCHEMA {} TO {}", identifier(schema), row.role),
        )),
        None => Some(differs(
            format!("the database has no schema {schema}"),
            format!(
                "name the schema of the shop's tables in `schema` (OVERDUE_SCHEMA), or create it: CREATE SCHEMA {}, then \
                 `overdue migrate`",
                identifier(schema)
            ),
        )),
    })
}

/// Whether the database has migrations that this version does not know (true), or lacks some (false); `None` for neither.
async fn is_newer(session: &mut Session<impl Connected>) -> Result<Option<bool>, sqlx::Error> {
    let readable = sqlx::query_scalar!(
        r#"SELECT coalesce(pg_catalog.has_table_privilege(pg_catalog.to_regclass('overdue_migrations'), 'SELECT'), false) AS "yes!""#
    );
    if !readable.fetch_one(&mut *session).await? {
        // Either there are no tables, or a right is missing: other checks find both.
        return Ok(None);
    }
    let applied = sqlx::query_scalar("SELECT pg_catalog.max(version) FROM overdue_migrations WHERE success");
    let applied: Option<i64> = applied.fetch_one(session).await?;
    Ok(match applied.unwrap_or(0).cmp(&newest()) {
        std::cmp::Ordering::Less => Some(false),
        std::cmp::Ordering::Equal => None,
        std::cmp::Ordering::Greater => Some(true),
    })
}

/// The finding that the schema has no tables of Overdue, with the schemas that have them.
async fn no_tables(on: impl PgExecutor<'_>, schema: &str) -> Result<Finding, sqlx::Error> {
    let others = sqlx::query_scalar!(
        r#"SELECT n.nspname::text AS "name!" FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
           WHERE c.relname = 'overdue_migrations' ORDER BY 1 LIMIT 5"#
    );
    let others = others.fetch_all(on).await?;
    let hint = match others.as_slice() {
        [] => String::new(),
        others => {
            format!(", or name the schema that has them in `schema` (OVERDUE_SCHEMA): {}", others.join(", "))
        }
    };
    Ok(differs(format!("the schema {schema} has no tables of Overdue"), format!("{MIGRATE}{hint}")))
}

fn differs(problem: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding::differs(PLACE, PARTS, problem, remedy)
}

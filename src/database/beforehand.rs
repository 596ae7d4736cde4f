//! Checks of `migrate` before it changes anything: the right schema, no other `migrate` at work, no foreign tables, and
//! sufficient rights.

use std::time::Duration;

use sqlx::migrate::MigrateError;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use tokio::time::{Instant, sleep};

use super::session::identifier;
use super::{catalog, locks};

pub(super) fn refused(problem: String) -> MigrateError {
    MigrateError::Execute(super::session::refusal(problem))
}

/// Opens a session whose search path is this schema alone.
pub(super) async fn session(
    options: &PgConnectOptions,
    schema: &str,
    lock_timeout: &str,
) -> Result<PgConnection, MigrateError> {
    let options = options.clone().options([
        ("search_path", identifier(schema).as_str()),
        ("lock_timeout", lock_timeout),
        ("idle_in_transaction_session_timeout", "0"),
    ]);
    let mut session = PgConnection::connect_with(&options).await?;
    let path: String = sqlx::query_scalar("SELECT pg_catalog.current_setting('search_path')")
        .fetch_one(&mut session)
        .await?;
    if path == identifier(schema) {
        return Ok(session);
    }
    Err(refused(format!("a pooler drops start-up parameters; {DIRECTLY}")))
}

const DIRECTLY: &str = "`overdue migrate` needs sessions of its own: name PostgreSQL itself in database_url (DATABASE_URL) for this \
                        command; pods may go through the pooler";

/// The same error, or the true reason if a pooler does not accept our start-up parameters. PgBouncer reports that as a protocol
/// violation, which PostgreSQL itself does not do before a session has begun.
pub(super) fn refused_by_a_pooler(error: sqlx::Error) -> sqlx::Error {
    match error.as_database_error() {
        Some(refusal) if refusal.code().is_some_and(|code| code == "08P01") => super::session::refusal(
            format!("{} (SQLSTATE 08P01), says a pooler; {DIRECTLY}", refusal.message()),
        ),
        _ => error,
    }
}

pub(super) async fn no_schema(connection: &mut PgConnection) -> Result<MigrateError, MigrateError> {
    let path: String =
        sqlx::query_scalar("SELECT pg_catalog.current_setting('search_path')").fetch_one(connection).await?;
    Ok(refused(format!(
        "there is no schema {path} that this role may use; create it (CREATE SCHEMA {path}), or name another in `schema` (OVERDUE_SCHEMA)"
    )))
}

/// Waits until no other session migrates this schema. The lock is polled, not waited for: a statement that waits has a
/// snapshot, and an index that is built CONCURRENTLY waits for all snapshots.
pub(super) async fn alone(
    connection: &mut PgConnection,
    schema: &str,
    say: &mut (dyn FnMut(String) + Send),
) -> Result<(), MigrateError> {
    let (began, mut reported) = (Instant::now(), false);
    loop {
        let lock = sqlx::query_scalar("SELECT pg_catalog.pg_try_advisory_lock($2, pg_catalog.hashtext($1))");
        if lock.bind(schema).bind(locks::MIGRATION).fetch_one(&mut *connection).await? {
            return Ok(());
        }
        if !reported && began.elapsed() > Duration::from_secs(2) {
            reported = true;
            say(format!("another session migrates the schema {schema}; waiting for it"));
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Refuses tables of our names that our migrations did not create: an earlier Overdue's, or the shop's own.
pub(super) async fn refuse_foreign_tables(connection: &mut PgConnection) -> Result<(), MigrateError> {
    let there: Vec<String> = sqlx::query_scalar(
        "SELECT name FROM pg_catalog.unnest($1::text[]) AS name
         WHERE pg_catalog.to_regclass(pg_catalog.quote_ident(name)) IS NOT NULL",
    )
    .bind(catalog::TABLES.map(str::to_owned))
    .fetch_all(&mut *connection)
    .await?;
    let has = |name: &str| there.iter().any(|there| there == name);
    if there.is_empty() || has("overdue_migrations") {
        return Ok(());
    }
    if has("orders") && has("outbox") {
        return Err(refused(
            "the schema holds the tables of an Overdue from before the baseline, which cannot be migrated in place; \
             README.md, \"Moving data from before the baseline\", says how to move the data"
                .to_owned(),
        ));
    }
    Err(refused(format!(
        "the schema already holds a table `{}` that is not Overdue's; give Overdue a schema of its own (`schema`, OVERDUE_SCHEMA)",
        there[0]
    )))
}

/// Checks the rights first. Without them, PostgreSQL would refuse a statement halfway, with an error that names no remedy.
pub(super) async fn refuse_without_rights(
    connection: &mut PgConnection,
    schema: &str,
) -> Result<(), MigrateError> {
    let (role, may_create, foreign): (String, bool, Option<String>) = sqlx::query_as(
        "SELECT pg_catalog.quote_ident(current_user), pg_catalog.has_schema_privilege(n.oid, 'CREATE'),
                (SELECT pg_catalog.concat(c.relname, ' belongs to ', pg_catalog.pg_get_userbyid(c.relowner))
                 FROM pg_catalog.pg_class AS c
                 WHERE c.relnamespace = n.oid AND c.relname OPERATOR(pg_catalog.=) ANY ($2::text[])
                   AND NOT pg_catalog.pg_has_role(c.relowner, 'USAGE') ORDER BY c.relname LIMIT 1)
         FROM pg_catalog.pg_namespace AS n WHERE n.nspname OPERATOR(pg_catalog.=) $1::text",
    )
    .bind(schema)
    .bind(catalog::TABLES.map(str::to_owned))
    .fetch_one(connection)
    .await?;
    match (may_create, foreign) {
        (true, None) => Ok(()),
        (_, Some(foreign)) => Err(refused(format!(
            "{foreign}, and the role {role} is not a member of that role; migrate as the owner (postgres/README.md)"
        ))),
        (false, None) => Err(refused(format!(
            "the role {role} may not create tables in the schema {schema}; migrate as its owner (postgres/README.md), or \
             GRANT CREATE ON SCHEMA {} TO {role}",
            identifier(schema)
        ))),
    }
}

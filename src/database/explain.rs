//! Finds the cause of an error that does not name it, by one more look at the database.

use std::io;
use std::time::Duration;

use sqlx::{Connection, PgConnection};
use tokio::time::timeout;

use super::Database;
use super::error::{DatabaseError, Unreached};

/// Timeout of that look; the caller has been waiting already.
const LOOK: Duration = Duration::from_secs(1);

/// The same error, or its cause.
///
/// The pool reports only a timeout when the server refuses connections or has none left; and a table that a user has no
/// right to see is reported as missing.
pub async fn explained(pool: &Database, error: DatabaseError) -> DatabaseError {
    let DatabaseError { doing, source } = error;
    let source = match &source {
        sqlx::Error::PoolTimedOut | sqlx::Error::Io(_) => unreached(pool).await.unwrap_or(source),
        sqlx::Error::Database(error) if error.code().is_some_and(|code| code == "42P01") => {
            match timeout(LOOK, hidden(pool)).await {
                Ok(Ok(Some(explanation))) => sqlx::Error::Configuration(explanation.into()),
                _ => source,
            }
        }
        _ => source,
    };
    DatabaseError { doing, source }
}

/// Why no connection can be opened; `None` if one can.
async fn unreached(pool: &Database) -> Option<sqlx::Error> {
    let options = pool.connect_options();
    let place = match options.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    };
    let connection = timeout(LOOK, PgConnection::connect_with(&options)).await;
    let silent = || Err(io::Error::new(io::ErrorKind::TimedOut, "no answer").into());
    match connection.unwrap_or_else(|_| silent()) {
        Ok(connection) => {
            let _ = timeout(LOOK, connection.close()).await;
            None
        }
        Err(sqlx::Error::Io(source)) => {
            let kind = source.kind();
            Some(io::Error::new(kind, Unreached { place, source }).into())
        }
        Err(other) => Some(other),
    }
}

/// Where Overdue's tables are, if this user does not see them.
async fn hidden(pool: &Database) -> Result<Option<String>, sqlx::Error> {
    // PostgreSQL silently leaves a schema that the user has no right to use out of the search path.
    let schemas = sqlx::query!(
        r#"SELECT pg_catalog.quote_ident(n.nspname) AS "schema!", current_user::text AS "user!", pg_catalog.has_schema_privilege(n.oid, 'USAGE') AS "usage!",
                  n.nspname = ANY (SELECT pg_catalog.btrim(part, ' "') FROM pg_catalog.unnest(pg_catalog.string_to_array(
                      pg_catalog.replace(pg_catalog.current_setting('search_path'), '"$user"', current_user), ',')) AS part) AS "searched!"
           FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
           WHERE c.relname = 'outbox' AND c.relkind IN ('r', 'p')
             AND EXISTS (SELECT FROM pg_class AS o WHERE o.relname = 'lane_probes' AND o.relnamespace = n.oid)
           ORDER BY n.nspname"#
    );
    let schemas = schemas.fetch_all(pool).await?;
    if let Some(found) = schemas.iter().find(|found| found.searched && !found.usage) {
        let (schema, user) = (&found.schema, &found.user);
        return Ok(Some(format!(
            "the schema {schema} has Overdue's tables, and the user {user} may not use it; GRANT USAGE ON SCHEMA \
             {schema} TO {user}, and what its role needs on the tables (postgres/grants.sql)"
        )));
    }
    if schemas.iter().any(|found| found.searched) {
        return Ok(None);
    }
    let elsewhere: Vec<_> = schemas.iter().map(|found| found.schema.as_str()).collect();
    Ok((!elsewhere.is_empty()).then(|| {
        format!(
            "Overdue's tables are in the schema {}, and not where this session looks; run `overdue migrate`, or name that schema \
             in `schema` (OVERDUE_SCHEMA): {}",
            elsewhere.join(" and in "), elsewhere[0]
        )
    }))
}

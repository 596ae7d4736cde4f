//! Database errors as text for a person: the server's message, and what to do.

use std::io;

use sqlx::migrate::MigrateError;

use super::error_class::{ErrorClass, code, error_class};
use crate::error_text::{is_unresolved_host, words};

/// A database error, with what was being done.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {}{}", words(.source), hint(.source))]
pub struct DatabaseError {
    /// What was being done.
    pub doing: &'static str,
    /// The driver's error.
    pub source: sqlx::Error,
}

/// A failed connection, with the address that the driver's errors do not name.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect to {place}: {source}")]
pub(super) struct Unreached {
    pub place: String,
    pub source: io::Error,
}

impl DatabaseError {
    /// For `map_err`.
    pub fn during(doing: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self { doing, source }
    }

    /// Whether a retry can help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        error_class(&self.source) != ErrorClass::Setup
    }
}

/// Why a migration failed, and what to do.
#[must_use]
pub fn migrating(error: &MigrateError) -> String {
    let source = match error {
        MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _) => source,
        MigrateError::VersionMissing(_)
        | MigrateError::VersionMismatch(_)
        | MigrateError::VersionTooOld(..)
        | MigrateError::VersionTooNew(..) => {
            return format!(
                "{error}; another version of Overdue migrated this schema: use that version or a newer one"
            );
        }
        other => return other.to_string(),
    };
    let remedy = match code(source).as_str() {
        "42501" => {
            "; run `overdue migrate` as the owner of the schema, or GRANT CREATE ON SCHEMA … TO this user"
        }
        "42P07" | "42710" | "42723" | "42701" => {
            "; the schema has an object of that name that Overdue did not create: give Overdue a schema of its own \
             (`schema`, OVERDUE_SCHEMA), or rename what is there"
        }
        "3F000" => "; create the schema that `schema` (OVERDUE_SCHEMA) names",
        _ => hint(source),
    };
    format!("{}{remedy}", words(source))
}

/// What to do about an error; empty where that is unknown.
fn hint(error: &sqlx::Error) -> &'static str {
    match error {
        sqlx::Error::Database(_) => of_sqlstate(&code(error)),
        sqlx::Error::Io(error) => of_io(error),
        sqlx::Error::Tls(_) => {
            "; check sslmode and sslrootcert in database_url (DATABASE_URL), and whether PostgreSQL there has ssl on"
        }
        sqlx::Error::Protocol(_) => {
            "; check the port in database_url (DATABASE_URL): what answers there does not speak PostgreSQL's protocol"
        }
        sqlx::Error::PoolTimedOut => {
            "; all connections of this pod (database_connections) are in use, or the database gives none or does not answer"
        }
        _ => "",
    }
}

/// The hint for a SQLSTATE (PostgreSQL documentation, appendix A). An unknown code gets the hint of its class, or none.
fn of_sqlstate(code: &str) -> &'static str {
    match code {
        "28P01" => "; check user and password in database_url (DATABASE_URL)",
        "3D000" => "; create the database, or name another in database_url (DATABASE_URL)",
        "42501" => {
            "; grant this user what its role needs: postgres/grants.sql lists it for owner, pod, shop and reader"
        }
        "42P01" | "42703" | "42883" | "3F000" => "; run `overdue migrate`",
        // A prepared statement exists already, or does not exist: the session is not the one in which we prepared it.
        "42P05" | "26000" => {
            "; a pooler gives this pod another session for each transaction, and was not recognized: set database_pooler \
             (OVERDUE_DATABASE_POOLER) to `always`"
        }
        "08P01" => {
            "; a pooler on the way refuses something: see its log; if database_url has `options`, name the schema in `schema` \
             (OVERDUE_SCHEMA) instead"
        }
        "53100" => "; the disk of the database is full: make room there",
        "53300" => {
            "; PostgreSQL gives no more connections to this user or database: raise max_connections or the CONNECTION \
             LIMIT of the role or database, or lower database_connections or close_concurrency; a pod takes database_connections, twice close_concurrency, and four"
        }
        "53400" => "; a limit that is configured in PostgreSQL was reached",
        "57P01" | "57P02" | "57P03" => "; PostgreSQL is starting or shutting down: a pod retries by itself",
        "25006" => {
            "; name a server that takes writes in database_url (DATABASE_URL): this is a standby, or \
             default_transaction_read_only is on"
        }
        "58030" | "XX001" | "XX002" => "; the database's disk or data is damaged: see PostgreSQL's log",
        _ => match code.get(..2) {
            Some("28") => {
                "; check user and password in database_url (DATABASE_URL), and that pg_hba.conf lets this user in from \
                 here, with TLS or without it"
            }
            Some("08") => "; check the network path to PostgreSQL, and a pooler or proxy on it",
            Some("53") => "; the server is short of resources: see PostgreSQL's log",
            Some("42") => "; Overdue's tables or functions are not as `overdue migrate` makes them",
            _ => "",
        },
    }
}

fn of_io(error: &io::Error) -> &'static str {
    let error =
        error.get_ref().and_then(|inner| inner.downcast_ref::<Unreached>()).map_or(error, |it| &it.source);
    // ENFILE and EMFILE, which have no `ErrorKind` in the standard library.
    if matches!(error.raw_os_error(), Some(23 | 24)) {
        return "; this process may not open more files: raise its limit (`ulimit -n`, LimitNOFILE in systemd)";
    }
    if is_unresolved_host(&error.to_string()) {
        return "; check the host in database_url (DATABASE_URL): its name cannot be resolved";
    }
    "; check database_url (DATABASE_URL) and that PostgreSQL runs there"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_that_is_not_known_gets_no_hint_that_might_be_untrue() {
        for code in ["", "4", "00000", "SHOP1", "21000", "P0001", "XX000", "22003", "23514"] {
            assert_eq!(of_sqlstate(code), "", "{code}");
        }
    }
}

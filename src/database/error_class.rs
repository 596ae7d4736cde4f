//! What a database error means. One table for closing, for starting a pod and for reports.

use sqlx::Error;
use sqlx::postgres::{PgDatabaseError, PgSeverity};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// The database cannot be reached, or accepts no writes now. Only errors known to mean that, because nothing is closed
    /// meanwhile.
    Away,
    /// Another transaction was in the way (deadlock, lock timeout, serialization failure): retry soon.
    Conflict,
    /// The statement exceeded its timeout.
    Slow,
    /// Login, database name, schema or permission: a person must change something. In a statement that closes orders, a trigger
    /// may be the source as well.
    Setup,
    /// Everything else: data, a constraint, a trigger, an unknown code.
    Other,
}

#[must_use]
pub fn error_class(error: &Error) -> ErrorClass {
    match error {
        Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            match error.try_downcast_ref::<PgDatabaseError>() {
                Some(error) if matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic) => {
                    of_ended_session(&code)
                }
                // A RAISE in a trigger, whatever its SQLSTATE.
                Some(error) if error.routine() == Some("exec_stmt_raise") => ErrorClass::Other,
                _ => of_statement(&code),
            }
        }
        Error::Configuration(_) => ErrorClass::Setup,
        Error::Io(_)
        | Error::Tls(_)
        | Error::Protocol(_)
        | Error::PoolTimedOut
        | Error::PoolClosed
        | Error::WorkerCrashed => ErrorClass::Away,
        // A value that cannot be decoded, and variants that the driver may add.
        _ => ErrorClass::Other,
    }
}

/// The class of an error with which the server or a pooler ended the session, by SQLSTATE (PostgreSQL documentation,
/// appendix A).
fn of_ended_session(code: &str) -> ErrorClass {
    match code {
        // No such database, no such schema, invalid authorization.
        "3D000" | "3F000" => ErrorClass::Setup,
        _ if code.starts_with("28") => ErrorClass::Setup,
        // Shut down, crashed, starting, no connection left, idle for too long, and everything else.
        _ => ErrorClass::Away,
    }
}

/// The class of an error of a statement, by SQLSTATE, in a session that goes on.
fn of_statement(code: &str) -> ErrorClass {
    match code {
        // Serialization failure, deadlock, lock not available (lock_timeout).
        "40001" | "40P01" | "55P03" => ErrorClass::Conflict,
        // Query cancelled: statement_timeout.
        "57014" => ErrorClass::Slow,
        // Disk full; read-only (a standby).
        "53100" | "25006" => ErrorClass::Away,
        "3F000" => ErrorClass::Setup,
        // Privileges, tables, columns and functions.
        _ if code.starts_with("42") => ErrorClass::Setup,
        _ => ErrorClass::Other,
    }
}

/// The SQLSTATE of an error, or `client` if it has none.
#[must_use]
pub fn code(error: &Error) -> String {
    let code = error.as_database_error().and_then(|error| error.code());
    code.map_or_else(|| "client".to_owned(), |code| code.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn away_is_only_what_is_known_to_be() {
        for (code, expected) in [
            ("40001", ErrorClass::Conflict),
            ("40P01", ErrorClass::Conflict),
            ("55P03", ErrorClass::Conflict),
            ("57014", ErrorClass::Slow),
            ("53100", ErrorClass::Away),
            ("25006", ErrorClass::Away),
            ("42501", ErrorClass::Setup),
            ("42P01", ErrorClass::Setup),
            ("3F000", ErrorClass::Setup),
            // A subquery with two rows, a code of the shop's own, and everything else that a trigger's statement may raise,
            // even a code that would mean an outage if the session had ended.
            ("21000", ErrorClass::Other),
            ("SHOP1", ErrorClass::Other),
            ("57P01", ErrorClass::Other),
            ("53300", ErrorClass::Other),
            ("08006", ErrorClass::Other),
            ("28P01", ErrorClass::Other),
            ("27000", ErrorClass::Other),
            ("38000", ErrorClass::Other),
            ("54000", ErrorClass::Other),
            ("55000", ErrorClass::Other),
            ("XX000", ErrorClass::Other),
            ("XX001", ErrorClass::Other),
            ("53200", ErrorClass::Other),
            ("23514", ErrorClass::Other),
            ("P0001", ErrorClass::Other),
            ("58030", ErrorClass::Other),
            ("", ErrorClass::Other),
        ] {
            assert_eq!(of_statement(code), expected, "{code}");
        }
        for (code, expected) in [
            ("57P01", ErrorClass::Away),
            ("57P03", ErrorClass::Away),
            ("53300", ErrorClass::Away),
            ("08P01", ErrorClass::Away),
            ("", ErrorClass::Away),
            ("28P01", ErrorClass::Setup),
            ("3D000", ErrorClass::Setup),
        ] {
            assert_eq!(of_ended_session(code), expected, "{code}");
        }
        assert_eq!(error_class(&Error::PoolTimedOut), ErrorClass::Away);
        assert_eq!(error_class(&Error::Decode("no bigint".into())), ErrorClass::Other);
    }
}

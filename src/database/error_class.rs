//! What an error of the database means. One table: whoever closes, starts a pod or reports asks it.

use sqlx::Error;
use sqlx::postgres::{PgDatabaseError, PgSeverity};

/// Whose trouble an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// The database cannot be reached, or takes no writes now. Only what is known to mean that: nothing is closed meanwhile.
    Away,
    /// Somebody else was in the way (deadlock, lock timeout): try again soon.
    Conflict,
    /// The statement took longer than it may.
    Slow,
    /// Login, database name, schema, permission: somebody must change something. In a statement that closes orders it may as well
    /// come from a trigger.
    Setup,
    /// Everything else: data, a constraint, a trigger, a code that nobody has heard of.
    Other,
}

/// Sorts an error.
#[must_use]
pub fn error_class(error: &Error) -> ErrorClass {
    match error {
        Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            match error.try_downcast_ref::<PgDatabaseError>() {
                Some(error) if matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic) => {
                    of_ended_session(&code)
                }
                // A RAISE in a trigger, whatever code it has chosen.
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
        // A value that cannot be read, and what the driver may add.
        _ => ErrorClass::Other,
    }
}

/// By SQLSTATE (PostgreSQL documentation, appendix A), of an error with which the server, or a pooler, has ended the session.
fn of_ended_session(code: &str) -> ErrorClass {
    match code {
        // No such database, no such schema, invalid authorization.
        "3D000" | "3F000" => ErrorClass::Setup,
        _ if code.starts_with("28") => ErrorClass::Setup,
        // Shut down, crashed, starting, no connection left, idle for too long, and whatever else.
        _ => ErrorClass::Away,
    }
}

/// By SQLSTATE, of a statement that failed in a session that goes on.
fn of_statement(code: &str) -> ErrorClass {
    match code {
        // Serialization failure, deadlock, lock not available (lock_timeout).
        "40001" | "40P01" | "55P03" => ErrorClass::Conflict,
        // Cancelled: statement_timeout.
        "57014" => ErrorClass::Slow,
        // Disk full; read-only (a standby).
        "53100" | "25006" => ErrorClass::Away,
        "3F000" => ErrorClass::Setup,
        // Privileges, tables, columns and functions.
        _ if code.starts_with("42") => ErrorClass::Setup,
        _ => ErrorClass::Other,
    }
}

/// The SQLSTATE of an error, or a word for what has none.
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
            // also what would be the server's if the session had ended.
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

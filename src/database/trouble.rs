//! What an error of the database means. One table: whoever closes, starts a pod or reports asks it.

use sqlx::Error;
use sqlx::postgres::{PgDatabaseError, PgSeverity};

/// Whose trouble an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
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
pub fn trouble(error: &Error) -> Trouble {
    match error {
        Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            match error.try_downcast_ref::<PgDatabaseError>() {
                Some(error) if matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic) => {
                    of_ended_session(&code)
                }
                // A RAISE in a trigger, whatever code it has chosen.
                Some(error) if error.routine() == Some("exec_stmt_raise") => Trouble::Other,
                _ => of_statement(&code),
            }
        }
        Error::Configuration(_) => Trouble::Setup,
        Error::Io(_)
        | Error::Tls(_)
        | Error::Protocol(_)
        | Error::PoolTimedOut
        | Error::PoolClosed
        | Error::WorkerCrashed => Trouble::Away,
        // A value that cannot be read, and what the driver may add.
        _ => Trouble::Other,
    }
}

/// By SQLSTATE (PostgreSQL documentation, appendix A), of an error with which the server, or a pooler, has ended the session.
fn of_ended_session(code: &str) -> Trouble {
    match code {
        // No such database, no such schema, invalid authorization.
        "3D000" | "3F000" => Trouble::Setup,
        _ if code.starts_with("28") => Trouble::Setup,
        // Shut down, crashed, starting, no connection left, idle for too long, and whatever else.
        _ => Trouble::Away,
    }
}

/// By SQLSTATE, of a statement that failed in a session that goes on.
fn of_statement(code: &str) -> Trouble {
    match code {
        // Serialization failure, deadlock, lock not available (lock_timeout).
        "40001" | "40P01" | "55P03" => Trouble::Conflict,
        // Cancelled: statement_timeout.
        "57014" => Trouble::Slow,
        // Disk full; read-only (a standby).
        "53100" | "25006" => Trouble::Away,
        "3F000" => Trouble::Setup,
        // Privileges, tables, columns and functions.
        _ if code.starts_with("42") => Trouble::Setup,
        _ => Trouble::Other,
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
            ("40001", Trouble::Conflict),
            ("40P01", Trouble::Conflict),
            ("55P03", Trouble::Conflict),
            ("57014", Trouble::Slow),
            ("53100", Trouble::Away),
            ("25006", Trouble::Away),
            ("42501", Trouble::Setup),
            ("42P01", Trouble::Setup),
            ("3F000", Trouble::Setup),
            // A subquery with two rows, a code of the shop's own, and everything else that a trigger's statement may raise,
            // also what would be the server's if the session had ended.
            ("21000", Trouble::Other),
            ("SHOP1", Trouble::Other),
            ("57P01", Trouble::Other),
            ("53300", Trouble::Other),
            ("08006", Trouble::Other),
            ("28P01", Trouble::Other),
            ("27000", Trouble::Other),
            ("38000", Trouble::Other),
            ("54000", Trouble::Other),
            ("55000", Trouble::Other),
            ("XX000", Trouble::Other),
            ("XX001", Trouble::Other),
            ("53200", Trouble::Other),
            ("23514", Trouble::Other),
            ("P0001", Trouble::Other),
            ("58030", Trouble::Other),
            ("", Trouble::Other),
        ] {
            assert_eq!(of_statement(code), expected, "{code}");
        }
        for (code, expected) in [
            ("57P01", Trouble::Away),
            ("57P03", Trouble::Away),
            ("53300", Trouble::Away),
            ("08P01", Trouble::Away),
            ("", Trouble::Away),
            ("28P01", Trouble::Setup),
            ("3D000", Trouble::Setup),
        ] {
            assert_eq!(of_ended_session(code), expected, "{code}");
        }
        assert_eq!(trouble(&Error::PoolTimedOut), Trouble::Away);
        assert_eq!(trouble(&Error::Decode("no bigint".into())), Trouble::Other);
    }
}

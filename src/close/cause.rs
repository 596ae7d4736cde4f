//! What kept a closing statement from closing, by the error that it met.

use sqlx::Error;
use sqlx::postgres::{PgDatabaseError, PgSeverity};

/// Whose trouble a failed statement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The database cannot be reached, or takes no writes now.
    Away,
    /// Somebody else was in the way: deadlock, lock timeout. Try again soon.
    Conflict,
    /// The statement took longer than it may.
    Slow,
    /// One of the orders: find the culprit.
    Order,
}

/// Sorts an error. *Away* is only what is known to be, because nothing is closed while the database is away; whatever a
/// trigger, a constraint or a new version of PostgreSQL may raise is one of the orders' until no order at all can be closed.
pub(super) fn cause(error: &Error) -> Cause {
    match error {
        Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            match error.try_downcast_ref::<PgDatabaseError>() {
                // The server, or a pooler, has ended the session: shut down, no login, no connection left.
                Some(error) if matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic) => {
                    Cause::Away
                }
                // A RAISE in a trigger, whatever code it has chosen.
                Some(error) if error.routine() == Some("exec_stmt_raise") => Cause::Order,
                _ => of_sqlstate(&code),
            }
        }
        Error::Io(_)
        | Error::Tls(_)
        | Error::Protocol(_)
        | Error::PoolTimedOut
        | Error::PoolClosed
        | Error::WorkerCrashed
        | Error::Configuration(_) => Cause::Away,
        // A value that cannot be read, and what the driver may add.
        _ => Cause::Order,
    }
}

/// Of an error that leaves the session alive.
fn of_sqlstate(code: &str) -> Cause {
    match code {
        // Serialization failure, deadlock, lock not available (lock_timeout).
        "40001" | "40P01" | "55P03" => Cause::Conflict,
        // Cancelled: statement_timeout.
        "57014" => Cause::Slow,
        // Disk full; read-only (a standby).
        "53100" | "25006" => Cause::Away,
        _ => Cause::Order,
    }
}

/// The SQLSTATE of an error, or a word for what has none.
pub(super) fn code(error: &Error) -> String {
    let code = error.as_database_error().and_then(|error| error.code());
    code.map_or_else(|| "client".to_owned(), |code| code.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn away_is_only_what_is_known_to_be() {
        for (code, expected) in [
            ("40001", Cause::Conflict),
            ("40P01", Cause::Conflict),
            ("55P03", Cause::Conflict),
            ("57014", Cause::Slow),
            ("53100", Cause::Away),
            ("25006", Cause::Away),
            // These end a session when they are the server's; a trigger's statement may raise them too.
            ("57P01", Cause::Order),
            ("53300", Cause::Order),
            ("08006", Cause::Order),
            ("28P01", Cause::Order),
            // A subquery with two rows, a code of the shop's own, and everything else that a trigger may raise.
            ("21000", Cause::Order),
            ("SHOP1", Cause::Order),
            ("27000", Cause::Order),
            ("38000", Cause::Order),
            ("54000", Cause::Order),
            ("55000", Cause::Order),
            ("XX000", Cause::Order),
            ("XX001", Cause::Order),
            ("42P01", Cause::Order),
            ("42501", Cause::Order),
            ("53200", Cause::Order),
            ("23514", Cause::Order),
            ("P0001", Cause::Order),
            ("58030", Cause::Order),
            ("", Cause::Order),
        ] {
            assert_eq!(of_sqlstate(code), expected, "{code}");
        }
        assert_eq!(cause(&Error::PoolTimedOut), Cause::Away);
        assert_eq!(cause(&Error::Decode("no bigint".into())), Cause::Order);
    }
}

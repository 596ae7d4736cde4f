//! Whose trouble an error of the database is.

/// What an error of the database means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The database cannot be reached or does not take writes now: wait, nobody's fault.
    Away,
    /// Somebody else was in the way (deadlock, lock or statement timeout): try again soon.
    Conflict,
    /// Login, database name, schema or permission: somebody must change something.
    Setup,
    /// The data of one of the orders: find the culprit.
    Order,
}

/// Sorts an error by its SQLSTATE (PostgreSQL documentation, appendix A) or its kind.
#[must_use]
pub fn trouble(error: &sqlx::Error) -> Trouble {
    match error {
        sqlx::Error::Database(error) => error.code().map_or(Trouble::Away, |code| of_sqlstate(&code)),
        sqlx::Error::Configuration(_) => Trouble::Setup,
        // A value that does not fit the type it is read into comes from one order's row.
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::Encode(_) => Trouble::Order,
        _ => Trouble::Away,
    }
}

fn of_sqlstate(code: &str) -> Trouble {
    match code {
        // Serialization failure, deadlock, lock not available (lock_timeout), cancelled (statement_timeout).
        "40001" | "40P01" | "55P03" | "57014" => Trouble::Conflict,
        // No such database, no such schema.
        "3D000" | "3F000" => Trouble::Setup,
        // Corrupted data or index: of the rows that were read.
        "XX001" | "XX002" => Trouble::Order,
        _ => match &code[..2.min(code.len())] {
            // Data exception, integrity constraint, WITH CHECK OPTION, raised by a trigger.
            "22" | "23" | "44" | "P0" => Trouble::Order,
            // Invalid authorization; privileges, tables, columns and functions.
            "28" | "42" => Trouble::Setup,
            // Connection, resources, operator, system, read-only (a replica), changed plan (a table was altered), and
            // whatever else: that waiting helps is the guess that can hurt no order.
            _ => Trouble::Away,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sqlstate_is_somebodys_trouble() {
        for (code, expected) in [
            ("40001", Trouble::Conflict),
            ("40P01", Trouble::Conflict),
            ("55P03", Trouble::Conflict),
            ("57014", Trouble::Conflict),
            ("57P01", Trouble::Away),
            ("57P03", Trouble::Away),
            ("53300", Trouble::Away),
            ("53100", Trouble::Away),
            ("08006", Trouble::Away),
            ("25006", Trouble::Away),
            ("58030", Trouble::Away),
            ("28P01", Trouble::Setup),
            ("3D000", Trouble::Setup),
            ("42501", Trouble::Setup),
            ("42P01", Trouble::Setup),
            ("22003", Trouble::Order),
            ("23514", Trouble::Order),
            ("23503", Trouble::Order),
            ("P0001", Trouble::Order),
            ("XX001", Trouble::Order),
            ("XX000", Trouble::Away),
            ("0A000", Trouble::Away),
            ("42804", Trouble::Setup),
        ] {
            assert_eq!(of_sqlstate(code), expected, "{code}");
        }
        assert_eq!(trouble(&sqlx::Error::PoolTimedOut), Trouble::Away);
    }
}

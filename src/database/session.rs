//! The session settings that closing relies on: sent when a connection is made, and checked that they arrived.
//!
//! What a statement means must not depend on defaults of the database or the role. The settings are start-up parameters and
//! are never SET later: behind a transaction pooler, another program may get the same session.

use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection, Row};

use super::{DatabaseError, PROBE, within};
use crate::config::Config;

/// Session settings of every connection of ours, besides the search path.
///
/// Timeouts are short: no statement of ours takes long unless it waits for a lock, and then a retry is better than waiting.
/// All batch sizes share one plan: planning the closing statement each time costs more than it could save.
const PINNED: [(&str, &str); 10] = [
    // Under a stricter isolation level, a close uses a snapshot from before its locks and would miss items.
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    ("default_transaction_deferrable", "off"),
    // An event must not be published before its transaction is on the disk.
    ("synchronous_commit", "on"),
    // A policy that would hide rows causes an error instead of a close that does not give its stock back.
    ("row_security", "off"),
    ("statement_timeout", "10s"),
    // Shorter than deadlock_timeout (1 s): when a close and a buyer's checkout wait for each other, the close gives way, and
    // PostgreSQL never has to abort the checkout.
    ("lock_timeout", "400ms"),
    ("idle_in_transaction_session_timeout", "10s"),
    ("idle_session_timeout", "0"),
    ("plan_cache_mode", "force_generic_plan"),
];

/// Connection options with our session settings.
///
/// # Errors
/// When the URL cannot be parsed; the configuration has checked that already.
pub fn options(config: &Config) -> Result<PgConnectOptions, DatabaseError> {
    let options = config
        .database_options()
        .map_err(|problem| DatabaseError { doing: "reading database_url", source: refusal(problem) })?;
    let options = options.application_name("overdue").options(PINNED);
    Ok(options.options([("search_path", identifier(&config.schema))]).disable_statement_logging())
}

/// A name quoted as an SQL identifier.
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// An error that a retry does not fix.
pub(super) fn refusal(problem: impl Into<String>) -> sqlx::Error {
    sqlx::Error::Configuration(problem.into().into())
}

/// Connects outside the pool, and checks the session; `changed` are settings that replace the usual ones.
///
/// # Errors
/// When the database cannot be reached or refuses the login, or when the session does not have our settings.
pub async fn connect(
    config: &Config,
    changed: &[(&'static str, &str)],
) -> Result<PgConnection, DatabaseError> {
    let options = options(config)?.options(changed.iter().copied());
    let connecting = async {
        let connected = PgConnection::connect_with(&options).await;
        let mut connection = connected.map_err(true_reason)?;
        check(&mut connection, &config.schema, changed).await?;
        Ok(connection)
    };
    within(PROBE, "connecting to the database", connecting).await
}

/// Turns a pooler's refusal of start-up parameters into an error that is not retried. The pooler reports it as a protocol
/// violation, which from PostgreSQL itself would count as an outage.
fn true_reason(error: sqlx::Error) -> sqlx::Error {
    match error.as_database_error() {
        Some(refused) if refused.message().contains("startup parameter") => refusal(format!(
            "{} (SQLSTATE {}): a connection pooler refuses the session settings that closing relies on; connect to \
             PostgreSQL directly in database_url (DATABASE_URL)",
            refused.message(),
            refused.code().unwrap_or_default()
        )),
        _ => error,
    }
}

/// Checks in one round trip that the session has our settings.
///
/// # Errors
/// The database's, or a refusal that names the first unsuitable setting, its value, and what to do.
pub(super) async fn check(
    connection: &mut PgConnection,
    schema: &str,
    changed: &[(&'static str, &str)],
) -> Result<(), sqlx::Error> {
    let mut pinned: Vec<(&str, String)> =
        PINNED.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    pinned.push(("search_path", identifier(schema)));
    for (name, value) in changed {
        pinned.retain(|(known, _)| known != name);
        pinned.push((name, (*value).to_owned()));
    }
    let asked = pinned.iter().map(|(name, _)| *name).chain(GIVEN.iter().map(|(name, ..)| *name));
    let columns: Vec<_> = asked.map(|name| format!("pg_catalog.current_setting('{name}', true)")).collect();
    // The simple protocol: a pooler may pass the next statement to another session, in which a prepared one does not exist.
    let query = format!(
        "SELECT {}, pg_catalog.quote_ident(current_user), pg_catalog.quote_ident(pg_catalog.current_database())",
        columns.join(", ")
    );
    let row: PgRow = connection.fetch_one(sqlx::raw_sql(AssertSqlSafe(query))).await?;
    let value = |at: usize| row.try_get::<Option<String>, _>(at);
    for (at, (name, wanted)) in pinned.iter().enumerate() {
        let there = value(at)?.unwrap_or_default();
        if !same(&there, wanted) {
            return Err(refusal(format!(
                "the session setting {name} is `{there}` and not `{wanted}`: something between Overdue and PostgreSQL drops \
                 start-up parameters (a pooler such as PgBouncer with ignore_startup_parameters), or a login trigger sets it; \
                 connect to PostgreSQL directly in database_url (DATABASE_URL), or set it for the role: \
                 ALTER ROLE {} SET {name} = {}",
                value(columns.len())?.unwrap_or_default(),
                literal(wanted)
            )));
        }
    }
    for (at, (name, fits, why)) in GIVEN.iter().enumerate() {
        let Some(there) = value(pinned.len() + at)?.filter(|there| !fits(there)) else { continue };
        return Err(refusal(format!(
            "the session setting {name} is `{there}`: {why}; a superuser can repair it: ALTER ROLE {role} RESET {name}, \
             ALTER DATABASE {database} RESET {name}, ALTER ROLE {role} IN DATABASE {database} RESET {name}, or postgresql.conf",
            role = value(columns.len())?.unwrap_or_default(),
            database = value(columns.len() + 1)?.unwrap_or_default(),
        )));
    }
    Ok(())
}

/// Settings that cannot be sent: an ordinary role may not set the first, and PostgreSQL before 17 does not know the second.
#[expect(clippy::type_complexity, reason = "a table of name, test and reason")]
const GIVEN: [(&str, fn(&str) -> bool, &str); 2] = [
    (
        "session_replication_role",
        |value| value != "replica",
        "no trigger fires, so orders get neither wakes nor events",
    ),
    ("transaction_timeout", enough, "closing may need 20s, and would be cut off"),
];

/// Whether a timeout, as PostgreSQL shows it, is off or at least 20 s.
fn enough(value: &str) -> bool {
    let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    match (digits.parse::<u64>(), &value[digits.len()..]) {
        (Ok(0), _) => true,
        (Ok(number), "ms") => number >= 20_000,
        (Ok(number), "s") => number >= 20,
        (Ok(_), "min" | "h" | "d") => true,
        _ => false,
    }
}

/// Whether two spellings of a value mean the same. Quotes around a plain lower-case name change nothing.
fn same(there: &str, wanted: &str) -> bool {
    let plain = wanted.trim_matches('"');
    let needs_none = plain.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    there == wanted || (needs_none && there == plain)
}

fn literal(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_enough_when_it_is_none_or_long() {
        for (value, expected) in [
            ("0", true),
            ("19s", false),
            ("20s", true),
            ("20000ms", true),
            ("100ms", false),
            ("1min", true),
            ("1h", true),
            ("2d", true),
            ("", false),
            ("soon", false),
        ] {
            assert_eq!(enough(value), expected, "{value}");
        }
    }

    #[test]
    fn quotes_around_a_plain_name_mean_nothing() {
        for (there, wanted, expected) in [
            ("berlin", "\"berlin\"", true),
            ("\"berlin\"", "\"berlin\"", true),
            ("Berlin", "\"Berlin\"", false),
            ("berlin, public", "\"berlin\"", false),
            ("a\"b", "\"a\"\"b\"", false),
            ("on", "off", false),
        ] {
            assert_eq!(same(there, wanted), expected, "{there} {wanted}");
        }
    }
}

//! The session settings that closing relies on: sent, and checked that they arrived.
//!
//! What a statement means must not depend on defaults of the database or the role. A direct connection gets the settings as start-up
//! parameters. Through a pooler, each transaction begins with them (`executor.rs`); they are never SET for a session, because
//! another program may get the same session.

use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{AssertSqlSafe, ConnectOptions, Executor, PgConnection, Row};

use super::DatabaseError;
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

/// A start-up parameter that means nothing to PostgreSQL. A session without it goes through a pooler that drops start-up parameters.
const MARK: &str = "overdue.direct";

/// Connection options with our session settings as start-up parameters.
///
/// # Errors
/// When the URL cannot be parsed; the configuration has checked that already.
pub fn options(config: &Config) -> Result<PgConnectOptions, DatabaseError> {
    Ok(Settings::of(config, &[]).at_start(plain_options(config)?))
}

/// Connection options without start-up parameters, but for those that every pooler knows.
pub(super) fn plain_options(config: &Config) -> Result<PgConnectOptions, DatabaseError> {
    let options = config
        .database_options()
        .map_err(|problem| DatabaseError { doing: "reading database_url", source: refusal(problem) })?;
    // Floating-point numbers are exchanged in binary.
    Ok(options.application_name("overdue").extra_float_digits(None).disable_statement_logging())
}

/// A name quoted as an SQL identifier.
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// An error that a retry does not fix.
pub(super) fn refusal(problem: impl Into<String>) -> sqlx::Error {
    sqlx::Error::Configuration(problem.into().into())
}

/// What our settings are in a session: ours, those that are only looked at, the mark, the role and the database.
pub(super) struct Seen(PgRow);

impl Seen {
    /// Whether start-up parameters have arrived.
    pub fn is_direct(&self) -> Result<bool, sqlx::Error> {
        Ok(self.0.try_get::<Option<&str>, _>("mark")? == Some("on"))
    }

    fn value(&self, at: usize) -> Result<Option<String>, sqlx::Error> {
        self.0.try_get(at)
    }
}

/// The settings of a session: the usual ones, the search path, and what replaces them.
#[derive(Clone, Debug)]
pub(super) struct Settings(Vec<(&'static str, String)>);

impl Settings {
    /// `changed` are settings that replace the usual ones.
    pub fn of(config: &Config, changed: &[(&'static str, &str)]) -> Self {
        let mut settings: Vec<_> = PINNED.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        settings.push(("search_path", identifier(&config.schema)));
        for (name, value) in changed {
            settings.retain(|(known, _)| known != name);
            settings.push((name, (*value).to_owned()));
        }
        Self(settings)
    }

    /// These options with the settings and the mark as start-up parameters.
    pub fn at_start(&self, options: PgConnectOptions) -> PgConnectOptions {
        options.options(self.0.iter().map(|(name, value)| (*name, value.as_str()))).options([(MARK, "on")])
    }

    /// Statements that begin a transaction with the settings, which end with it.
    pub fn begin(&self) -> String {
        let set = self.0.iter().map(|(name, value)| {
            // A search path is a list of identifiers, not one text.
            let value = if *name == "search_path" { value.clone() } else { literal(value) };
            format!("SET LOCAL {name} = {value}")
        });
        let begin = "BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE, NOT DEFERRABLE".to_owned();
        std::iter::once(begin).chain(set).collect::<Vec<_>>().join("; ")
    }

    /// Reads in one round trip what the settings are now.
    pub async fn look(&self, connection: &mut PgConnection) -> Result<Seen, sqlx::Error> {
        let asked = self.0.iter().map(|(name, _)| *name).chain(GIVEN.iter().map(|(name, ..)| *name));
        let columns: Vec<_> =
            asked.map(|name| format!("pg_catalog.current_setting('{name}', true)")).collect();
        // The simple protocol: a pooler may pass the next statement to another session, in which a prepared one does not exist.
        let query = format!(
            "SELECT {}, pg_catalog.quote_ident(current_user) AS role, pg_catalog.quote_ident(pg_catalog.current_database()) AS database,
                    pg_catalog.current_setting('{MARK}', true) AS mark",
            columns.join(", ")
        );
        Ok(Seen(connection.fetch_one(sqlx::raw_sql(AssertSqlSafe(query))).await?))
    }

    /// Refuses unsuitable settings.
    ///
    /// # Errors
    /// A refusal that names the first of them, its value, and what to do.
    pub fn judge(&self, seen: &Seen) -> Result<(), sqlx::Error> {
        let role: String = seen.0.try_get("role")?;
        for (at, (name, wanted)) in self.0.iter().enumerate() {
            let there = seen.value(at)?.unwrap_or_default();
            if !same(&there, wanted) {
                return Err(refusal(format!(
                    "the session setting {name} is `{there}` and not `{wanted}`, which Overdue has set: something else sets it \
                     when a session or transaction begins, such as a login trigger or a pooler's connect_query; leave the \
                     role {role} out of it"
                )));
            }
        }
        let database: String = seen.0.try_get("database")?;
        for (at, (name, fits, why)) in GIVEN.iter().enumerate() {
            let Some(there) = seen.value(self.0.len() + at)?.filter(|there| !fits(there)) else { continue };
            return Err(refusal(format!(
                "the session setting {name} is `{there}`: {why}; a superuser can repair it: ALTER ROLE {role} RESET {name}, \
                 ALTER DATABASE {database} RESET {name}, ALTER ROLE {role} IN DATABASE {database} RESET {name}, or postgresql.conf"
            )));
        }
        Ok(())
    }
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

//! The settings: one table that is the flags' help, the environment's names, the file's keys and the README's table.
//!
//! A value comes from the first of: flag, environment, file, default. It stays text until [`crate::config`] checks it,
//! so that every error can name the setting and where its value came from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// The file's key; the flag is the same with dashes.
    pub name: &'static str,
    /// The environment variable.
    pub env: &'static str,
    /// Used when nothing else says a value; `None` where there can be no default.
    pub default: Option<&'static str>,
    /// What it does, with its unit.
    pub help: &'static str,
}

/// Every setting, in the order in which a new user meets them.
#[rustfmt::skip]
pub const SETTINGS: &[Setting] = &[
    Setting { name: "database_url", env: "DATABASE_URL", default: None,
        help: "PostgreSQL 14 or newer, e.g. postgres://user:password@host/shop" },
    Setting { name: "amqp_url", env: "AMQP_URL", default: None,
        help: "RabbitMQ 3.10 or newer, e.g. amqp://user:password@host/vhost; amqps: for TLS; several nodes separated by commas" },
    Setting { name: "management_url", env: "OVERDUE_MANAGEMENT_URL", default: Some(""),
        help: "RabbitMQ's management API, for `topology verify`; empty: the broker's host, port 15672; without a user: the broker's" },
    Setting { name: "prefix", env: "OVERDUE_PREFIX", default: Some(""),
        help: "put before every exchange and queue name, so that several shops share a broker, e.g. `berlin.`" },
    Setting { name: "lanes", env: "OVERDUE_LANES", default: Some("1s,2s,5s,10s,30s,1m,2m,5m,10m,15m,30m,1h,2h,6h,12h,24h,3d,7d"),
        help: "the delay lanes, one queue each; add the payment windows that the shop uses (ms, s, m, h, d), and keep a short one" },
    Setting { name: "lead", env: "OVERDUE_LEAD", default: Some("250ms"),
        help: "how long before its deadline a wake is aimed to reach a pod, which holds it until then" },
    Setting { name: "lane_tolerance", env: "OVERDUE_LANE_TOLERANCE", default: Some("200ms"),
        help: "how much less than a lane's length may remain for a wake to take that lane in one hop; at most `lead`" },
    Setting { name: "coalesce", env: "OVERDUE_COALESCE", default: Some("100ms"),
        help: "orders of one lane whose deadlines lie within this time share a message; at most 1s" },
    Setting { name: "max_orders_per_wake", env: "OVERDUE_MAX_ORDERS_PER_WAKE", default: Some("200"),
        help: "most orders in one message (1 to 1000); 1 is one message per order" },
    Setting { name: "max_attempts", env: "OVERDUE_MAX_ATTEMPTS", default: Some("8"),
        help: "how often closing an order is tried before it is parked" },
    Setting { name: "retry_base", env: "OVERDUE_RETRY_BASE", default: Some("1s"),
        help: "wait before the second attempt; doubled for each one after it, at most 1h" },
    Setting { name: "max_window", env: "OVERDUE_MAX_WINDOW", default: Some("366d"),
        help: "a message with a deadline further ahead than this is parked as malformed" },
    Setting { name: "prefetch", env: "OVERDUE_PREFETCH", default: Some("1000"),
        help: "most unacknowledged messages a pod takes from the process queue (1 to 2000); never more than max_held / max_orders_per_wake, or than 250 where that is less" },
    Setting { name: "max_held", env: "OVERDUE_MAX_HELD", default: Some("20000"),
        help: "most orders a pod holds; beyond it the pod stops taking messages" },
    Setting { name: "close_batch", env: "OVERDUE_CLOSE_BATCH", default: Some("150"),
        help: "most orders closed in one transaction (1 to 10000)" },
    Setting { name: "close_concurrency", env: "OVERDUE_CLOSE_CONCURRENCY", default: Some("2"),
        help: "most closing transactions of a pod at one time (1 to 64), and of all pods those that close 100 orders or more" },
    Setting { name: "database_connections", env: "OVERDUE_DATABASE_CONNECTIONS", default: Some("8"),
        help: "most connections in a pod's pool (at least close_concurrency + 4); three more are used for leadership" },
    Setting { name: "relay_poll", env: "OVERDUE_RELAY_POLL", default: Some("50ms"),
        help: "how often the relay looks for new outbox rows when it has caught up" },
    Setting { name: "relay_batch", env: "OVERDUE_RELAY_BATCH", default: Some("500"),
        help: "most outbox rows the relay publishes before it deletes them (1 to 10000)" },
    Setting { name: "sweep_every", env: "OVERDUE_SWEEP_EVERY", default: Some("30s"),
        help: "how often orders that no wake closed are looked for" },
    Setting { name: "sweep_grace", env: "OVERDUE_SWEEP_GRACE", default: Some("10s"),
        help: "how long after its deadline an order is left to its wake before the sweep takes it" },
    Setting { name: "probe_every", env: "OVERDUE_PROBE_EVERY", default: Some("30s"),
        help: "how often a probe is sent through a lane, to notice within `sweep_grace` when it does not deliver" },
    Setting { name: "outage_patience", env: "OVERDUE_OUTAGE_PATIENCE", default: Some("2s"),
        help: "how long closing is retried in place when the database is away, before messages are given back" },
    Setting { name: "confirm_timeout", env: "OVERDUE_CONFIRM_TIMEOUT", default: Some("5s"),
        help: "longest wait for the broker to answer: connecting, declaring, publisher confirms" },
    Setting { name: "drain_timeout", env: "OVERDUE_DRAIN_TIMEOUT", default: Some("10s"),
        help: "on SIGTERM, how long what is in hand may take to be closed or handed over before it is given back" },
    Setting { name: "declare_topology", env: "OVERDUE_DECLARE_TOPOLOGY", default: Some("true"),
        help: "whether `run` declares exchanges and queues itself; `false` needs no configure permission" },
    Setting { name: "log", env: "OVERDUE_LOG", default: Some("info,lapin=off"),
        help: "log filter: error, warn, info, debug, or per module; what lapin logs, the sessions' own lines say better" },
    Setting { name: "log_format", env: "OVERDUE_LOG_FORMAT", default: Some("text"),
        help: "`text` for people, `json` for collectors" },
];

/// Where a value came from; it is part of every error about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `--name`
    Flag,
    /// The environment variable.
    Env,
    /// The configuration file.
    File(String),
    /// The table above.
    Default,
}

/// A settings error: names the setting, its origin, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// No value anywhere.
    #[error("setting `{name}` has no value: set {env}, give --{flag}, or write `{name} = …` in the file", flag = dashed(.name))]
    Missing {
        /// The setting.
        name: &'static str,
        /// Its variable.
        env: &'static str,
    },
    /// A value that cannot be used.
    #[error("setting `{name}` ({origin}): {problem}")]
    Wrong {
        /// The setting.
        name: &'static str,
        /// Where its value came from.
        origin: String,
        /// What is wrong and what to write instead.
        problem: String,
    },
    /// The file cannot be read or understood.
    #[error("configuration file {path}: {problem}")]
    File {
        /// As given.
        path: String,
        /// What is wrong.
        problem: String,
    },
}

/// `max_held` as a flag: `max-held`.
#[must_use]
pub fn dashed(name: &str) -> String {
    name.replace('_', "-")
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("from the command line"),
            Self::Env => f.write_str("from the environment"),
            Self::File(path) => write!(f, "from {path}"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// The values as text, each with its origin.
#[derive(Debug, Clone)]
pub struct Raw(BTreeMap<&'static str, (String, Origin)>);

impl Raw {
    /// Collects every setting from flags, environment, file and defaults, in this order of precedence.
    ///
    /// # Errors
    /// When the file cannot be read, is not TOML, or has a key that is no setting.
    pub fn collect(
        flag: impl Fn(&str) -> Option<String>,
        env: impl Fn(&str) -> Option<String>,
        file: Option<&Path>,
    ) -> Result<Self, SettingError> {
        let from_file = file.map(read_file).transpose()?;
        let shown = file.map(|path| path.display().to_string()).unwrap_or_default();
        Self::with_file(flag, env, &shown, &from_file.unwrap_or_default())
    }

    /// As [`Raw::collect`], with the file's name and text.
    ///
    /// # Errors
    /// As [`Raw::collect`].
    pub fn with_file(
        flag: impl Fn(&str) -> Option<String>,
        env: impl Fn(&str) -> Option<String>,
        path: &str,
        text: &str,
    ) -> Result<Self, SettingError> {
        let mut from_file = parse_file(path, text)?;
        let mut values = BTreeMap::new();
        for Setting { name, env: variable, default, .. } in SETTINGS {
            let file_value = from_file.remove(*name);
            let value = flag(name)
                .map(|value| (value, Origin::Flag))
                // An empty variable is how a shell or a compose file says "not set".
                .or_else(|| env(variable).filter(|v| !v.is_empty()).map(|value| (value, Origin::Env)))
                .or(file_value)
                .or_else(|| default.map(|value| (value.to_owned(), Origin::Default)));
            if let Some(value) = value {
                values.insert(*name, value);
            }
        }
        if let Some((key, _)) = from_file.pop_first() {
            let problem = format!("`{key}` is no setting; `overdue run --help` lists them");
            return Err(SettingError::File { path: path.to_owned(), problem });
        }
        Ok(Self(values))
    }

    /// Defaults with a few values said: for tests and embedding.
    ///
    /// # Errors
    /// As [`Raw::collect`]; not for unknown names, which are ignored.
    pub fn with(said: &[(&str, &str)]) -> Result<Self, SettingError> {
        let flag = |name: &str| said.iter().rev().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        Self::collect(flag, |_| None, None)
    }

    /// The same, with a value for a setting that nothing said one for: for commands that do not need it.
    #[must_use]
    pub fn or(mut self, name: &'static str, value: &str) -> Self {
        self.0.entry(name).or_insert_with(|| (value.to_owned(), Origin::Default));
        self
    }

    /// The same, with another value for a setting, whatever was said.
    #[must_use]
    pub fn replace(mut self, name: &'static str, value: &str) -> Self {
        self.0.insert(name, (value.to_owned(), Origin::Default));
        self
    }

    /// The text of a setting.
    ///
    /// # Errors
    /// [`SettingError::Missing`] when nothing said one and there is no default.
    pub fn text(&self, name: &'static str) -> Result<&str, SettingError> {
        let env = SETTINGS.iter().find(|s| s.name == name).map_or("", |s| s.env);
        self.0.get(name).map(|(value, _)| value.as_str()).ok_or(SettingError::Missing { name, env })
    }

    /// A setting, parsed; `parse` says what is wrong with a value that it cannot use.
    ///
    /// # Errors
    /// As [`Raw::text`], or [`SettingError::Wrong`].
    pub fn parse<T>(
        &self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, SettingError> {
        parse(self.text(name)?).map_err(|problem| self.wrong(name, problem))
    }

    /// An error about a setting's value.
    #[must_use]
    pub fn wrong(&self, name: &'static str, problem: impl fmt::Display) -> SettingError {
        let origin = self.0.get(name).map_or(Origin::Default, |(_, origin)| origin.clone()).to_string();
        SettingError::Wrong { name, origin, problem: problem.to_string() }
    }
}

fn read_file(path: &Path) -> Result<String, SettingError> {
    std::fs::read_to_string(path)
        .map_err(|error| SettingError::File { path: path.display().to_string(), problem: error.to_string() })
}

fn parse_file(shown: &str, text: &str) -> Result<BTreeMap<String, (String, Origin)>, SettingError> {
    let error = |problem: String| SettingError::File { path: shown.to_owned(), problem };
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| error(e.to_string()))?;
    table
        .into_iter()
        .map(|(key, value)| {
            let value = match value {
                toml::Value::String(text) => text,
                toml::Value::Integer(number) => number.to_string(),
                toml::Value::Boolean(truth) => truth.to_string(),
                _ => {
                    return Err(error(format!("`{key}` must be a string, a whole number, true or false")));
                }
            };
            Ok((key, (value, Origin::File(shown.to_owned()))))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_beats_the_environment_beats_the_file_beats_the_default() {
        let dir = std::env::temp_dir().join(format!("overdue-settings-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder");
        let path = dir.join("overdue.toml");
        std::fs::write(&path, "lead = \"1ms\"\nprefetch = 3\nmax_held = 4\n").expect("a file");
        let flag = |name: &str| (name == "lead").then(|| "3ms".to_owned());
        let env = |name: &str| match name {
            "OVERDUE_LEAD" | "OVERDUE_PREFETCH" => Some("2".to_owned()),
            "OVERDUE_MAX_HELD" => Some(String::new()),
            _ => None,
        };
        let raw = Raw::collect(flag, env, Some(&path)).expect("settings");
        assert_eq!(raw.text("lead"), Ok("3ms"));
        assert_eq!(raw.text("prefetch"), Ok("2"));
        assert_eq!(raw.text("max_held"), Ok("4"), "an empty variable is not set");
        assert_eq!(raw.text("coalesce"), Ok("100ms"));
        assert!(raw.wrong("max_held", "no").to_string().contains("overdue.toml"));

        std::fs::write(&path, "leed = \"1ms\"").expect("a file");
        let error = Raw::collect(|_| None, |_| None, Some(&path)).expect_err("a slip").to_string();
        assert!(error.contains("`leed` is no setting"), "{error}");
        std::fs::write(&path, "lead = [1]").expect("a file");
        assert!(Raw::collect(|_| None, |_| None, Some(&path)).is_err());
        std::fs::remove_dir_all(&dir).expect("cleaned up");
    }

    #[test]
    fn a_missing_value_names_the_setting_and_every_way_to_set_it() {
        let raw = Raw::with(&[]).expect("settings");
        let error = raw.text("database_url").expect_err("missing").to_string();
        assert!(error.contains("DATABASE_URL") && error.contains("--database-url"), "{error}");
    }
}

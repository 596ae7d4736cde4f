//! The settings: one table for the flags' help, the environment's names, the file's keys and the README's table.
//!
//! A value comes from the first of: flag, environment, file, default. It stays text until [`crate::config`] checks it,
//! so that every error can name the setting and where its value came from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

pub use super::slip::unknown_variables;
use super::slip::{Slip, closest, nearest};
pub use super::table::{SECRETS, SETTINGS, Setting};

/// Where a value came from; it is part of every error about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `--name`
    Flag,
    Env,
    /// The configuration file, with its name.
    File(String),
    /// The default in [`SETTINGS`].
    Default,
}

/// A settings error: names the setting, its origin, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// A setting without default has no value.
    #[error("setting `{name}` has no value: set {env}, give --{flag}, or write `{name} = …` in the file", flag = dashed(.name))]
    Missing { name: &'static str, env: &'static str },
    /// A value that cannot be used.
    #[error("setting `{name}` ({origin}): {problem}")]
    Wrong {
        name: &'static str,
        origin: String,
        /// What is wrong and what to write instead.
        problem: String,
    },
    #[error(transparent)]
    Slip(#[from] Slip),
    /// The file cannot be read or understood.
    #[error("configuration file {path}: {problem}")]
    File { path: String, problem: String },
}

/// `max_in_flight_orders` as a flag: `max-in-flight-orders`.
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
    /// [`SettingError::File`] when the file cannot be read, is not TOML, has a key that is not a setting, or a value that is
    /// not a string, a whole number, true or false. [`SettingError::Wrong`] when a variable names a file with a secret that
    /// cannot be read, or is there beside the variable with the secret itself.
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
    /// As [`Raw::collect`], except for reading the file.
    pub fn with_file(
        flag: impl Fn(&str) -> Option<String>,
        env: impl Fn(&str) -> Option<String>,
        path: &str,
        text: &str,
    ) -> Result<Self, SettingError> {
        let mut from_file = parse_file(path, text)?;
        let mut values = BTreeMap::new();
        for setting @ Setting { name, default, .. } in SETTINGS {
            let file_value = from_file.remove(*name);
            let from_env = match flag(name) {
                Some(value) => Some((value, Origin::Flag)),
                None => from_env(setting, &env)?,
            };
            let value =
                from_env.or(file_value).or_else(|| default.map(|value| (value.to_owned(), Origin::Default)));
            if let Some(value) = value {
                values.insert(*name, value);
            }
        }
        if let Some((key, _)) = from_file.pop_first() {
            let more = match closest(&key, |setting| setting.name) {
                Some(name) => format!(": did you mean `{name}`?"),
                None => format!("; the nearest is `{}`, and `overdue run --help` lists all", nearest(&key)),
            };
            let problem = format!("`{key}` is not a setting{more}");
            return Err(SettingError::File { path: path.to_owned(), problem });
        }
        Ok(Self(values))
    }

    /// Defaults with a few overrides, for tests and embedding. Unknown names are ignored.
    ///
    /// # Errors
    /// None: [`Raw::collect`] fails only over a file.
    pub fn with(overrides: &[(&str, &str)]) -> Result<Self, SettingError> {
        let flag =
            |name: &str| overrides.iter().rev().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        Self::collect(flag, |_| None, None)
    }

    /// Fills in a value where a setting has none, for commands that do not need the setting.
    #[must_use]
    pub fn or(mut self, name: &'static str, value: &str) -> Self {
        self.0.entry(name).or_insert_with(|| (value.to_owned(), Origin::Default));
        self
    }

    /// Replaces the value of a setting.
    #[must_use]
    pub fn replace(mut self, name: &'static str, value: &str) -> Self {
        self.0.insert(name, (value.to_owned(), Origin::Default));
        self
    }

    /// The text of a setting.
    ///
    /// # Errors
    /// [`SettingError::Missing`] when there is no value and no default.
    pub fn text(&self, name: &'static str) -> Result<&str, SettingError> {
        let env = SETTINGS.iter().find(|s| s.name == name).map_or("", |s| s.env);
        self.0.get(name).map(|(value, _)| value.as_str()).ok_or(SettingError::Missing { name, env })
    }

    /// Parses a setting; `parse` returns what is wrong with a value that it cannot use.
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

    /// Whether the value is the default.
    #[must_use]
    pub fn is_default(&self, name: &str) -> bool {
        self.0.get(name).is_none_or(|(_, origin)| *origin == Origin::Default)
    }

    /// An error about a setting's value.
    #[must_use]
    pub fn wrong(&self, name: &'static str, problem: impl fmt::Display) -> SettingError {
        let origin = self.0.get(name).map_or(Origin::Default, |(_, origin)| origin.clone()).to_string();
        SettingError::Wrong { name, origin, problem: problem.to_string() }
    }
}

/// The value of a setting's variable, or of the file that its variable with `_FILE` names. An empty variable counts as not set,
/// because that is how a shell or a compose file writes it.
fn from_env(
    setting: &Setting,
    env: &impl Fn(&str) -> Option<String>,
) -> Result<Option<(String, Origin)>, SettingError> {
    let set = |variable: &str| env(variable).filter(|value| !value.is_empty());
    let value = set(setting.env).map(|value| (value, Origin::Env));
    let Some(variable) = setting.file_env() else { return Ok(value) };
    let Some(path) = set(&variable) else { return Ok(value) };
    let wrong = |problem: String| SettingError::Wrong {
        name: setting.name,
        origin: Origin::Env.to_string(),
        problem,
    };
    if value.is_some() {
        return Err(wrong(format!("both {} and {variable} are set: remove one", setting.env)));
    }
    match std::fs::read_to_string(&path) {
        Ok(text) if text.trim().is_empty() => {
            Err(wrong(format!("{variable} names the file {path}, which is empty")))
        }
        // Editors end a file with a line break, which is no part of the value.
        Ok(text) => Ok(Some((text.trim().to_owned(), Origin::File(path)))),
        Err(error) => Err(wrong(format!("{variable} names the file {path}, which cannot be read: {error}"))),
    }
}

fn read_file(path: &Path) -> Result<String, SettingError> {
    std::fs::read_to_string(path)
        .map_err(|error| SettingError::File { path: path.display().to_string(), problem: error.to_string() })
}

fn parse_file(shown: &str, text: &str) -> Result<BTreeMap<String, (String, Origin)>, SettingError> {
    let error = |problem: String| SettingError::File { path: shown.to_owned(), problem };
    // The library's full text would repeat the line, with any password in it.
    let line = |e: &toml::de::Error| text[..e.span().map_or(0, |span| span.start)].lines().count().max(1);
    let wrong = |e: toml::de::Error| error(format!("line {}: {}", line(&e), e.message()));
    let table: toml::Table = text.parse().map_err(wrong)?;
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
mod tests;

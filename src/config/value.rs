//! Values of settings: names, times, numbers, and what to write instead of a wrong one.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::settings::{Raw, SettingError};

/// The longest prefix: a name made of it and Overdue's longest name must stay below AMQP's 255 bytes, and readable.
const LONGEST_PREFIX: usize = 64;

pub(super) fn prefix(value: &str) -> Result<String, String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if value.len() <= LONGEST_PREFIX && value.chars().all(fine) && !value.starts_with("amq.") {
        return Ok(value.to_owned());
    }
    Err(format!(
        "`{value}` cannot be used: at most {LONGEST_PREFIX} of A-Z a-z 0-9 . _ -, not beginning with `amq.`"
    ))
}

/// A shop's name, which becomes part of a URI.
pub(super) fn shop(value: &str) -> Result<String, String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if value.len() <= LONGEST_PREFIX && value.chars().all(fine) {
        return Ok(value.to_owned());
    }
    Err(format!("`{value}` cannot be used: at most {LONGEST_PREFIX} of A-Z a-z 0-9 . _ -"))
}

/// The longest time that a setting accepts. Times up to it can be added up and subtracted from a date in the database; no
/// setting needs more.
const LONGEST_TIME: Duration = Duration::from_secs(1_000 * 366 * 86_400);

pub(super) fn duration(value: &str) -> Result<Duration, String> {
    match humantime::parse_duration(value) {
        Ok(long) if long > LONGEST_TIME => Err(format!("`{value}` is longer than a thousand years")),
        Ok(duration) => Ok(duration),
        Err(_) => {
            Err(format!("`{value}` is not a time: write a number and a unit, such as 250ms, 30s or 15m"))
        }
    }
}

pub(super) fn coalesce(value: &str) -> Result<Duration, String> {
    match duration(value)? {
        long if long > Duration::from_secs(1) => {
            Err(format!("`{value}` is longer than 1s, and pods hold an order for that long"))
        }
        short => Ok(short),
    }
}

pub(super) fn positive(raw: &Raw, name: &'static str) -> Result<Duration, SettingError> {
    raw.parse(name, |value| match duration(value)? {
        Duration::ZERO => Err("must be longer than zero".to_owned()),
        duration => Ok(duration),
    })
}

pub(super) fn whole<T>(raw: &Raw, name: &'static str, least: T, most: T) -> Result<T, SettingError>
where
    T: FromStr + PartialOrd + fmt::Display,
{
    raw.parse(name, |value| match value.parse() {
        Ok(number) if number >= least && number <= most => Ok(number),
        _ => Err(format!("`{value}` is not a whole number from {least} to {most}")),
    })
}

/// Whether connections to the database go through a pooler, such as PgBouncer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooler {
    /// A pooler that refuses or drops start-up parameters is recognized by that.
    Auto,
    /// One is there, and passes start-up parameters on.
    Always,
}

pub(super) fn pooler(value: &str) -> Result<Pooler, String> {
    match value {
        "auto" => Ok(Pooler::Auto),
        "always" => Ok(Pooler::Always),
        _ => Err(format!("`{value}` is neither `auto` nor `always`")),
    }
}

pub(super) fn truth(value: &str) -> Result<bool, String> {
    value.parse().map_err(|_| format!("`{value}` is neither `true` nor `false`"))
}

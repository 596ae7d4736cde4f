//! A pod's log, read by its stable keys (docs/logging.md) and never by its prose.

use std::path::Path;

use serde_json::Value;

/// A line of the log.
#[derive(Clone, Debug)]
pub struct Line(Value);

impl Line {
    /// Whether it reports this event.
    #[must_use]
    pub fn is(&self, event: &str) -> bool {
        self.text("event") == Some(event)
    }

    /// When it was written, in RFC 3339.
    #[must_use]
    pub fn at(&self) -> Option<&str> {
        self.text("timestamp")
    }

    /// A value that is a text.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        self.0[key].as_str()
    }

    /// A value that is a number.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<u64> {
        self.0[key].as_u64()
    }
}

/// The lines of a log. What is not JSON, such as a panic of a thread before the log begins, is none.
#[must_use]
pub fn read(log: &Path) -> Vec<Line> {
    let text = std::fs::read(log).unwrap_or_default();
    String::from_utf8_lossy(&text)
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok().map(Line))
        .collect()
}

//! Findings: one thing that was looked at, and the outcome.

use serde::Serialize;

/// The outcome of looking at one thing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// It is as Overdue needs it.
    Fine,
    /// It is not as Overdue needs it.
    Differs {
        /// What is different.
        problem: String,
        /// What to do about it.
        remedy: String,
    },
    /// It could not be seen. That is never the same as fine.
    CannotTell {
        /// What hid it.
        why: String,
        /// How to see it.
        remedy: String,
    },
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// The exchange, queue, table or setting.
    pub place: String,
    /// Which part of it.
    pub what: String,
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl Finding {
    #[must_use]
    pub fn new(place: &str, what: &str, outcome: Outcome) -> Self {
        Self { place: place.to_owned(), what: what.to_owned(), outcome }
    }

    #[must_use]
    pub fn fine(place: &str, what: &str) -> Self {
        Self::new(place, what, Outcome::Fine)
    }

    #[must_use]
    pub fn differs(place: &str, what: &str, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(place, what, Outcome::differs(problem, remedy))
    }

    #[must_use]
    pub fn cannot_tell(place: &str, what: &str, why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(place, what, Outcome::cannot_tell(why, remedy))
    }

    #[must_use]
    pub fn is_different(&self) -> bool {
        matches!(self.outcome, Outcome::Differs { .. })
    }

    /// Whether it could not be seen.
    #[must_use]
    pub fn is_hidden(&self) -> bool {
        matches!(self.outcome, Outcome::CannotTell { .. })
    }
}

impl Outcome {
    #[must_use]
    pub fn differs(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Differs { problem: problem.into(), remedy: remedy.into() }
    }

    #[must_use]
    pub fn cannot_tell(why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::CannotTell { why: why.into(), remedy: remedy.into() }
    }
}

/// Findings about one part of one place: one for each problem, or one that it is fine.
#[must_use]
pub fn about(place: &str, what: &str, troubles: Vec<Outcome>) -> Vec<Finding> {
    if troubles.is_empty() {
        return vec![Finding::fine(place, what)];
    }
    troubles.into_iter().map(|trouble| Finding::new(place, what, trouble)).collect()
}

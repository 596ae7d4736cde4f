//! One thing that was looked at, and what came of it.

use serde::Serialize;

/// The outcome of looking at one thing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// It is as Overdue needs it.
    Fine,
    /// It is not.
    Differs {
        /// What is different.
        problem: String,
        /// What to do about it.
        remedy: String,
    },
    /// Nobody could see it. That is never the same as fine.
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
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl Finding {
    /// A finding about this part of this place.
    #[must_use]
    pub fn new(place: &str, what: &str, outcome: Outcome) -> Self {
        Self { place: place.to_owned(), what: what.to_owned(), outcome }
    }

    /// It is as Overdue needs it.
    #[must_use]
    pub fn fine(place: &str, what: &str) -> Self {
        Self::new(place, what, Outcome::Fine)
    }

    /// It is not.
    #[must_use]
    pub fn differs(place: &str, what: &str, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(place, what, Outcome::differs(problem, remedy))
    }

    /// Nobody could see it.
    #[must_use]
    pub fn cannot_tell(place: &str, what: &str, why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(place, what, Outcome::cannot_tell(why, remedy))
    }

    /// Whether it differs.
    #[must_use]
    pub fn is_different(&self) -> bool {
        matches!(self.outcome, Outcome::Differs { .. })
    }

    /// Whether nobody could see it.
    #[must_use]
    pub fn is_hidden(&self) -> bool {
        matches!(self.outcome, Outcome::CannotTell { .. })
    }
}

impl Outcome {
    /// It is not as Overdue needs it.
    #[must_use]
    pub fn differs(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Differs { problem: problem.into(), remedy: remedy.into() }
    }

    /// Nobody could see it.
    #[must_use]
    pub fn cannot_tell(why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::CannotTell { why: why.into(), remedy: remedy.into() }
    }
}

/// Findings about one part of one place. No trouble means that it is fine.
#[must_use]
pub fn about(place: &str, what: &str, troubles: Vec<Outcome>) -> Vec<Finding> {
    if troubles.is_empty() {
        return vec![Finding::fine(place, what)];
    }
    troubles.into_iter().map(|trouble| Finding::new(place, what, trouble)).collect()
}

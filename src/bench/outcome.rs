//! The result of a workload: figures with their units, and two curves.

use std::fmt;

use indicatif::HumanFloatCount;
use serde::Serialize;

/// The figure of orders that the sweep closed although nothing was amiss: a sweep must not hide that wakes are lost.
pub(super) const MISSED: &str = "missed by every wake";

/// The result of one run of a workload, or the medians of several runs.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The workload, with its sizes.
    pub workload: String,
    /// The most important first.
    pub figures: Vec<Figure>,
    /// How late orders were closed.
    pub lateness: Vec<Bin>,
    /// How fast orders were closed over time.
    pub pace: Vec<Slice>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    pub name: &'static str,
    pub value: f64,
    /// Empty for a ratio.
    pub unit: &'static str,
    /// The figure's goal, where the standard set has one.
    pub goal: Option<Goal>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

/// A part of the range of lateness, and how many orders were closed that late.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Bin {
    pub from_ms: f64,
    pub to_ms: f64,
    pub orders: i64,
}

/// A part of the run.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Slice {
    /// Seconds after the first close.
    pub at_s: f64,
    pub closed_per_second: f64,
}

impl Figure {
    /// The value with no more digits than are meaningful.
    #[must_use]
    pub fn shown(&self) -> String {
        shown(self.value)
    }
}

fn shown(value: f64) -> String {
    if value.is_nan() {
        return "unknown".to_owned();
    }
    let digits = if value.fract() == 0.0 || value.abs() >= 100.0 {
        0
    } else if value.abs() >= 10.0 {
        1
    } else {
        2
    };
    if value.abs() < 1_000.0 {
        format!("{value:.digits$}")
    } else {
        HumanFloatCount(value.round()).to_string()
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, "≥ {}", shown(*least)),
            Self::AtMost(most) => write!(f, "≤ {}", shown(*most)),
        }
    }
}

impl Goal {
    /// Whether the value reaches it.
    #[must_use]
    pub fn reached(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
        }
    }
}

impl Outcome {
    /// An outcome without curves.
    pub(super) fn new(workload: String, figures: Vec<(&'static str, f64, &'static str)>) -> Self {
        let figure = |(name, value, unit)| Figure { name, value, unit, goal: None };
        let figures = figures.into_iter().map(figure).collect();
        Self { workload, figures, lateness: Vec::new(), pace: Vec::new() }
    }

    /// Sets these goals on the figures that they name, and clears the goal of every other figure.
    #[must_use]
    pub fn held_against(mut self, goals: &[(&str, Goal)]) -> Self {
        for figure in &mut self.figures {
            figure.goal = goals.iter().find(|(name, _)| *name == figure.name).map(|(_, goal)| *goal);
        }
        self
    }

    /// Whether every goal was reached.
    #[must_use]
    pub fn reached(&self) -> bool {
        self.figures.iter().all(|figure| figure.goal.is_none_or(|goal| goal.reached(figure.value)))
    }

    /// The median of each figure over several runs of one workload, and the curves of the run whose first figure is the
    /// median; `None` without runs.
    #[must_use]
    pub fn median(mut runs: Vec<Self>) -> Option<Self> {
        let first = |run: &Self| run.figures.first().map_or(f64::NAN, |figure| figure.value);
        runs.sort_by(|a, b| first(a).total_cmp(&first(b)));
        let middle = runs.len() / 2;
        let mut outcome = runs.get(middle)?.clone();
        for (n, figure) in outcome.figures.iter_mut().enumerate() {
            let mut values: Vec<_> = runs.iter().filter_map(|run| Some(run.figures.get(n)?.value)).collect();
            values.sort_by(f64::total_cmp);
            figure.value = values.get(values.len() / 2).copied().unwrap_or(f64::NAN);
        }
        Some(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(a: f64, b: f64) -> Outcome {
        let pace = vec![Slice { at_s: 0.0, closed_per_second: a }];
        Outcome { pace, ..Outcome::new("burst".to_owned(), vec![("a", a, "/s"), ("b", b, "")]) }
    }

    #[test]
    fn the_median_is_each_figures_own_and_the_curve_is_the_middle_runs() {
        let median = Outcome::median(vec![run(3.0, 7.0), run(1.0, 9.0), run(2.0, 8.5)]).expect("three runs");
        let values: Vec<_> = median.figures.iter().map(|figure| figure.value).collect();
        assert_eq!(values, [2.0, 8.5]);
        assert!((median.pace[0].closed_per_second - 2.0).abs() < f64::EPSILON);
        assert!(Outcome::median(Vec::new()).is_none());
    }

    #[test]
    fn a_value_shows_the_digits_that_mean_something() {
        let values = [0.0, 0.834, 3.216, 21.47, 930.4, 21_512.6, 1_000_000.0, -1_234.0, f64::NAN];
        let texts = ["0", "0.83", "3.22", "21.5", "930", "21,513", "1,000,000", "-1,234", "unknown"];
        assert_eq!(values.map(shown), texts);
    }

    #[test]
    fn a_goal_is_missed_by_the_figure_that_it_names_only() {
        let goals = [("b", Goal::AtLeast(0.8))];
        assert!(run(1.0, 0.8).held_against(&goals).reached());
        assert!(!run(1.0, 0.7).held_against(&goals).reached());
        assert!(!run(2.0, 9.0).held_against(&[("a", Goal::AtMost(1.5))]).reached());
        assert!(!run(1.0, f64::NAN).held_against(&goals).reached());
    }
}

//! What both builds do, which figures are compared, and what they are held against.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::burst::{self, Burst};
use super::{CPU, items};
use crate::servers::Servers;
use overdue_testkit::deployment::Deployment;
use overdue_testkit::process::run;

/// How long one run may take.
const PATIENCE: Duration = Duration::from_mins(10);

/// What is done.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// `overdue bench` with these arguments.
    Bench(&'static [&'static str]),
    /// See [`burst`].
    Burst(Burst),
    /// See [`items`].
    Items,
}

/// A workload.
#[derive(Debug)]
pub struct Workload {
    /// How it is asked for.
    pub name: &'static str,
    kind: Kind,
    /// What of it is compared.
    pub goals: &'static [(&'static str, Goal)],
}

/// What the ratio of this build's figure to the other's must be.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// For rates.
    AtLeast(f64),
    /// For times.
    AtMost(f64),
}

/// Of every burst.
const OF_BURSTS: &[(&str, Goal)] =
    &[(burst::CLOSED, Goal::AtLeast(0.95)), (burst::P99, Goal::AtMost(1.3)), (CPU, Goal::AtMost(1.05))];

/// All workloads.
pub const WORKLOADS: &[Workload] = &[
    Workload { name: "burst", kind: Kind::Burst(Burst { pods: 1, waiting: 0 }), goals: OF_BURSTS },
    Workload {
        name: "steady",
        kind: Kind::Bench(&["steady", "--seconds", "20", "--first-ms", "2000", "--last-ms", "8000"]),
        goals: &[
            ("closed", Goal::AtLeast(0.95)),
            ("lateness p50", Goal::AtMost(1.3)),
            ("lateness p99", Goal::AtMost(1.3)),
            ("pod's CPU per 1,000 orders closed", Goal::AtMost(1.05)),
            (CPU, Goal::AtMost(1.05)),
        ],
    },
    Workload {
        name: "place",
        kind: Kind::Bench(&["place", "--orders", "10000"]),
        goals: &[
            ("placing an order p50", Goal::AtMost(1.05)),
            ("placing an order p99", Goal::AtMost(1.3)),
            (CPU, Goal::AtMost(1.05)),
        ],
    },
    Workload { name: "pods", kind: Kind::Burst(Burst { pods: 2, waiting: 0 }), goals: OF_BURSTS },
    Workload { name: "depth", kind: Kind::Burst(Burst { pods: 1, waiting: 500_000 }), goals: OF_BURSTS },
    Workload {
        name: "paying",
        kind: Kind::Bench(&["pay-during-burst"]),
        goals: &[
            ("payment p99 beside the burst", Goal::AtMost(1.3)),
            ("closed per second meanwhile", Goal::AtLeast(0.95)),
        ],
    },
    Workload { name: "items", kind: Kind::Items, goals: &[(items::TOOK, Goal::AtMost(1.8))] },
];

/// What a run showed.
#[derive(Debug, Default)]
pub struct Figures(HashMap<String, f64>);

impl Figures {
    /// A figure; no number when the run did not show it.
    pub fn of(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or(f64::NAN)
    }
}

impl Workload {
    /// One run by one build.
    pub async fn run(&self, servers: &Servers, build: &Deployment) -> Result<Figures> {
        let arguments = match self.kind {
            Kind::Burst(burst) => return Ok(Figures(burst::close(servers, build, burst).await?)),
            Kind::Items => {
                return Ok(Figures([(items::TOOK.to_owned(), items::insert(build).await?)].into()));
            }
            Kind::Bench(arguments) => arguments,
        };
        let before = servers.processor_seconds().await?;
        let mut command = build.command(&["--json", "bench"]);
        let printed = run(command.args(arguments), PATIENCE).await?;
        let servers = servers.processor_seconds().await? - before;
        let outcome: Value = serde_json::from_str(&printed).context("what bench printed")?;
        let mut figures = HashMap::new();
        for figure in outcome["figures"].as_array().context("figures")? {
            if let (Some(name), Some(value)) = (figure["name"].as_str(), figure["value"].as_f64()) {
                figures.insert(name.to_owned(), value);
            }
        }
        let of = |name: &str| figures.get(name).copied();
        // Placing has no pod.
        let pod = of("pod's CPU per 1,000 orders closed").zip(of("closed"));
        let pod = pod.map_or(0.0, |(cpu, closed)| cpu * closed / 1e6);
        figures.insert(CPU.to_owned(), servers + pod);
        Ok(Figures(figures))
    }
}

impl Goal {
    /// Whether the ratio reaches it; what is no number does not.
    pub fn reached(self, ratio: f64) -> bool {
        match self {
            Self::AtLeast(least) => ratio >= least,
            Self::AtMost(most) => ratio <= most,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, "≥ {least}"),
            Self::AtMost(most) => write!(f, "≤ {most}"),
        }
    }
}

//! The workloads by which every release is measured, and their goals.

use std::path::Path;

use super::outcome::Goal::{self, AtLeast, AtMost};
use super::outcome::MISSED;
use super::steady::CLOSING_CPU;
use super::{
    BenchError, Burst, Outcome, Paying, Pods, Steady, backlog, burst, depth, paying, place, pods, snapshot,
    steady, sweep,
};
use crate::config::settings::Raw;

/// A workload with its sizes.
#[derive(Clone, Copy, Debug)]
pub enum Workload {
    /// All orders due at once.
    Burst(Burst),
    /// A burst with strictly one message per order.
    StrictBurst(Burst),
    /// The same burst with more and more pods.
    Pods(Pods),
    Steady(Steady),
    /// A stream beside this many waiting orders.
    Depth(i64, Steady),
    /// Orders placed one by one.
    Place(i64),
    /// Payments beside a burst.
    Paying(Paying),
    /// This many orders whose wakes are lost.
    Sweep(i64),
    /// This many rows left in the outbox.
    Backlog(i64),
    /// This many dead rows under an open snapshot.
    Snapshot(i64),
}

impl Workload {
    /// Runs the workload once.
    ///
    /// # Errors
    /// When something could not be set up, or orders were not closed in time.
    pub async fn run(
        self,
        raw: &Raw,
        log: Option<&Path>,
        say: impl Fn(String),
    ) -> Result<Outcome, BenchError> {
        match self {
            Self::Burst(orders) => burst(raw, orders, log, say).await,
            Self::StrictBurst(orders) => {
                burst(&raw.clone().replace("max_orders_per_wake", "1"), orders, log, say).await
            }
            Self::Pods(burst) => pods(raw, burst, log, say).await,
            Self::Steady(stream) => steady(raw, stream, log, say).await,
            Self::Depth(waiting, stream) => depth(raw, waiting, stream, log, say).await,
            Self::Place(orders) => place(raw, orders, log, say).await,
            Self::Paying(payments) => paying(raw, payments, log, say).await,
            Self::Sweep(orders) => sweep(raw, orders, log, say).await,
            Self::Backlog(rows) => backlog(raw, rows, log, say).await,
            Self::Snapshot(rows) => snapshot(raw, rows, log, say).await,
        }
    }
}

type Goals = &'static [(&'static str, Goal)];

const CLOSES: Goals = &[
    ("share of the database alone", AtLeast(0.8)),
    ("pod's CPU per 1,000 orders", AtMost(20.0)),
    NONE_MISSED,
];
const CLOSES_STRICTLY: Goals =
    &[("share of the broker alone", AtLeast(0.8)), ("pod's CPU per 1,000 orders", AtMost(20.0)), NONE_MISSED];
const NONE_MISSED: (&str, Goal) = (MISSED, AtMost(0.0));

const fn stream(rate: u32, seconds: u32) -> Steady {
    Steady { rate, seconds, first_ms: 5_000, last_ms: 35_000, paid_percent: 20 }
}

/// The standard set, with its goals.
#[must_use]
pub fn standard() -> Vec<(Workload, Goals)> {
    let burst = Burst { orders: 100_000, old: 0 };
    vec![
        (Workload::Burst(burst), CLOSES),
        (Workload::StrictBurst(burst), CLOSES_STRICTLY),
        (
            Workload::Pods(Pods { orders: 300_000, most: 4 }),
            // As fast as one pod, within the variation between runs.
            &[
                ("all pods' share of one pod", AtLeast(0.9)),
                ("half of the pods' share of one pod", AtLeast(0.9)),
            ],
        ),
        (
            Workload::Steady(stream(200, 60)),
            &[
                ("lateness p50", AtMost(3.0)),
                ("lateness p99", AtMost(10.0)),
                ("paid orders closed", AtMost(0.0)),
                NONE_MISSED,
                (CLOSING_CPU, AtMost(1.2)),
                ("pod's CPU per 1,000 orders closed", AtMost(20.0)),
            ],
        ),
        (
            Workload::Steady(stream(1_000, 60)),
            &[
                ("lateness p50", AtMost(5.0)),
                ("lateness p99", AtMost(25.0)),
                ("paid orders closed", AtMost(0.0)),
                NONE_MISSED,
                ("pod's CPU per 1,000 orders closed", AtMost(20.0)),
            ],
        ),
        (
            Workload::Steady(stream(3_000, 60)),
            &[
                ("lateness p99", AtMost(100.0)),
                ("paid orders closed", AtMost(0.0)),
                NONE_MISSED,
                ("pod's CPU per 1,000 orders closed", AtMost(20.0)),
            ],
        ),
        (
            Workload::Depth(1_000_000, stream(1_000, 60)),
            &[
                ("lateness p50", AtMost(7.5)),
                ("lateness p99", AtMost(37.5)),
                ("their ratio", AtMost(1.5)),
                ("broker's memory per waiting order", AtMost(100.0)),
                ("pod's peak memory", AtMost(64.0)),
            ],
        ),
        (Workload::Place(20_000), &[("cost of the trigger, of the median", AtMost(1.33))]),
        (
            Workload::Paying(Paying { orders: 100_000, hot: false }),
            &[
                ("statement p99 beside the burst, of idle", AtMost(2.0)),
                ("statement p99 with close_rate, of idle", AtMost(2.0)),
            ],
        ),
        (
            Workload::Paying(Paying { orders: 100_000, hot: true }),
            &[
                ("statement p99 beside the burst, of idle", AtMost(2.0)),
                ("statement p99 with close_rate, of idle", AtMost(2.0)),
            ],
        ),
        (Workload::Sweep(50_000), &[]),
        (
            Workload::Backlog(10_000_000),
            &[("relayed per second with all left, of a hundredth left", AtLeast(0.5))],
        ),
        (
            Workload::Snapshot(2_000_000),
            &[
                ("of a core, for looking beside dead rows", AtMost(0.05)),
                ("lateness p99 beside dead rows", AtMost(100.0)),
            ],
        ),
    ]
}

/// A small set that shows a large regression on any machine, because its goals are ratios.
#[must_use]
pub fn quick() -> Vec<(Workload, Goals)> {
    vec![
        // Beside old orders, so that a close that scans them misses the goal.
        (
            Workload::Burst(Burst { orders: 20_000, old: 200_000 }),
            &[("share of the database alone", AtLeast(0.3)), NONE_MISSED],
        ),
        (
            Workload::StrictBurst(Burst { orders: 10_000, old: 0 }),
            &[("share of the broker alone", AtLeast(0.3)), NONE_MISSED],
        ),
        (Workload::Place(4_000), &[("cost of the trigger, of the median", AtMost(2.0))]),
    ]
}

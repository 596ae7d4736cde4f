//! What this pod has done since it started: counters, and the lateness of what it closed.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;

/// What is counted, one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Count {
    /// Orders closed.
    Closed,
    /// Of these, orders that the sweep closed: their wake was lost or late.
    Swept,
    /// Orders whose closing failed, each time it did.
    Failed,
    /// Order-created messages taken from services.
    Intake,
    /// Wakes published from the outbox, in orders.
    Woken,
    /// Wakes scheduled again because their moment was still ahead, in orders.
    Rescheduled,
    /// Events published.
    Events,
    /// Messages parked.
    Parked,
    /// Messages that had been delivered before: to a pod that died, lost its connection, or gave them back.
    Redelivered,
    /// Lanes found stuck, each time it began.
    Stuck,
    /// Sessions that broke and were built anew.
    Rebuilt,
}

/// Their names in logs.
const NAMES: [&str; 11] = [
    "closed",
    "swept",
    "failed",
    "intake",
    "woken",
    "rescheduled",
    "events",
    "parked",
    "redelivered",
    "lanes_stuck",
    "sessions_rebuilt",
];

/// Counters and lateness of this process.
#[derive(Debug)]
pub struct Stats {
    counts: [AtomicU64; NAMES.len()],
    /// Microseconds from the deadline to the commit as the pod sees it.
    lateness: Mutex<Histogram<u64>>,
}

/// Lateness of more than this is kept as this: one hour, in microseconds.
const LATEST: u64 = 3_600_000_000;

impl Default for Stats {
    fn default() -> Self {
        // Two significant digits tell 10 ms from 11 ms. The bounds are constants that fit.
        #[expect(clippy::expect_used)]
        let lateness = Histogram::new_with_bounds(1, LATEST, 2).expect("valid bounds");
        Self { counts: std::array::from_fn(|_| AtomicU64::new(0)), lateness: Mutex::new(lateness) }
    }
}

impl Stats {
    /// Counts.
    pub fn add(&self, what: Count, by: usize) {
        self.counts[what as usize].fetch_add(by as u64, Ordering::Relaxed);
    }

    /// How many so far.
    #[must_use]
    pub fn get(&self, what: Count) -> u64 {
        self.counts[what as usize].load(Ordering::Relaxed)
    }

    /// Counts closed orders, each with how late its close was committed.
    pub fn closed(&self, lateness: impl ExactSizeIterator<Item = Duration>) {
        self.add(Count::Closed, lateness.len());
        let mut histogram = self.lateness.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for late in lateness {
            let micros = u64::try_from(late.as_micros()).unwrap_or(LATEST).clamp(1, LATEST);
            histogram.saturating_record(micros);
        }
    }

    /// One line of all counters that are not zero, and the lateness in milliseconds.
    #[must_use]
    pub fn line(&self) -> String {
        let counts = self.counts.iter().zip(NAMES).map(|(count, name)| (name, count.load(Ordering::Relaxed)));
        let mut parts: Vec<_> =
            counts.filter(|(_, count)| *count > 0).map(|(name, count)| format!("{name}={count}")).collect();
        let histogram = self.lateness.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !histogram.is_empty() {
            let ms = |quantile| {
                format!(
                    "{:.1}",
                    std::time::Duration::from_micros(histogram.value_at_quantile(quantile)).as_secs_f64()
                        * 1e3
                )
            };
            parts.push(format!("lateness_ms p50={} p99={} max={}", ms(0.5), ms(0.99), ms(1.0)));
        }
        if parts.is_empty() { "nothing yet".to_owned() } else { parts.join(" ") }
    }
}

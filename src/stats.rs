//! What this pod has done since it started: counters, and the lateness of what it closed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Count {
    /// Orders closed.
    Closed,
    /// Of these, orders that the sweep closed: their wake was lost or late.
    Swept,
    /// Of the swept ones: the broker was away then, or shortly before.
    SweptBrokerAway,
    /// Of the swept ones: no pod took wakes.
    SweptNoConsumer,
    /// Of the swept ones: their wakes probably waited in the process queue, or in a pod that was busy or silent.
    SweptWaiting,
    /// Of the swept ones: all others. A wake was lost, or a lane does not deliver.
    SweptMissed,
    /// Failed attempts to close an order.
    Failed,
    /// Times an order was put off because closing fails for all orders alike.
    Blocked,
    /// Order-created messages taken from services.
    Intake,
    /// Wakes published from the outbox, in orders.
    Woken,
    /// Wakes scheduled again because their moment was still ahead, in orders.
    Rescheduled,
    /// Events published.
    Events,
    /// Times a subscriber's queue refused an event or did not confirm it.
    EventsRefused,
    /// Messages parked.
    Parked,
    /// Messages that had been delivered before: to a pod that died, lost its connection, or gave them back.
    Redelivered,
    /// Lanes that do not deliver now.
    Stuck,
    /// Times a lane became stuck.
    StuckTotal,
    /// Differences between the broker and what Overdue needs, now.
    Troubles,
    /// Times such a difference appeared.
    TroublesTotal,
    /// Sessions that broke and were rebuilt.
    Rebuilt,
    /// Probes of another shop that uses the same vhost and prefix.
    ForeignProbes,
    /// Log lines that could not be written: the disk is full, or the log's reader is gone or does not read.
    LogLinesLost,
}

/// The counters' names in logs (docs/logging.md), in the order of [`Count`].
pub const NAMES: [&str; 22] = [
    "closed",
    "swept",
    "swept_broker_away",
    "swept_no_consumer",
    "swept_waiting",
    "swept_missed",
    "failed",
    "blocked",
    "intake",
    "woken",
    "rescheduled",
    "events",
    "events_refused",
    "parked",
    "redelivered",
    "lanes_stuck",
    "lanes_stuck_total",
    "broker_troubles",
    "broker_troubles_total",
    "sessions_rebuilt",
    "foreign_probes",
    "log_lines_lost",
];

/// How late orders were closed, in milliseconds.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Lateness {
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Summary {
    /// By name; counters that are zero are left out.
    pub counts: BTreeMap<String, u64>,
    /// From the deadline to the commit as the pod sees it; `None` when nothing was closed.
    pub lateness: Option<Lateness>,
}

impl Summary {
    /// Orders that the sweep closed although wakes should have come.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.counts.get(NAMES[Count::SweptMissed as usize]).copied().unwrap_or(0)
    }
}

/// Counters and lateness of this process.
#[derive(Debug)]
pub struct Stats {
    counts: [AtomicU64; NAMES.len()],
    /// Microseconds from the deadline to the commit as the pod sees it.
    lateness: Mutex<Histogram<u64>>,
}

/// Greater lateness is recorded as this: one hour, in microseconds.
const LATEST: u64 = 3_600_000_000;

impl Default for Stats {
    fn default() -> Self {
        // Two significant digits tell 10 ms from 11 ms. The bounds are valid constants.
        #[expect(clippy::expect_used)]
        let lateness = Histogram::new_with_bounds(1, LATEST, 2).expect("valid bounds");
        Self { counts: std::array::from_fn(|_| AtomicU64::new(0)), lateness: Mutex::new(lateness) }
    }
}

impl Stats {
    pub fn add(&self, what: Count, by: usize) {
        self.counts[what as usize].fetch_add(by as u64, Ordering::Relaxed);
    }

    /// Sets a counter of things that come and go, such as stuck lanes, to their number now.
    pub fn set(&self, what: Count, to: usize) {
        self.counts[what as usize].store(to as u64, Ordering::Relaxed);
    }

    /// The total so far, or the number now.
    #[must_use]
    pub fn get(&self, what: Count) -> u64 {
        self.counts[what as usize].load(Ordering::Relaxed)
    }

    /// Counts closed orders, and records how late each close was committed.
    pub fn closed(&self, lateness: impl ExactSizeIterator<Item = Duration>) {
        self.add(Count::Closed, lateness.len());
        let mut histogram = self.lateness.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for late in lateness {
            let micros = u64::try_from(late.as_micros()).unwrap_or(LATEST).clamp(1, LATEST);
            histogram.saturating_record(micros);
        }
    }

    /// Logs the lateness and every counter that is not zero, each as a field of its own for log collectors.
    pub fn log(&self, event: &str, text: &str) {
        let count = |what| Some(self.get(what)).filter(|count| *count > 0);
        let lateness = self.summary().lateness;
        let ms = |of: fn(Lateness) -> f64| lateness.map(|lateness| (of(lateness) * 10.0).round() / 10.0);
        tracing::info!(
            event,
            closed = count(Count::Closed),
            swept = count(Count::Swept),
            swept_broker_away = count(Count::SweptBrokerAway),
            swept_no_consumer = count(Count::SweptNoConsumer),
            swept_waiting = count(Count::SweptWaiting),
            swept_missed = count(Count::SweptMissed),
            failed = count(Count::Failed),
            blocked = count(Count::Blocked),
            intake = count(Count::Intake),
            woken = count(Count::Woken),
            rescheduled = count(Count::Rescheduled),
            events = count(Count::Events),
            events_refused = count(Count::EventsRefused),
            parked = count(Count::Parked),
            redelivered = count(Count::Redelivered),
            lanes_stuck = count(Count::Stuck),
            lanes_stuck_total = count(Count::StuckTotal),
            broker_troubles = count(Count::Troubles),
            broker_troubles_total = count(Count::TroublesTotal),
            sessions_rebuilt = count(Count::Rebuilt),
            foreign_probes = count(Count::ForeignProbes),
            log_lines_lost = count(Count::LogLinesLost),
            lateness_ms_p50 = ms(|lateness| lateness.p50_ms),
            lateness_ms_p99 = ms(|lateness| lateness.p99_ms),
            lateness_ms_max = ms(|lateness| lateness.max_ms),
            "{text}"
        );
    }

    /// All counters that are not zero, and the lateness.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let counts = self.counts.iter().zip(NAMES).map(|(count, name)| (name, count.load(Ordering::Relaxed)));
        let counts = counts.filter(|(_, count)| *count > 0).map(|(name, count)| (name.to_owned(), count));
        let histogram = self.lateness.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let ms = |quantile| Duration::from_micros(histogram.value_at_quantile(quantile)).as_secs_f64() * 1e3;
        let lateness = Lateness { p50_ms: ms(0.5), p99_ms: ms(0.99), max_ms: ms(1.0) };
        Summary { counts: counts.collect(), lateness: (!histogram.is_empty()).then_some(lateness) }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<_> = self.counts.iter().map(|(name, count)| format!("{name}={count}")).collect();
        if let Some(Lateness { p50_ms, p99_ms, max_ms }) = self.lateness {
            parts.push(format!("lateness_ms p50={p50_ms:.1} p99={p99_ms:.1} max={max_ms:.1}"));
        }
        f.write_str(&if parts.is_empty() { "nothing yet".to_owned() } else { parts.join(" ") })
    }
}
/// Logs the counters every ten seconds in which one of them has changed.
pub async fn report(stats: Arc<Stats>) {
    let mut last = stats.summary().to_string();
    loop {
        sleep(Duration::from_secs(10)).await;
        let line = stats.summary().to_string();
        if line != last {
            stats.log("counts", "so far");
            last = line;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("no panic").write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_counter_is_a_field_of_the_log() {
        let (stats, lines) = (Stats::default(), Lines::default());
        for count in &stats.counts {
            count.store(7, Ordering::Relaxed);
        }
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || stats.log("counts", "so far"));
        let line: serde_json::Value =
            serde_json::from_slice(&lines.0.lock().expect("no panic")).expect("a line");
        for name in NAMES {
            assert_eq!(line["fields"][name], 7, "{name}");
        }
    }
}

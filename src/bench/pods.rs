//! The same burst with more and more pods: they share products and processors, and must not slow each other down.

use std::path::Path;

use super::BenchError;
use super::burst;
use super::outcome::Outcome;
use super::sandbox::Sandbox;
use crate::config::settings::Raw;

/// A burst that is closed by one pod, by half of the most, and by the most.
#[derive(Clone, Copy, Debug)]
pub struct Pods {
    /// Orders that are due at once, in each run.
    pub orders: i64,
    /// The largest number of pods.
    pub most: usize,
}

/// Measures the burst with each number of pods.
///
/// # Errors
/// When something could not be set up, or the orders were not closed in time.
pub async fn pods(
    raw: &Raw,
    Pods { orders, most }: Pods,
    log: Option<&Path>,
    say: impl Fn(String),
) -> Result<Outcome, BenchError> {
    Sandbox::with(raw, log, async |sandbox| {
        let mut runs = Vec::new();
        for pods in [1, most.div_ceil(2), most] {
            let say = |what| say(format!("{pods} pods: {what}"));
            runs.push(burst::measure(sandbox, orders, pods, &say).await?);
            sandbox.empty().await?;
        }
        let [one, some, all] = [0, 1, 2].map(|n: usize| &runs[n]);
        let figures = vec![
            ("all pods' share of one pod", all.closed_per_second / one.closed_per_second, ""),
            ("half of the pods' share of one pod", some.closed_per_second / one.closed_per_second, ""),
            ("closed per second by one pod", one.closed_per_second, "/s"),
            ("closed per second by half of the pods", some.closed_per_second, "/s"),
            ("closed per second by all pods", all.closed_per_second, "/s"),
            ("all events published within", all.events_seconds, "s"),
            ("CPU of all pods per 1,000 orders", all.cpu_ms_per_thousand, "ms"),
            ("CPU of one pod per 1,000 orders", one.cpu_ms_per_thousand, "ms"),
            ("largest pod's peak memory", all.peak_memory_mib, "MiB"),
        ];
        Ok(Outcome::new(format!("burst of {orders} orders, {most} pods"), figures))
    })
    .await
}

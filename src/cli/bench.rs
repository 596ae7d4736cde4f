//! `overdue bench …`: measures on the configured broker and database.

use std::path::PathBuf;

use super::output::{spinner, table};
use super::{CliError, Context};
use crate::bench::{self, Steady};

#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// All orders due at one moment: how fast they are closed
    Burst {
        /// How many, two items each
        #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(i64).range(1..=10_000_000))]
        orders: i64,
        #[command(flatten)]
        log: Log,
    },
    /// All orders overdue at one moment, and every wake lost: how fast the sweep closes them
    Sweep {
        /// How many, two items each
        #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(i64).range(1..=10_000_000))]
        orders: i64,
        #[command(flatten)]
        log: Log,
    },
    /// A steady stream with mixed windows: how punctually they are closed
    Steady {
        /// Orders per second
        #[arg(long, default_value_t = 200)]
        rate: u32,
        /// For how long orders are placed
        #[arg(long, default_value_t = 60)]
        seconds: u32,
        /// Shortest window in milliseconds
        #[arg(long, default_value_t = 5_000)]
        first_ms: u32,
        /// Longest window in milliseconds
        #[arg(long, default_value_t = 35_000)]
        last_ms: u32,
        /// Share that is paid halfway, in percent
        #[arg(long, default_value_t = 20)]
        paid_percent: u32,
        #[command(flatten)]
        log: Log,
    },
}

#[derive(clap::Args, Debug)]
pub struct Log {
    /// Where the pod's log goes
    #[arg(long, value_name = "FILE")]
    pod_log: Option<PathBuf>,
}

pub async fn run(context: &Context, command: Command) -> Result<(), CliError> {
    let bar = spinner(context.out);
    let say = |what| bar.set_message(what);
    match command {
        Command::Burst { orders, log } => {
            let result = bench::burst(&context.raw, orders, log.pod_log.as_deref(), say).await?;
            bar.finish_and_clear();
            let rows = [
                ("orders due at once", format!("{}", result.orders)),
                ("closed in", format!("{:.2} s", result.seconds)),
                ("closed per second", format!("{:.0}", result.closed_per_second)),
                ("all events published after", format!("{:.2} s", result.events_seconds)),
                ("pod's peak memory", format!("{:.1} MiB", result.pod.peak_memory_mib)),
                (
                    "pod's CPU per 1,000 orders",
                    format!("{:.1} ms", result.pod.cpu_seconds * 1e6 / result.orders as f64),
                ),
            ];
            context.out.show(|| text(&rows), &result);
        }
        Command::Sweep { orders, log } => {
            let result = bench::sweep(&context.raw, orders, log.pod_log.as_deref(), say).await?;
            bar.finish_and_clear();
            let beside = result.beside;
            let rows = [
                ("orders without a wake", format!("{}", result.orders)),
                ("swept in", format!("{:.2} s", result.seconds)),
                ("swept per second", format!("{:.0}", result.swept_per_second)),
                ("closed per second by wakes", format!("{:.0}", result.burst_per_second)),
                ("ratio", format!("{:.2}", result.swept_per_second / result.burst_per_second)),
                (
                    "lateness of wakes beside it",
                    format!(
                        "p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
                        beside.p50_ms, beside.p99_ms, beside.max_ms
                    ),
                ),
                ("pod's peak memory", format!("{:.1} MiB", result.pod.peak_memory_mib)),
            ];
            context.out.show(|| text(&rows), &result);
        }
        Command::Steady { rate, seconds, first_ms, last_ms, paid_percent, log } => {
            let stream = Steady { rate, seconds, first_ms, last_ms, paid_percent };
            let result = bench::steady(&context.raw, stream, log.pod_log.as_deref(), say).await?;
            bar.finish_and_clear();
            let rows = [
                ("orders per second", rate.to_string()),
                (
                    "placed / paid / closed",
                    format!("{} / {} / {}", result.placed, result.paid, result.closed),
                ),
                ("lateness p50", format!("{:.1} ms", result.lateness.p50_ms)),
                ("lateness p99", format!("{:.1} ms", result.lateness.p99_ms)),
                ("lateness max", format!("{:.1} ms", result.lateness.max_ms)),
                ("pod's peak memory", format!("{:.1} MiB", result.pod.peak_memory_mib)),
                (
                    "pod's CPU per 1,000 orders",
                    format!("{:.1} ms", result.pod.cpu_seconds * 1e6 / result.placed as f64),
                ),
            ];
            context.out.show(|| text(&rows), &result);
        }
    }
    Ok(())
}

fn text(rows: &[(&str, String)]) -> String {
    let rows: Vec<_> = rows.iter().map(|(name, value)| vec![(*name).to_owned(), value.clone()]).collect();
    table(&["", ""], &rows).trim_start().to_owned()
}

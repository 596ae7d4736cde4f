//! `overdue bench …`: measures on the configured broker and database.

use std::path::{Path, PathBuf};

use super::output::{spinner, table};
use super::{CliError, Context};
use crate::bench::{self, Burst, Outcome, Paying, Pods, Steady, Workload};
use crate::config::Config;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Where the pods' log goes
    #[arg(long, value_name = "FILE", global = true)]
    pod_log: Option<PathBuf>,
    /// Write an HTML page with all figures and plots
    #[arg(long, value_name = "FILE", global = true)]
    report: Option<PathBuf>,
    /// How often each workload runs; the medians are shown
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=99), global = true)]
    runs: u16,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Clone, Copy, Debug)]
pub enum Command {
    /// All orders due at one moment: how fast they are closed, and how fast database and broker alone would be
    Burst {
        /// Number of orders, two items each
        #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(i64).range(1..=10_000_000))]
        orders: i64,
        /// Orders of past years in the same table
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..=200_000_000))]
        old: i64,
    },
    /// The same burst with one pod, half of the pods, all of them: whether more pods close as fast
    Pods {
        /// Number of orders, two items each
        #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(i64).range(1..=10_000_000))]
        orders: i64,
        /// Most pods to measure
        #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(2..=16))]
        pods: u8,
    },
    /// A steady stream with mixed windows: how punctually they are closed
    Steady(Stream),
    /// A steady stream beside many orders that are due much later: what these cost
    Depth {
        /// Number of waiting orders
        #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(i64).range(1..=100_000_000))]
        waiting: i64,
        #[command(flatten)]
        stream: Stream,
    },
    /// Orders placed one by one: what the trigger adds
    Place {
        /// Orders with the trigger, and as many without
        #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(i64).range(20..=10_000_000))]
        orders: i64,
    },
    /// Buyers who pay while many other orders are closed, as fast as possible and at close_rate (10000 unless set): how long they wait
    PayDuringBurst {
        /// Orders that are closed meanwhile
        #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(i64).range(1..=10_000_000))]
        orders: i64,
        /// All of these orders hold the same two products
        #[arg(long)]
        hot: bool,
    },
    /// All orders overdue at one moment, and every wake lost: how fast the sweep closes them
    Sweep {
        /// Number of orders, two items each
        #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(i64).range(1..=10_000_000))]
        orders: i64,
    },
    /// Many rows left in the outbox, as after a long outage of the broker: whether the relay drains them as fast as a few
    Backlog {
        /// Number of rows, half wakes and half events
        #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(i64).range(1_000..=100_000_000))]
        rows: i64,
    },
    /// Deleted rows that an open snapshot keeps: what reading past them costs
    Snapshot {
        /// Rows in the outbox, and half as many in the index of waiting orders
        #[arg(long, default_value_t = 2_000_000, value_parser = clap::value_parser!(i64).range(1_000..=100_000_000))]
        rows: i64,
    },
    /// The standard set, with its goals
    Standard,
    /// A small set that fails when ratios show that something has become much slower
    Quick,
}

#[derive(clap::Args, Clone, Copy, Debug)]
pub struct Stream {
    /// Orders per second
    #[arg(long, default_value_t = 1_000)]
    rate: u32,
    /// How many seconds orders are placed for
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Shortest window in milliseconds
    #[arg(long, default_value_t = 5_000)]
    first_ms: u32,
    /// Longest window in milliseconds
    #[arg(long, default_value_t = 35_000)]
    last_ms: u32,
    /// Percentage of orders that are paid halfway through their window
    #[arg(long, default_value_t = 20)]
    paid_percent: u32,
}

impl From<Stream> for Steady {
    fn from(stream: Stream) -> Self {
        let Stream { rate, seconds, first_ms, last_ms, paid_percent } = stream;
        Self { rate, seconds, first_ms, last_ms, paid_percent }
    }
}

pub async fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let workloads = match args.command {
        Command::Burst { orders, old } => vec![(Workload::Burst(Burst { orders, old }), NO_GOALS)],
        Command::Pods { orders, pods } => {
            vec![(Workload::Pods(Pods { orders, most: pods.into() }), NO_GOALS)]
        }
        Command::Steady(stream) => vec![(Workload::Steady(stream.into()), NO_GOALS)],
        Command::Depth { waiting, stream } => vec![(Workload::Depth(waiting, stream.into()), NO_GOALS)],
        Command::Place { orders } => vec![(Workload::Place(orders), NO_GOALS)],
        Command::PayDuringBurst { orders, hot } => {
            vec![(Workload::Paying(Paying { orders, hot }), NO_GOALS)]
        }
        Command::Sweep { orders } => vec![(Workload::Sweep(orders), NO_GOALS)],
        Command::Backlog { rows } => vec![(Workload::Backlog(rows), NO_GOALS)],
        Command::Snapshot { rows } => vec![(Workload::Snapshot(rows), NO_GOALS)],
        Command::Standard => bench::standard(),
        Command::Quick => bench::quick(),
    };
    let mut outcomes = Vec::new();
    for (workload, goals) in workloads {
        let bar = spinner(context.out);
        let mut runs = Vec::new();
        for run in 1..=args.runs {
            let say = |what: String| {
                bar.set_message(if args.runs > 1 { format!("run {run}: {what}") } else { what });
            };
            runs.push(workload.run(&context.raw, args.pod_log.as_deref(), say).await?);
        }
        bar.finish_and_clear();
        let Some(outcome) = Outcome::median(runs) else { continue };
        let outcome = outcome.held_against(goals);
        // After each workload: a standard set takes long, and may be interrupted.
        context.out.show(|| text(&outcome), &outcome);
        outcomes.push(outcome);
        if let Some(path) = &args.report {
            write(path, &context.config()?, args.runs, &outcomes).await?;
        }
    }
    let missed = outcomes.iter().filter(|outcome| !outcome.reached()).count();
    match args.command {
        Command::Quick if missed > 0 => Err(CliError::Slow(missed)),
        _ => Ok(()),
    }
}

const NO_GOALS: &[(&str, bench::Goal)] = &[];

async fn write(path: &Path, config: &Config, runs: u16, outcomes: &[Outcome]) -> Result<(), CliError> {
    let medians = if runs > 1 { format!("medians of {runs} runs, ") } else { String::new() };
    let about = format!(
        "Overdue {}, {medians}PostgreSQL at {}, RabbitMQ at {}",
        env!("CARGO_PKG_VERSION"),
        config.database_url,
        config.amqp_nodes[0]
    );
    tokio::fs::write(path, bench::report(&about, outcomes)).await?;
    Ok(())
}

fn text(outcome: &Outcome) -> String {
    let rows = outcome.figures.iter().map(|figure| {
        let goal = figure
            .goal
            .map(|goal| format!("{goal}{}", if goal.reached(figure.value) { "" } else { "  missed" }));
        let unit = if figure.unit.is_empty() { String::new() } else { format!(" {}", figure.unit) };
        vec![figure.name.to_owned(), format!("{}{unit}", figure.shown()), goal.unwrap_or_default()]
    });
    let held = outcome.figures.iter().any(|figure| figure.goal.is_some());
    format!(
        "{}\n",
        table(&[&outcome.workload, "", if held { "goal" } else { "" }], &rows.collect::<Vec<_>>())
    )
}

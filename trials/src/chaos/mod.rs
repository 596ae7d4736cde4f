//! `trials chaos`: rounds of faults drawn from a seed; every promise is checked after each.

pub mod cluster;
mod crime;
mod fault;
mod inject;
mod round;
pub mod selftest;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;

use crate::servers::{Servers, workshop};
use round::{Outcome, Script};

/// What is asked for.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// How many rounds
    #[arg(long, default_value_t = 20)]
    rounds: u64,
    /// The first round's seed; the next round has the next one
    #[arg(long)]
    seed: Option<u64>,
    /// Nodes of the broker: 1, or a cluster of 3
    #[arg(long, default_value_t = 1)]
    nodes: usize,
    /// Print what happened when in each round, not only in one that failed
    #[arg(long)]
    timeline: bool,
    /// Pods reach the database through a PgBouncer in this mode: session or transaction
    #[arg(long, value_parser = ["session", "transaction"])]
    pooler: Option<String>,
    /// First the checker's self-test, in the same servers: does it convict of crimes?
    #[arg(long)]
    selftest: bool,
}

/// Plays the rounds; stops at the first broken promise.
pub async fn run(args: &Args) -> Result<()> {
    let first = args.seed.unwrap_or_else(|| rand::random_range(1..1_000_000));
    let servers = Servers::start(workshop(&format!("chaos-{}", std::process::id()))?, args.nodes).await?;
    if let Some(mode) = &args.pooler {
        servers.pool(mode).await?;
    }
    if args.selftest {
        selftest::all(&servers).await?;
    }
    println!(
        "chaos: RabbitMQ {} ({} nodes), seeds {first} to {}",
        servers.version,
        args.nodes,
        first + args.rounds - 1
    );
    let mut outcomes = Vec::new();
    for seed in first..first + args.rounds {
        let began = std::time::Instant::now();
        match round::play(&servers, Script::draw(seed, args.nodes)).await {
            Ok(outcome) => {
                println!("{}", line(seed, &outcome, began.elapsed()));
                if args.timeline {
                    println!("{}", outcome.timeline);
                }
                outcomes.push(outcome);
            }
            Err(error) => {
                summary(&outcomes);
                let again = format!("make chaos ROUNDS=1 SEED={seed} NODES={}", args.nodes);
                anyhow::bail!("round {seed} broke a promise: {error:#}\nagain: {again}");
            }
        }
    }
    summary(&outcomes);
    println!("every promise was kept in {} rounds", outcomes.len());
    let _ = std::fs::remove_dir_all(&servers.folder);
    Ok(())
}

fn line(seed: u64, outcome: &Outcome, took: Duration) -> String {
    let Outcome { tally, faults, settled, swept, repeated, .. } = outcome;
    let faults: Vec<_> = faults.iter().map(|fault| name(&fault.to_string())).collect();
    format!(
        "{seed:>7}  {:>5} placed {:>4} paid {:>5} closed {swept:>4} swept {repeated:>4} repeated, latest {:>6.0} ms, settled {:>5.1} s, took {:>5.1} s  {}",
        tally.placed,
        tally.paid,
        tally.closed,
        tally.latest_ms,
        settled.as_secs_f64(),
        took.as_secs_f64(),
        faults.join(" "),
    )
}

fn name(fault: &str) -> String {
    fault.split('(').next().unwrap_or_default().to_owned()
}

fn summary(outcomes: &[Outcome]) {
    if outcomes.is_empty() {
        return;
    }
    let sum = |count: fn(&Outcome) -> i64| outcomes.iter().map(count).sum::<i64>();
    let mut settled: Vec<_> = outcomes.iter().map(|outcome| outcome.settled).collect();
    settled.sort_unstable();
    let mut kinds = BTreeMap::<String, usize>::new();
    for fault in outcomes.iter().flat_map(|outcome| &outcome.faults) {
        *kinds.entry(name(&fault.to_string())).or_default() += 1;
    }
    println!(
        "\n{} rounds, {} faults; {} orders placed, {} paid, {} cancelled, {} closed (of these {} by the sweep); {} answers never came",
        outcomes.len(),
        kinds.values().sum::<usize>(),
        sum(|o| o.tally.placed),
        sum(|o| o.tally.paid),
        sum(|o| o.tally.cancelled),
        sum(|o| o.tally.closed),
        outcomes.iter().map(|outcome| outcome.swept).sum::<u64>(),
        outcomes.iter().map(|outcome| outcome.unknown).sum::<usize>(),
    );
    println!(
        "settled after the last fault: median {:.1} s, worst {:.1} s",
        settled[settled.len() / 2].as_secs_f64(),
        settled[settled.len() - 1].as_secs_f64()
    );
    for (kind, count) in kinds {
        println!("{count:>6} × {kind}");
    }
}

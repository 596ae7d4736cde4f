//! `trials cluster`: what a cluster of three brokers is for. One fault at a time, under load; nothing is lost, and orders are
//! closed on time meanwhile: by their wakes, or by the sweep.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::fault::Fault;
use super::round::{self, Script};
use crate::measure::Lateness;
use crate::servers::{Servers, workshop};

/// What is asked for.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// How often each fault strikes
    #[arg(long, default_value_t = 3)]
    times: u64,
}

/// The shop is busy before, during and after the fault.
const LOAD: Duration = Duration::from_secs(25);
/// When it strikes.
const STRIKE: Duration = Duration::from_secs(6);
/// How long a node stays away, or is cut off.
const AWAY: Duration = Duration::from_secs(10);

/// Goals for the lateness of 99 of 100 orders and of the latest, in milliseconds, whatever the fault.
const LATE: [f64; 2] = [1_000.0, 3_000.0];

/// Plays each fault so many times; stops at the first broken promise.
pub async fn run(args: &Args) -> Result<()> {
    let servers = Servers::start(workshop(&format!("cluster-{}", std::process::id()))?, 3).await?;
    println!(
        "cluster: RabbitMQ {}, three nodes, {} orders/s; lateness of closes in ms",
        servers.version,
        round::ORDERS_PER_SECOND
    );
    println!(
        "{:<34} {:>7} {:>7} {:>8} {:>8} {:>8} {:>9}",
        "", "closed", "swept", "p50", "p99", "max", "settled"
    );
    let (mut seed, mut goals_missed) = (0, Vec::new());
    for nth in 0..args.times {
        let node = usize::try_from(nth % 3)?;
        for (what, fault) in [
            ("nothing", None),
            ("a subscriber without majority", Some(Fault::SubscriberLost(node, AWAY))),
            ("a node killed", Some(Fault::BrokerKilled(node, AWAY))),
            ("the busiest lane's leader killed", Some(Fault::LaneLeaderKilled(AWAY))),
            ("a node cut off", Some(Fault::NodeIsolated(node, AWAY))),
            ("rolling restart", Some(Fault::ClusterRestarted)),
        ] {
            seed += 1;
            let script = Script::incident(seed, LOAD, fault.map(|fault| (STRIKE, fault)));
            let outcome = round::play(&servers, script).await?;
            let Lateness { p50, p99, max, .. } = outcome.lateness;
            println!(
                "{what:<34} {:>7} {:>7} {p50:>8.1} {p99:>8.1} {max:>8.1} {:>7.1} s",
                outcome.tally.closed,
                outcome.swept,
                outcome.settled.as_secs_f64(),
            );
            if p99 > LATE[0] || max > LATE[1] {
                goals_missed.push(format!("{what}: {p99:.0} ms, {max:.0} ms"));
            }
            // The sweep hides nothing.
            if fault.is_none() && outcome.missed > 0 {
                goals_missed.push(format!("{what}: {} orders were missed by every wake", outcome.missed));
            }
        }
    }
    println!("every promise was kept");
    ensure!(
        goals_missed.is_empty(),
        "goals missed (p99 {} ms, max {} ms):\n  {}",
        LATE[0],
        LATE[1],
        goals_missed.join("\n  ")
    );
    let _ = std::fs::remove_dir_all(&servers.folder);
    Ok(())
}

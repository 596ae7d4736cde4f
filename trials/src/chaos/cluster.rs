//! `trials cluster`: what a cluster of three brokers is for. One fault at a time, under load; nothing is lost, and how
//! late orders were closed meanwhile is measured.

use std::time::Duration;

use anyhow::Result;

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

/// Plays each fault so many times; stops at the first broken promise.
pub async fn run(args: &Args) -> Result<()> {
    let servers = Servers::start(workshop(&format!("cluster-{}", std::process::id()))?, 3).await?;
    println!(
        "cluster: RabbitMQ {}, three nodes, {} orders/s; lateness of closes in ms",
        servers.version,
        round::ORDERS_PER_SECOND
    );
    println!("{:<34} {:>7} {:>8} {:>8} {:>8} {:>9}", "", "closed", "p50", "p99", "max", "settled");
    let mut seed = 0;
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
                "{what:<34} {:>7} {p50:>8.1} {p99:>8.1} {max:>8.1} {:>7.1} s",
                outcome.tally.closed,
                outcome.settled.as_secs_f64(),
            );
        }
    }
    println!("every promise was kept");
    let _ = std::fs::remove_dir_all(&servers.folder);
    Ok(())
}

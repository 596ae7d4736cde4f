//! Puts Overdue on trial. Everything here is the world around it: servers that fail, a shop that goes on, and a checker.
//! Nothing is shared with the service but its command line and its contracts, plain SQL and plain AMQP.

mod arena;
mod chaos;
mod checker;
mod compare;
mod load;
mod measure;
mod outage;
mod pods;
mod proc;
mod servers;
mod shop;
mod soak;
mod takeover;
mod timeline;
mod upgrade;
mod verdict;

use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

/// Puts Overdue on trial, against PostgreSQL and RabbitMQ instances of its own.
#[derive(clap::Parser, Debug)]
enum Trial {
    /// Faults drawn from a seed, and every promise checked after each round
    Chaos(chaos::Args),
    /// Crimes that a faulty service might commit: does the checker convict?
    CheckerSelftest,
    /// One fault after another in a cluster of three brokers, under load; how late orders were closed meanwhile
    Cluster(chaos::cluster::Args),
    /// Another build and this one do the same work in turns: how much slower or faster this one is
    Compare(compare::Args),
    /// A server is away for minutes, and everything is made good when it is back
    Outage(outage::Args),
    /// Steady load for a long time: nothing grows
    Soak(soak::Args),
    /// How soon others take over from what was lost
    Takeover(takeover::Args),
    /// Pods of the previous build are replaced by this one's under load
    Upgrade(upgrade::Args),
}

#[tokio::main]
async fn main() -> ExitCode {
    let trial = async {
        match Trial::parse() {
            Trial::Chaos(args) => chaos::run(&args).await,
            Trial::CheckerSelftest => chaos::selftest::run().await,
            Trial::Cluster(args) => chaos::cluster::run(&args).await,
            Trial::Compare(args) => compare::run(&args).await,
            Trial::Outage(args) => outage::run(&args).await,
            Trial::Soak(args) => soak::run(&args).await,
            Trial::Takeover(args) => takeover::run(&args).await,
            Trial::Upgrade(args) => upgrade::run(&args).await,
        }
    };
    let interrupted = async {
        // Both handlers exist before anything is started: what is started ends with us.
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        anyhow::bail!("interrupted")
    };
    let outcome = tokio::select! {
        outcome = trial => outcome,
        interrupted = interrupted => interrupted,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("trial failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

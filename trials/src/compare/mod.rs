//! `trials compare`: another build and this one do the same work in turns, on the same servers. Ratios of pairs say what
//! single figures on a machine with neighbours cannot.

mod burst;
mod database;
mod items;
mod workload;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use overdue_testkit::deployment::Deployment;

use crate::measure::{largest, median, print, quantile};
use crate::pods::{binary, differs_from_this};
use crate::servers::{Servers, workshop};
use workload::{Figures, WORKLOADS, Workload};

/// A figure: processor time of PostgreSQL and RabbitMQ with all their processes, and of the workload's pods where it has any.
const CPU: &str = "CPU of pods, PostgreSQL and RabbitMQ, s";

/// What is asked for.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The build to compare with, as a release build, as this one should be (OVERDUE_BINARY)
    #[arg(long)]
    with: PathBuf,
    /// How many pairs
    #[arg(long, default_value_t = 7)]
    pairs: usize,
    /// Only these workloads: burst, steady, place, pods, depth, paying, items
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

/// Compares, prints the median ratios, and fails when one misses its goal.
pub async fn run(args: &Args) -> Result<()> {
    differs_from_this(&args.with)?;
    let known = |name: &String| WORKLOADS.iter().any(|workload| workload.name == name);
    ensure!(args.only.iter().all(known), "there is no such workload: {}", args.only.join(", "));
    let servers = Servers::start(workshop(&format!("compare-{}", std::process::id()))?, 1).await?;
    let this = deployment(&servers).await;
    let builds = [Deployment { binary: args.with.clone(), ..this.clone() }, this];
    println!("compare: pairs of {} and {}", builds[0].binary.display(), builds[1].binary.display());
    let mut missed = 0;
    for workload in WORKLOADS {
        if args.only.is_empty() || args.only.iter().any(|name| name == workload.name) {
            let pairs = pairs(&servers, &builds, workload, args.pairs).await?;
            missed += show(workload, &pairs);
        }
    }
    let _ = std::fs::remove_dir_all(&servers.folder);
    ensure!(missed == 0, "{missed} goals were missed");
    Ok(())
}

async fn deployment(servers: &Servers) -> Deployment {
    Deployment {
        database_url: servers.postgres.lock().await.url("postgres"),
        amqp_urls: vec![servers.rabbit.lock().await.url(0)],
        prefix: String::new(),
        settings: Vec::new(),
        binary: binary(),
    }
}

/// The first build of a pair alternates: what the one leaves behind meets both.
async fn pairs(
    servers: &Servers,
    builds: &[Deployment; 2],
    workload: &Workload,
    pairs: usize,
) -> Result<Vec<[Figures; 2]>> {
    let mut figures = Vec::new();
    for pair in 0..pairs {
        let mut of_pair = [Figures::default(), Figures::default()];
        for build in if pair % 2 == 0 { [0, 1] } else { [1, 0] } {
            of_pair[build] = workload.run(servers, &builds[build]).await?;
        }
        let first = workload.goals.iter().map(|(figure, _)| figure).next().copied().unwrap_or_default();
        let [before, after] = of_pair.each_ref().map(|figures| figures.of(first));
        println!("  {} {}: {first} {before:.2} before, {after:.2} after", workload.name, pair + 1);
        figures.push(of_pair);
    }
    Ok(figures)
}

/// Prints the medians, and returns how many goals were missed.
fn show(workload: &Workload, pairs: &[[Figures; 2]]) -> usize {
    let head = ["", "before", "after", "ratio", "lowest", "highest", "goal"].map(str::to_owned);
    let mut rows = vec![Vec::from(head)];
    let mut missed = 0;
    for (figure, goal) in workload.goals {
        let of = |build: usize| pairs.iter().map(|pair| pair[build].of(figure)).collect::<Vec<_>>();
        let (before, after) = (of(0), of(1));
        let ratios: Vec<_> = before.iter().zip(&after).map(|(before, after)| after / before).collect();
        // A figure that is not there is no reached goal.
        let ratio = if ratios.iter().all(|ratio| ratio.is_finite()) { median(&ratios) } else { f64::NAN };
        let miss = !goal.reached(ratio);
        missed += usize::from(miss);
        rows.push(vec![
            (*figure).to_owned(),
            format!("{:.2}", median(&before)),
            format!("{:.2}", median(&after)),
            format!("{ratio:.3}"),
            format!("{:.3}", quantile(&ratios, 0.0)),
            format!("{:.3}", largest(&ratios)),
            format!("{goal}{}", if miss { "  missed" } else { "" }),
        ]);
    }
    println!("{}, {} pairs", workload.name, pairs.len());
    print(&rows);
    missed
}

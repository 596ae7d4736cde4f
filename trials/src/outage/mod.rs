//! `trials outage`: a server is away for minutes. Buyers notice nothing of the broker's absence, pods wait without growing,
//! and everything is made good soon after the return.

mod buyer;
mod scene;
mod watch;

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::arena::{Arena, Plan, TAP};
use crate::load::Load;
use crate::measure::{Lateness, print};
use crate::servers::{Servers, workshop};
use crate::verdict::conclude;
use watch::Peak;

/// What is asked for.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// How long each outage lasts
    #[arg(long, default_value_t = 3.0)]
    minutes: f64,
    /// Only these kinds
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Kind::Broker, Kind::Database, Kind::Silence])]
    kinds: Vec<Kind>,
}

/// What is away.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The broker, killed and started again
    Broker,
    /// The database, killed and started again
    Database,
    /// Both, for the pods: their lines stay open, and nothing passes
    Silence,
}

/// What was measured in one outage.
#[derive(Debug, Default)]
struct Figures {
    /// Placing and paying, before, during and after; milliseconds of those that were answered.
    buying: [Vec<f64>; 3],
    /// Purchases that failed, before, during and after.
    refused: [usize; 3],
    /// Of what fell due while it was away.
    lateness: Lateness,
    /// Outbox rows and wakes in the process queue, at the end of the outage.
    outbox: i64,
    waiting: Option<u32>,
    /// From the return until nothing that fell due before it was open.
    closed_after: Duration,
    /// From the return until nothing that was recorded before it was in the outbox.
    drained_after: Duration,
    /// What the largest pod took before, and at any time since.
    took: [Peak; 2],
}

/// Two pods, with the service's own settings but for the lanes.
const PODS: usize = 2;
/// A small shop, so that small machines can play, too.
const LOAD: Load = Load { per_second: 40, longest: Duration::from_secs(20), by_message: false };
/// When it is over, what is left settles within this.
const SETTLE: Duration = Duration::from_secs(120);

/// Plays the outages one after the other.
pub async fn run(args: &Args) -> Result<()> {
    let servers = Servers::start(workshop(&format!("outage-{}", std::process::id()))?, 1).await?;
    let lasting = Duration::from_secs_f64(args.minutes * 60.0);
    println!("outage: RabbitMQ {}, each for {lasting:?}", servers.version);
    let mut rows = vec![head()];
    let mut missed = Vec::new();
    for kind in args.kinds.iter().copied() {
        let plan = Plan {
            name: format!("{kind:?}").to_lowercase(),
            pods: PODS,
            roles: "relay,intake,close,sweep",
            lanes: "1s,2s,5s,10s,30s,1m,2m,5m",
            settings: Vec::new(),
        };
        let arena = Arena::new(std::sync::Arc::clone(&servers), &plan).await?;
        // Nobody empties it here.
        arena.till.broker.delete(TAP).await?;
        let figures = match play(&arena, kind, lasting).await {
            Ok(figures) => figures,
            Err(error) => {
                anyhow::bail!(
                    "{kind:?}: {error:#}\n\n{}\nleft to look at: {}",
                    arena.timeline,
                    arena.remains()
                )
            }
        };
        missed.extend(bounds(kind, &figures).into_iter().map(|missed| format!("{kind:?}: {missed}")));
        println!("  {kind:?}: every promise was kept");
        rows.push(row(kind, &figures));
        arena.remove().await?;
    }
    print(&rows);
    ensure!(missed.is_empty(), "out of bounds:\n  {}", missed.join("\n  "));
    let _ = std::fs::remove_dir_all(&servers.folder);
    Ok(())
}

async fn play(arena: &Arena, kind: Kind, lasting: Duration) -> Result<Figures> {
    let figures = LOAD.during(&arena.till, scene::play(arena, kind, lasting)).await?;
    let settled = conclude(arena, SETTLE, &[]).await?;
    arena.timeline.note(format!("settled after {settled:?}"));
    let failed: u64 = arena.pods.iter().map(|pod| pod.count("failed")).sum();
    ensure!(failed == 0, "{failed} attempts were burnt by an outage, which is nobody's fault");
    Ok(figures)
}

/// What is out of bounds; generous ones, for machines that are slow and shared.
fn bounds(kind: Kind, figures: &Figures) -> Vec<String> {
    let mut missed = Vec::new();
    let mut within = |what: &str, value: f64, most: f64, unit: &str| {
        if value > most {
            missed.push(format!("{what}: {value:.1} {unit}, more than {most} {unit}"));
        }
    };
    if kind != Kind::Database {
        within("purchases refused meanwhile", figures.refused[1] as f64, 0.0, "");
        within(
            "99 of 100 purchases meanwhile",
            crate::measure::quantile(&figures.buying[1], 0.99),
            500.0,
            "ms",
        );
    }
    if kind == Kind::Broker {
        within("99 of 100 closes meanwhile", figures.lateness.p99 / 1000.0, 1.0, "s");
        within("the latest close meanwhile", figures.lateness.max / 1000.0, 3.0, "s");
    }
    within("all closed after the return", figures.closed_after.as_secs_f64(), 30.0, "s");
    within("outbox drained after the return", figures.drained_after.as_secs_f64(), 45.0, "s");
    let [before, peak] = figures.took;
    within("memory at its peak", peak.memory, before.memory * 1.5 + 32.0, "MiB");
    within("files and sockets at their peak", peak.descriptors, before.descriptors * 1.5 + 10.0, "");
    // A connection to the broker has one: attempts that are given up must not pile up.
    within("threads at their peak", peak.threads, before.threads + 4.0, "");
    missed
}

fn head() -> Vec<String> {
    let before = "placed and paid in ms, p50/p99/max before";
    [
        "away",
        before,
        "meanwhile",
        "afterwards",
        "lateness meanwhile, s",
        "outbox grew to",
        "wakes waiting",
        "all closed after",
        "outbox drained after",
        "memory, MiB",
        "threads",
    ]
    .map(str::to_owned)
    .into()
}

fn row(kind: Kind, figures: &Figures) -> Vec<String> {
    let quantile = crate::measure::quantile;
    let buying = |phase: usize| {
        let (ms, refused) = (&figures.buying[phase], figures.refused[phase]);
        let refused = if refused > 0 { format!(", {refused} refused") } else { String::new() };
        format!("{:.0}/{:.0}/{:.0}{refused}", quantile(ms, 0.5), quantile(ms, 0.99), quantile(ms, 1.0))
    };
    let Lateness { orders, p50, p99, max } = figures.lateness;
    let lateness = format!("{:.1}/{:.1}/{:.1} of {orders}", p50 / 1e3, p99 / 1e3, max / 1e3);
    vec![
        format!("{kind:?}"),
        buying(0),
        buying(1),
        buying(2),
        lateness,
        figures.outbox.to_string(),
        figures.waiting.map_or("unknown".into(), |waiting| waiting.to_string()),
        format!("{:.1} s", figures.closed_after.as_secs_f64()),
        format!("{:.1} s", figures.drained_after.as_secs_f64()),
        format!("{:.0} → {:.0}", figures.took[0].memory, figures.took[1].memory),
        format!("{:.0} → {:.0}", figures.took[0].threads, figures.took[1].threads),
    ]
}

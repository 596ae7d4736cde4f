//! `trials takeover`: how soon others take over from a pod, a leader or a broker that was lost, and how long a pod that is
//! asked to stop takes.

mod broker_lost;
mod leader_lost;
mod pod_lost;
mod stopped;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::process::Signal;
use tokio::time::sleep;

use crate::arena::{Arena, Plan, TAP};
use crate::load::Load;
use crate::measure::{largest, median, now, overdue, print, until};
use crate::servers::{Servers, workshop};
use crate::verdict::conclude;
use leader_lost::Led;

/// What is asked for.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// How often each
    #[arg(long, default_value_t = 5)]
    times: usize,
    /// Only these kinds
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Kind::ALL)]
    kinds: Vec<Kind>,
}

/// What is lost.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A pod is killed
    Killed,
    /// A pod stops in its tracks
    Frozen,
    /// The pod that relays is killed
    Relay,
    /// A pod that sweeps is killed
    Sweep,
    /// The broker is killed, and started again
    Broker,
    /// A pod is asked to stop in the middle of a burst
    Stopped,
}

impl Kind {
    const ALL: [Self; 6] =
        [Self::Killed, Self::Frozen, Self::Relay, Self::Sweep, Self::Broker, Self::Stopped];

    /// Whether the sweep is what is tried.
    fn sweeps(self) -> bool {
        matches!(self, Self::Frozen | Self::Sweep)
    }
}

/// One measure, taken a number of times.
#[derive(Clone, Debug)]
struct Measure {
    what: &'static str,
    unit: &'static str,
    /// What the largest value must not exceed.
    goal: Option<f64>,
    values: Vec<f64>,
}

impl Measure {
    fn seconds(what: &'static str, goal: Option<f64>) -> Self {
        Self { what, unit: "s", goal, values: Vec::new() }
    }

    fn row(&self) -> Vec<String> {
        let shown = |value: f64| if self.unit == "s" { format!("{value:.2} s") } else { format!("{value}") };
        let goal = self.goal.map_or(String::new(), |goal| format!("at most {goal} {}", self.unit));
        vec![self.what.to_owned(), shown(median(&self.values)), shown(largest(&self.values)), goal]
    }
}

/// Orders fall due all the time. All are announced by the trigger: a commit whose answer was lost is never announced by
/// message, and without the sweep its order stays open.
const LOAD: Load = Load { per_second: 60, longest: Duration::from_secs(3), by_message: false };
const PODS: usize = 2;
/// How long anything may take that is measured.
const PATIENCE: Duration = Duration::from_secs(180);

/// Takes every measure.
pub async fn run(args: &Args) -> Result<()> {
    let servers = Servers::start(workshop(&format!("takeover-{}", std::process::id()))?, 1).await?;
    println!("takeover: RabbitMQ {}, {PODS} pods, each {} times", servers.version, args.times);
    let mut measures = Vec::new();
    for kind in args.kinds.iter().copied() {
        let plan = Plan {
            name: format!("{kind:?}").to_lowercase(),
            pods: PODS,
            // Without the sweep, nothing makes good for a wake that nobody takes over.
            roles: if kind.sweeps() { "relay,intake,close,sweep" } else { "relay,intake,close" },
            lanes: "500ms,1s,2s,5s",
            settings: Vec::new(),
        };
        let arena = Arena::new(Arc::clone(&servers), &plan).await?;
        // Nobody empties it here.
        arena.till.broker.delete(TAP).await?;
        match play(&arena, kind, args.times).await {
            Ok(taken) => measures.extend(taken),
            Err(error) => {
                anyhow::bail!(
                    "{kind:?}: {error:#}\n\n{}\nleft to look at: {}",
                    arena.timeline,
                    arena.remains()
                )
            }
        }
        println!("  {kind:?}: every promise was kept");
        arena.remove().await?;
    }
    let head = ["", "median", "max", "goal"].map(str::to_owned).into();
    print(&std::iter::once(head).chain(measures.iter().map(Measure::row)).collect::<Vec<_>>());
    let missed =
        measures.iter().filter(|measure| measure.goal.is_some_and(|goal| largest(&measure.values) > goal));
    let missed: Vec<_> = missed.map(|measure| format!("{}: {:?}", measure.what, measure.values)).collect();
    ensure!(missed.is_empty(), "goals missed:\n  {}", missed.join("\n  "));
    let _ = std::fs::remove_dir_all(&servers.folder);
    Ok(())
}

async fn play(arena: &Arena, kind: Kind, times: usize) -> Result<Vec<Measure>> {
    let scene = async {
        quiet(arena).await?;
        match kind {
            Kind::Killed => pod_lost::play(arena, times, Signal::KILL).await,
            Kind::Frozen => pod_lost::play(arena, times, Signal::STOP).await,
            Kind::Relay => leader_lost::play(arena, times, Led::Relay).await,
            Kind::Sweep => leader_lost::play(arena, times, Led::Sweep).await,
            Kind::Broker => broker_lost::play(arena, times).await,
            Kind::Stopped => stopped::play(arena, times).await,
        }
    };
    let mut measures = LOAD.during(&arena.till, scene).await?;
    conclude(arena, PATIENCE, &[]).await?;
    if kind == Kind::Stopped {
        measures.push(stopped::redeliveries(arena, times));
    }
    Ok(measures)
}

/// Waits until every pod works, and orders have been closed on time for a while.
async fn quiet(arena: &Arena) -> Result<()> {
    for pod in &arena.pods {
        pod.heal().await?;
    }
    until("all pods consuming", PATIENCE, async || {
        Ok(arena.till.broker.consumers("order.process.queue").await? as usize == arena.pods.len())
    })
    .await?;
    until("orders closed on time again", PATIENCE, async || {
        let moment = now(&arena.eyes).await?;
        Ok(overdue(&arena.eyes, moment - 0.5).await? == 0)
    })
    .await?;
    sleep(Duration::from_secs(4)).await;
    Ok(())
}

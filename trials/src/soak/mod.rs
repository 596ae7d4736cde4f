//! `trials soak`: steady load for a long time, pods restarted now and then. Nothing grows, no promise is broken, and a plot
//! shows it.

mod archive;
mod plot;
mod record;
mod sample;
mod scale;
mod trend;

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::time::{Instant, sleep, sleep_until};

use crate::arena::{Arena, Plan, TAP};
use crate::load::Load;
use crate::measure::now;
use crate::servers::{Servers, workshop};
use crate::verdict::conclude;
use archive::{AGE, Archive};
use record::Record;

/// What is asked for.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// How long it is sampled, after two minutes in which the tables fill; five or more, because vacuum comes once a minute
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Orders placed in each second
    #[arg(long, default_value_t = 60)]
    per_second: u32,
    /// Seconds between two restarts
    #[arg(long, default_value_t = 25)]
    restart_every: u64,
}

/// The delay lanes.
const LANES: &str = "500ms,1s,2s,5s,10s,30s";
/// The longest window.
const LONGEST: Duration = Duration::from_secs(30);
/// The first is never restarted, so that what grows in it can grow.
const PODS: usize = 3;
/// More would only make the plot slower.
const MOST_SAMPLES: f64 = 3_600.0;
/// Between two times of putting away.
const PUT_AWAY: Duration = Duration::from_secs(10);
/// The tables fill until the first orders are put away: a run would take that for growth, the more the shorter it is.
const FILLING: Duration = AGE.saturating_add(PUT_AWAY);
/// In the end, what is left settles within this.
const SETTLE: Duration = Duration::from_secs(120);

/// Soaks.
pub async fn run(args: &Args) -> Result<()> {
    let servers = Servers::start(workshop(&format!("soak-{}", std::process::id()))?, 1).await?;
    let title = format!(
        "{} orders/s for {} min, {PODS} pods, RabbitMQ {}, a pod restarted every {} s",
        args.per_second, args.minutes, servers.version, args.restart_every
    );
    println!("soak: {title}");
    let plan = Plan {
        name: "soak".to_owned(),
        pods: PODS,
        roles: "relay,intake,close,sweep",
        lanes: LANES,
        settings: Vec::new(),
    };
    let arena = Arena::new(Arc::clone(&servers), &plan).await?;
    // Nobody empties it here.
    arena.till.broker.delete(TAP).await?;
    let names: Vec<_> = arena.pods.iter().map(|pod| pod.name.clone()).collect();
    let record = RefCell::new(Record::new(sample::panels(&names)));
    let mut archive = Archive::new(&arena).await?;

    let load = Load { per_second: args.per_second, longest: LONGEST, by_message: true };
    let lasting = Duration::from_secs_f64(args.minutes * 60.0);
    let scene = async {
        let end = Instant::now() + FILLING + lasting;
        let (restarts, archived) =
            (restart(&arena, &record, args.restart_every), put_away(&arena, &mut archive));
        tokio::select! {
            sampled = take_samples(&arena, &record, lasting, end) => sampled,
            failed = restarts => failed,
            failed = archived => failed,
        }
    };
    let soaked = load.during(&arena.till, scene).await;
    let record = record.into_inner();
    write(&servers.folder, &title, &record)?;
    soaked.with_context(|| arena.remains())?;
    conclude(&arena, SETTLE, &[]).await.with_context(|| arena.remains())?;
    archive.count_the_rest(&arena).await?;

    let tally = &archive.tally;
    let count = |counter: &str| arena.pods.iter().map(|pod| pod.count(counter)).sum::<u64>();
    println!(
        "{} orders placed, {} paid, {} cancelled, {} closed, the latest {:.0} ms late; {} by the sweep, {} attempts failed, {} restarts",
        tally.placed,
        tally.paid,
        tally.cancelled,
        tally.closed,
        tally.latest_ms,
        count("swept"),
        count("failed"),
        record.restarts.len(),
    );
    table(&record);
    let grown = record.grown();
    ensure!(grown.is_empty(), "what should be flat has grown:\n  {}", grown.join("\n  "));
    println!("every promise was kept, and nothing has grown");
    arena.remove().await?;
    // The plot and its samples stay.
    for data in ["postgres", "rabbitmq"] {
        let _ = std::fs::remove_dir_all(servers.folder.join(data));
    }
    Ok(())
}

async fn take_samples(
    arena: &Arena,
    record: &RefCell<Record>,
    lasting: Duration,
    end: Instant,
) -> Result<()> {
    let step = lasting.div_f64(MOST_SAMPLES).max(Duration::from_secs(1));
    sleep(FILLING).await;
    let (began, mut next) = (Instant::now(), Instant::now() + step);
    let mut from = now(&arena.eyes).await?;
    while next < end {
        sleep_until(next).await;
        let until = now(&arena.eyes).await?;
        let values = sample::sample(arena, from, until).await?;
        record.borrow_mut().add(began.elapsed().as_secs_f64(), values);
        for pod in &arena.pods {
            pod.check().await?;
        }
        from = until;
        next = (next + step).max(Instant::now());
    }
    Ok(())
}

/// By turns all but the first, stopped and killed by turns.
async fn restart(arena: &Arena, record: &RefCell<Record>, every: u64) -> Result<()> {
    let began = Instant::now();
    for n in 0.. {
        sleep(Duration::from_secs(every)).await;
        let (pod, killed) = (&arena.pods[1 + n / 2 % (PODS - 1)], n % 2 == 1);
        if let Some(since) = began.elapsed().checked_sub(FILLING) {
            record.borrow_mut().restarts.push((since.as_secs_f64(), killed));
        }
        if killed {
            pod.kill().await?;
        } else {
            pod.stop().await?;
        }
        sleep(Duration::from_secs(2)).await;
        pod.begin().await?;
    }
    Ok(())
}

async fn put_away(arena: &Arena, archive: &mut Archive) -> Result<()> {
    loop {
        sleep(PUT_AWAY).await;
        archive.put_away(arena).await?;
    }
}

/// The pods' logs are there, too.
fn write(folder: &Path, title: &str, record: &Record) -> Result<()> {
    for (name, text) in [("soak.svg", plot::svg(title, record)), ("samples.csv", record.csv())] {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
        println!("{}", path.display());
    }
    Ok(())
}

fn table(record: &Record) {
    let head = ["series", "warm", "in the end", "unit", "judged"].map(str::to_owned).to_vec();
    let lines = record.panels.iter().flat_map(|panel| panel.lines.iter().map(move |line| (panel, line)));
    let rows = lines.filter_map(|(panel, line)| {
        let course = record.course(line)?;
        let judged = match line.limit {
            Some(limit) if course.exceeds(limit) => "GROWS",
            Some(_) => "flat",
            None => "",
        };
        let shown = |value: f64| format!("{value:.1}");
        let series = format!("{}, {}", panel.title, line.name);
        Some(vec![series, shown(course.from), shown(course.to), panel.unit.to_owned(), judged.to_owned()])
    });
    crate::measure::print(&std::iter::once(head).chain(rows).collect::<Vec<_>>());
}

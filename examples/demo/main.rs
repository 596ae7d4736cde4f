//! `make demo`: an evening in a shop, with two pods of Overdue that close what is not paid.
//!
//! Everything here but the pods is the world around Overdue. It uses plain SQL and plain AMQP, and nothing of the library.
//! The modules in the order of the run: `addresses` and `stage` (a database, a vhost and users, created through
//! `management`), `pods`, `script` (what happens to each order), `lives` (carries the script out through a shop and
//! outside `services`), `progress` (observes), `findings` and `report` (whether every promise was kept), and
//! `keep` (for KEEP=1).

mod addresses;
mod findings;
mod keep;
mod lives;
mod management;
mod pods;
mod progress;
mod report;
mod script;
mod services;
mod stage;

use std::error::Error;
use std::fmt::Display;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use overdue_testkit::shop::Shop;
use overdue_testkit::subscriber::{News, Subscriber};
use tokio::signal::unix::{SignalKind, signal};

use crate::findings::{Findings, Performance};
use crate::pods::Pods;
use crate::script::{PRODUCTS, STOCK};
use crate::services::Services;
use crate::stage::Stage;

/// The subscriber's queue.
const SUBSCRIBER: &str = "demo.subscriber.queue";
/// How long its last events may take.
const HEAR_OUT: Duration = Duration::from_secs(10);

/// Any error, as text for the user.
pub type Failure = Box<dyn Error + Send + Sync>;
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// Adds to an error what was being done when it occurred.
pub trait During<T> {
    /// Puts `doing` before the error's text.
    ///
    /// # Errors
    /// When `self` is one.
    fn during(self, doing: impl Display) -> Result<T>;
}

impl<T, E: Display> During<T> for Result<T, E> {
    fn during(self, doing: impl Display) -> Result<T> {
        self.map_err(|error| format!("{doing}: {error:#}").into())
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    // With KEEP=1, dev/with-services leaves its services up, and the demo what it has created.
    let keep = std::env::var("KEEP").is_ok_and(|value| value == "1");
    match demo(keep).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the demo once, and cleans up however it ends. Returns whether every promise was kept.
async fn demo(keep: bool) -> Result<bool> {
    let stage = Stage::from_env()?;
    let mut pods = Pods::default();
    let played = tokio::select! {
        played = play(&stage, &mut pods) => played,
        interrupted = interrupted() => interrupted.and(Err("interrupted".into())),
    };
    let (ended_well, begun) = (played.is_ok(), !pods.pids().await.is_empty());
    if let Err(error) = &played {
        eprintln!("demo: {error}{}", if begun { "; stopping the pods" } else { "" });
    }
    let endings = match &played {
        Ok(performance) if keep => pods.so_far(performance.heard.events.len()).await,
        _ => pods.stop().await,
    };
    let kept = match played {
        Ok(performance) => Findings::gather(performance, endings).await.map(|found| report::print(&found)),
        Err(_) => Ok(false), // the reason is printed above
    };
    if keep && ended_well {
        println!("{}", keep::how_to_look_around(&stage, &pods).await?);
        pods.leave_running();
        return kept;
    }
    // If building the stage failed, removing it fails for the same reason, which is printed above.
    if let Err(error) = stage.strike().await
        && begun
    {
        eprintln!("demo: cleaning up: {error}");
    }
    if ended_well {
        println!("{}", keep::how_to_keep(&stage));
    }
    kept
}

/// The run itself: from an empty stage until every order is settled and the subscriber has heard of it.
async fn play(stage: &Stage, pods: &mut Pods) -> Result<Performance> {
    keep::stop_left_over().await?;
    stage.build().await?;
    let crew = stage.broker(&stage.at.crew).await?;
    let services = Services { broker: stage.broker(&stage.at.publisher).await? };
    let subscriber = Subscriber::listen(Arc::clone(&crew), SUBSCRIBER, &["order.closed"]).await?;
    pods.start(stage, &crew).await?;

    let shop = Shop { pool: stage.pool().await? };
    shop.stock(PRODUCTS, STOCK).await?;
    let script = script::write();
    let orders = script.len();
    let (lives, malformed, ()) = tokio::try_join!(
        lives::play(&shop, &services, script),
        services.send_malformed(),
        progress::watch(&shop.pool, &crew, pods, orders),
    )?;
    let heard = hear_out(&shop, &subscriber).await?;
    let parked = findings::parked(stage).await?;
    Ok(Performance { shop, lives, heard, parked, malformed })
}

/// Waits for the events of all closed orders; at most ten seconds, then what has come is the answer. An event too many is
/// seen, too.
async fn hear_out(shop: &Shop, subscriber: &Subscriber) -> Result<News> {
    let closed = shop.statuses().await?.get("CLOSED").copied().unwrap_or_default();
    let _ = subscriber.wait_for(HEAR_OUT, |news| news.events.len() >= closed).await;
    subscriber.catch_up(HEAR_OUT).await?;
    Ok(subscriber.news())
}

/// Resolves on Ctrl-C or SIGTERM.
async fn interrupted() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

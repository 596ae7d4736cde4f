//! `make demo`: an evening in a shop, with two pods of Overdue that close what is not paid.
//!
//! Everything here but the pods is the world around Overdue. It knows the contracts, plain SQL and plain AMQP, and
//! uses nothing of the library. The files in the order of the play: `addresses` and `stage` (a database, a vhost and
//! users, made through `management`), `pods`, `script` (what each order will meet), `lives` (which the `shop` and outside
//! `services` act out), `subscriber` and `progress` (they watch), `findings` and `report` (was every promise kept?), and
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
mod shop;
mod stage;
mod subscriber;

use std::error::Error;
use std::fmt::Display;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use crate::findings::{Findings, Performance};
use crate::pods::Pods;
use crate::services::Services;
use crate::shop::Shop;
use crate::stage::Stage;
use crate::subscriber::Subscriber;

/// Whatever went wrong, as text for the person who watches.
pub type Failure = Box<dyn Error + Send + Sync>;
/// A result with a [`Failure`].
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// Says what was being done when something failed.
pub trait During<T> {
    /// Puts `doing` before the error's text.
    ///
    /// # Errors
    /// The same as `self`.
    fn during(self, doing: impl Display) -> Result<T>;
}

impl<T, E: Display> During<T> for Result<T, E> {
    fn during(self, doing: impl Display) -> Result<T> {
        self.map_err(|error| format!("{doing}: {error}").into())
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    // KEEP=1 is dev/with-services' word for "leave it up": what the demo has made stays as well.
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

/// Plays it once, and tidies up however it ends. Says whether every promise was kept.
async fn demo(keep: bool) -> Result<bool> {
    let stage = Stage::from_env()?;
    let mut pods = Pods::default();
    let played = tokio::select! {
        played = play(&stage, &mut pods) => played,
        interrupted = interrupted() => interrupted.and(Err("interrupted".into())),
    };
    let (ended_well, begun) = (played.is_ok(), !pods.pids().is_empty());
    if let Err(error) = &played {
        eprintln!("demo: {error}{}", if begun { "; stopping the pods" } else { "" });
    }
    let endings = match &played {
        Ok(performance) if keep => pods.so_far(performance.heard.orders.len() as u64).await,
        _ => pods.stop().await,
    };
    let kept = match played {
        Ok(performance) => Findings::gather(performance, endings).await.map(|found| report::print(&found)),
        Err(_) => Ok(false), // it has been reported why
    };
    if keep && ended_well {
        println!("{}", keep::how_to_look_around(&stage, &pods)?);
        pods.leave_running();
        return kept;
    }
    // What kept the stage from being built keeps it from being struck, too, and has been said.
    if let Err(error) = stage.strike().await
        && begun
    {
        eprintln!("demo: tidying up: {error}");
    }
    if ended_well {
        println!("{}", keep::how_to_keep(&stage));
    }
    kept
}

/// The play itself: from an empty stage until every order is settled and the subscriber has heard of it.
async fn play(stage: &Stage, pods: &mut Pods) -> Result<Performance> {
    keep::stop_left_over().await?;
    stage.build().await?;
    // Two connections: one that is blocked for publishing (an alarm) must not keep the other from hearing.
    let (connection, outside) =
        (stage.connect(&stage.at.crew).await?, stage.connect(&stage.at.publisher).await?);
    let mut subscriber = Subscriber::listen(&connection).await?;
    pods.start(stage, &connection).await?;

    let pool = stage.pool().await?;
    let services = Services::new(&outside).await?;
    let shop = Shop::open(pool.clone()).await?;
    let script = script::write();
    let orders = script.len();
    let (lives, malformed, ()) = tokio::try_join!(
        lives::play(&shop, &services, script),
        services.send_malformed(),
        progress::watch(&pool, &connection, pods, orders),
    )?;
    let heard = subscriber.hear_out(&pool).await?;
    let parked = findings::parked(stage).await?;
    Ok(Performance { pool, lives, heard, parked, malformed })
}

/// Completes on Ctrl-C or SIGTERM.
async fn interrupted() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

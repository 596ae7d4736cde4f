//! `trials checker-selftest`: every crime is committed, and the checker must convict.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use super::crime::{CRIMES, Crime};
use super::round::{self, Script};
use crate::servers::{Servers, workshop};

/// Crimes that can be told apart share a round. An order without its event or its wake ends a round before the checker looks
/// at anything else, and stock that is given back twice would hide stock that is lost.
const ROUNDS: [&[Crime]; 4] = [
    &[
        Crime::PaidOrderClosed,
        Crime::EventOfAnOrderThatIsNotClosed,
        Crime::SecondEventOfAClose,
        Crime::StockLost,
        Crime::OrderGone,
        Crime::MalformedMessageDropped,
        Crime::ParkedMessageStripped,
    ],
    &[Crime::StockGivenBackTwice],
    &[Crime::OrderClosedWithoutEvent],
    &[Crime::WakeLost],
];

/// Commits every crime, in rounds without faults; fails when one goes unpunished, or when the checker convicts of one that
/// was not committed.
pub async fn run() -> Result<()> {
    let servers = Servers::start(workshop(&format!("checker-{}", std::process::id()))?, 1).await?;
    all(&servers).await?;
    let _ = std::fs::remove_dir_all(&servers.folder);
    Ok(())
}

/// The same in servers that run already.
pub async fn all(servers: &Arc<Servers>) -> Result<()> {
    ensure!(ROUNDS.concat().len() == CRIMES.len(), "every crime has its round");
    // The sweep hides nothing: where nothing is broken, no order needs it.
    let calm = round::play(servers, Script::calm(0)).await.context("a round without faults")?;
    ensure!(calm.missed == 0, "{} orders were missed by their wakes, and nothing was broken", calm.missed);
    for (seed, crimes) in (1..).zip(ROUNDS) {
        let verdict = round::play(servers, Script::crimes(seed, crimes)).await.err();
        let verdict = verdict.with_context(|| format!("{crimes:?} went unpunished"))?.to_string();
        // What happened in the round follows, after an empty line.
        let convicted_of = verdict.split("\n\n").next().unwrap_or_default();
        for (crime, words) in CRIMES.iter().filter(|(crime, _)| crimes.contains(crime)) {
            ensure!(convicted_of.contains(words), "{crime} went unpunished: {verdict}");
            println!("{crime}: convicted ({words})");
        }
        let of_these = |words| CRIMES.iter().any(|(crime, said)| crimes.contains(crime) && *said == words);
        for (crime, words) in CRIMES.iter().filter(|(_, words)| !of_these(*words)) {
            ensure!(!convicted_of.contains(words), "nobody has committed {crime}: {verdict}");
        }
    }
    println!("the checker convicts of every crime");
    Ok(())
}

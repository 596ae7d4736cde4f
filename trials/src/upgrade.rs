//! An upgrade under load: the schema is migrated and pods of the previous build are replaced, one by one, by this one's.
//! Both run beside each other meanwhile, in both orders, and every promise is kept.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use overdue_testkit::deployment::Deployment;
use overdue_testkit::random::seeded;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::arena::{Arena, Plan};
use crate::pods::{binary, differs_from_this};
use crate::servers::{Servers, workshop};
use crate::shop::script;
use crate::verdict::conclude;

/// What is asked for.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The previous build
    #[arg(long)]
    previous: PathBuf,
}

/// How long the shop is busy.
const LOAD: Duration = Duration::from_secs(12);
/// Between two steps.
const STEP: Duration = Duration::from_secs(2);

/// Upgrades, and goes back by one pod: a roll-back in the middle must be harmless too.
pub async fn run(args: &Args) -> Result<()> {
    differs_from_this(&args.previous)?;
    let servers = Servers::start(workshop(&format!("upgrade-{}", std::process::id()))?, 1).await?;
    let plan = Plan {
        name: "upgrade".into(),
        pods: 2,
        roles: "relay,intake,close",
        lanes: "500ms,1s,2s,5s",
        settings: Vec::new(),
    };
    let arena =
        Arena::with_binary(Arc::clone(&servers), &plan, &args.previous).await.context("setting up")?;
    let mut random = seeded(15);
    let mut lives = JoinSet::new();
    for life in script::draw(&mut random, LOAD, 40, Duration::from_millis(3_500)) {
        let till = Arc::clone(&arena.till);
        lives.spawn(async move {
            sleep(life.at).await;
            till.live(&life).await
        });
    }
    let upgrade = async {
        sleep(STEP).await;
        let this = binary();
        Deployment { binary: this.clone(), ..arena.deployment.clone() }.overdue(&["migrate"]).await?;
        arena.timeline.note("migrated");
        for (pod, build) in [(0, &this), (0, &args.previous), (0, &this), (1, &this)] {
            sleep(STEP).await;
            arena.pods[pod].stop().await?;
            arena.pods[pod].begin_as(build).await?;
            arena.timeline.note(format!("pod {pod} runs {}", build.display()));
        }
        anyhow::Ok(())
    };
    let shop = async {
        while let Some(lived) = lives.join_next().await {
            lived?.context("the shop")?;
        }
        anyhow::Ok(())
    };
    let outcome = async {
        tokio::try_join!(upgrade, shop)?;
        arena.till.announce_forgotten().await?;
        conclude(&arena, Duration::from_secs(60), &[]).await
    };
    let settled = match outcome.await {
        Ok(settled) => settled,
        Err(error) => anyhow::bail!("{error:#}\n\n{}\nleft to look at: {}", arena.timeline, arena.remains()),
    };
    println!(
        "every promise was kept while pods of the previous build were replaced; settled after {:.1} s",
        settled.as_secs_f64()
    );
    arena.remove().await?;
    let _ = std::fs::remove_dir_all(&servers.folder);
    Ok(())
}

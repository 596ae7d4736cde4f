//! Pods on trial: each has breakers of its own between it and the servers.

use std::ops::Deref;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use overdue_testkit::breaker::{Breaker, Line};
use overdue_testkit::deployment::Deployment;
use overdue_testkit::pod::Pod;
use overdue_testkit::process::Signal;

use crate::servers::project;

/// The program on trial, beside this one; OVERDUE_BINARY names another.
pub fn binary() -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|path| Some(path.parent()?.join("overdue")));
    let chosen = std::env::var_os("OVERDUE_BINARY").map(PathBuf::from).or(beside);
    chosen.unwrap_or_else(|| project().join("target/release/overdue"))
}

/// Checks that there is another build, and that it is another one: a build that is compared with itself is always as good.
pub fn differs_from_this(other: &Path) -> Result<()> {
    let read =
        |path: &Path| std::fs::read(path).with_context(|| format!("there is no build at {}", path.display()));
    let this = binary();
    ensure!(
        read(other)? != read(&this)?,
        "{} and {} are the same build: build this checkout again, or name another commit",
        other.display(),
        this.display()
    );
    Ok(())
}

/// A pod behind breakers.
#[derive(Debug)]
pub struct TriedPod {
    /// Between it and the database.
    pub database: Breaker,
    /// Between it and each node of the broker.
    pub broker: Vec<Breaker>,
    pod: Pod,
}

impl Deref for TriedPod {
    type Target = Pod;

    fn deref(&self) -> &Pod {
        &self.pod
    }
}

impl TriedPod {
    /// Starts it.
    pub async fn start(name: &str, deployment: &Deployment, roles: &str, logs: &Path) -> Result<Self> {
        let database = Breaker::before(&deployment.database_url).await?;
        let mut broker = Vec::new();
        for url in &deployment.amqp_urls {
            broker.push(Breaker::before(url).await?);
        }
        let behind = Deployment {
            database_url: database.url.clone(),
            amqp_urls: broker.iter().map(|breaker| breaker.url.clone()).collect(),
            ..deployment.clone()
        };
        let pod = Pod::start(name, behind, &["run", "--roles", roles], logs)?;
        Ok(Self { database, broker, pod })
    }

    /// Cuts every line of it, those that are silent too.
    pub fn cut(&self) {
        self.database.set(Line::Cut);
        self.broker.iter().for_each(|breaker| breaker.set(Line::Cut));
    }

    /// Every line of its up again, and itself running and awake.
    pub async fn heal(&self) -> Result<()> {
        self.database.set(Line::Up);
        self.broker.iter().for_each(|breaker| breaker.set(Line::Up));
        self.signal(Signal::CONT).await?;
        self.begin().await
    }
}

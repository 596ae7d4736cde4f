//! Pods: `overdue run` as processes, each with breakers of its own between it and the servers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use tokio::process::Command;
use tokio::sync::Mutex;

use crate::servers::process::run;
use crate::servers::{Process, project};
use overdue_testkit::breaker::{Breaker, Line};

/// One shop's place in the servers, and how its pods are told of it.
#[derive(Clone, Debug)]
pub struct Place {
    /// The database.
    pub database_url: String,
    /// Every node of the broker.
    pub amqp_urls: Vec<String>,
    /// Before every exchange and queue.
    pub prefix: String,
    /// Other settings: environment variables and their values.
    pub settings: Vec<(&'static str, String)>,
    /// The program on trial.
    pub binary: PathBuf,
}

impl Place {
    /// The same for another build.
    pub fn with_binary(self, binary: &Path) -> Self {
        Self { binary: binary.to_owned(), ..self }
    }

    /// `overdue` with this place's settings.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(arguments)
            .env("DATABASE_URL", &self.database_url)
            .env("AMQP_URL", self.amqp_urls.join(","))
            .env("OVERDUE_PREFIX", &self.prefix)
            .envs(self.settings.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a command to its end.
    pub async fn overdue(&self, arguments: &[&str]) -> Result<String> {
        run(&mut self.command(arguments), Duration::from_secs(60)).await
    }

    /// A queue's or exchange's name here.
    pub fn name(&self, rest: &str) -> String {
        format!("{}{rest}", self.prefix)
    }
}

/// The program on trial, beside this one; OVERDUE_BINARY names another.
pub fn binary() -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|path| Some(path.parent()?.join("overdue")));
    let chosen = std::env::var_os("OVERDUE_BINARY").map(PathBuf::from).or(beside);
    chosen.unwrap_or_else(|| project().join("target/release/overdue"))
}

/// A pod that may be killed and started again any number of times.
#[derive(Debug)]
pub struct Pod {
    /// Between it and the database.
    pub database: Breaker,
    /// Between it and each node of the broker.
    pub broker: Vec<Breaker>,
    /// Its log, over all its lives.
    pub log: PathBuf,
    name: String,
    place: Place,
    roles: &'static str,
    process: Mutex<Option<Process>>,
}

/// More than a pod's own drain (10 s) and what it takes to give back what it has (3 s).
const PATIENCE: Duration = Duration::from_secs(20);

impl Pod {
    /// Starts it.
    pub async fn start(name: &str, place: &Place, roles: &'static str, logs: &Path) -> Result<Self> {
        let database = Breaker::before(&place.database_url).await?;
        let mut broker = Vec::new();
        for url in &place.amqp_urls {
            broker.push(Breaker::before(url).await?);
        }
        let mut place = place.clone();
        place.database_url.clone_from(&database.url);
        place.amqp_urls = broker.iter().map(|breaker| breaker.url.clone()).collect();
        let log = logs.join(format!("{name}.log"));
        let pod =
            Self { database, broker, log, name: name.to_owned(), place, roles, process: Mutex::default() };
        pod.begin().await?;
        Ok(pod)
    }

    /// Starts it again, if it does not run.
    pub async fn begin(&self) -> Result<()> {
        self.begin_with(&self.place.binary, &self.log).await
    }

    /// The same with another log for this life.
    pub async fn begin_with_log(&self, log: &Path) -> Result<()> {
        self.begin_with(&self.place.binary, log).await
    }

    /// The same with another build for this life.
    pub async fn begin_as(&self, binary: &Path) -> Result<()> {
        self.begin_with(binary, &self.log).await
    }

    async fn begin_with(&self, binary: &Path, log: &Path) -> Result<()> {
        let mut process = self.process.lock().await;
        if process.is_none() {
            let place = self.place.clone().with_binary(binary);
            let mut command = place.command(&["run", "--roles", self.roles]);
            *process = Some(Process::start(&self.name, command.env("OVERDUE_LOG_FORMAT", "text"), log)?);
        }
        Ok(())
    }

    /// SIGKILL.
    pub async fn kill(&self) -> Result<()> {
        let Some(mut process) = self.process.lock().await.take() else { return Ok(()) };
        process.signal(Signal::KILL)?;
        process.ended(PATIENCE).await?;
        Ok(())
    }

    /// SIGTERM and its end; how long it took. Exit code 1 will do: what was in flight could not be finished in time and
    /// was given back, as when a server was away.
    pub async fn stop(&self) -> Result<Duration> {
        self.end(&[0, 1]).await
    }

    /// As [`Self::stop`], when nothing stands in the way of finishing.
    pub async fn stop_cleanly(&self) -> Result<Duration> {
        self.end(&[0]).await
    }

    async fn end(&self, allowed: &[i32]) -> Result<Duration> {
        let Some(mut process) = self.process.lock().await.take() else { return Ok(Duration::ZERO) };
        let began = std::time::Instant::now();
        process.signal(Signal::TERM)?;
        let status = process.ended(PATIENCE).await?;
        ensure!(
            status.code().is_some_and(|code| allowed.contains(&code)),
            "{} ended with {status}",
            self.name
        );
        Ok(began.elapsed())
    }

    /// Sends a signal.
    pub async fn signal(&self, signal: Signal) -> Result<()> {
        let process = self.process.lock().await;
        process.as_ref().map_or(Ok(()), |process| process.signal(signal))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id, while it runs.
    pub async fn pid(&self) -> Option<i32> {
        let process = self.process.lock().await;
        process.as_ref().and_then(|process| Some(process.pid().ok()?.as_raw_nonzero().get()))
    }

    /// Resident memory in KiB.
    pub async fn resident_kib(&self) -> u64 {
        self.process.lock().await.as_ref().map_or(0, Process::resident_kib)
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

    /// Fails when it has ended by itself, or has panicked.
    pub async fn check(&self) -> Result<()> {
        let status = self.process.lock().await.as_mut().and_then(Process::has_ended);
        let log = std::fs::read_to_string(&self.log).with_context(|| self.log.display().to_string())?;
        if let Some(status) = status {
            anyhow::bail!("{} ended by itself ({status}): {}", self.name, log.lines().last().unwrap_or(""));
        }
        let panic = log.lines().find(|line| line.contains("event=defect"));
        ensure!(panic.is_none(), "{}: {}", self.name, panic.unwrap_or_default());
        Ok(())
    }

    /// When it began to lead a role, as its log says it, unless it has ended or lost a session since then.
    pub async fn leads_since(&self, key: &str) -> Option<String> {
        self.pid().await?;
        let (log, mut since) = (std::fs::read_to_string(&self.log).ok()?, None);
        for line in log.lines() {
            let role = format!("role={}", key.to_lowercase());
            if is(line, "starting") || (is(line, "session_broken") && line.contains(&role)) {
                since = None;
            } else if is(line, "leading") && line.contains(&format!("key={key}")) {
                since = line.split_whitespace().next().map(str::to_owned);
            }
        }
        since
    }

    /// The last value of a counter in its log, summed over its lives. What was not reported before a kill is missing.
    pub fn count(&self, counter: &str) -> u64 {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let (mut sum, mut last) = (0, 0);
        for line in log.lines() {
            if is(line, "starting") {
                sum += std::mem::take(&mut last);
            }
            let mut words = line.split_whitespace();
            let value = words.find_map(|word| word.strip_prefix(counter)?.strip_prefix('=')?.parse().ok());
            last = value.unwrap_or(last);
        }
        sum + last
    }
}

/// Whether a line of a pod's log is about this event; see docs/logging.md.
pub fn is(line: &str, event: &str) -> bool {
    line.split_whitespace().any(|word| word.strip_prefix("event=") == Some(event))
}

//! A pod: `overdue run` as a process that may be killed and started again any number of times.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::sync::Mutex;

use crate::deployment::Deployment;
use crate::log::{self, Line};
use crate::process::{Process, Signal};

/// A pod.
#[derive(Debug)]
pub struct Pod {
    /// Its name, for errors.
    pub name: String,
    /// Its log, over all its lives, in JSON.
    pub log: PathBuf,
    deployment: Deployment,
    arguments: Vec<String>,
    process: Mutex<Option<Process>>,
}

/// More than a pod's own drain (10 s) and what it takes to give back what it has (3 s).
pub const PATIENCE: Duration = Duration::from_secs(20);

impl Pod {
    /// Starts it with these arguments, of which the first is mostly `run`; its log is `<logs>/<name>.log`.
    pub fn start(name: &str, deployment: Deployment, arguments: &[&str], logs: &Path) -> Result<Self> {
        let mut pod = Self {
            name: name.to_owned(),
            log: logs.join(format!("{name}.log")),
            deployment,
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            process: Mutex::default(),
        };
        pod.process = Mutex::new(Some(pod.spawn(&pod.deployment, &pod.log)?));
        Ok(pod)
    }

    /// Starts it again, if it does not run.
    pub async fn begin(&self) -> Result<()> {
        self.begin_with(&self.deployment.binary, &self.log).await
    }

    /// The same with another log for this life.
    pub async fn begin_with_log(&self, log: &Path) -> Result<()> {
        self.begin_with(&self.deployment.binary, log).await
    }

    /// The same with another build for this life.
    pub async fn begin_as(&self, binary: &Path) -> Result<()> {
        self.begin_with(binary, &self.log).await
    }

    async fn begin_with(&self, binary: &Path, log: &Path) -> Result<()> {
        let mut process = self.process.lock().await;
        if process.is_none() {
            let deployment = Deployment { binary: binary.to_owned(), ..self.deployment.clone() };
            *process = Some(self.spawn(&deployment, log)?);
        }
        Ok(())
    }

    fn spawn(&self, deployment: &Deployment, log: &Path) -> Result<Process> {
        let arguments: Vec<_> = self.arguments.iter().map(String::as_str).collect();
        let mut command = deployment.command(&arguments);
        Process::start(&self.name, command.env("OVERDUE_LOG_FORMAT", "json"), log)
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
        let began = Instant::now();
        self.signal(Signal::TERM).await?;
        let Some(code) = self.ended(PATIENCE).await? else { return Ok(Duration::ZERO) };
        ensure!(allowed.contains(&code), "{} ended with {code}", self.name);
        Ok(began.elapsed())
    }

    /// Waits for its end; the exit code, or none when it does not run.
    pub async fn ended(&self, patience: Duration) -> Result<Option<i32>> {
        let Some(mut process) = self.process.lock().await.take() else { return Ok(None) };
        Ok(Some(process.ended(patience).await?.code().unwrap_or(-1)))
    }

    /// Sends a signal.
    pub async fn signal(&self, signal: Signal) -> Result<()> {
        let process = self.process.lock().await;
        process.as_ref().map_or(Ok(()), |process| process.signal(signal))
    }

    /// Its process id, while it runs.
    pub async fn pid(&self) -> Option<i32> {
        let process = self.process.lock().await;
        process.as_ref().and_then(|process| Some(process.pid().ok()?.as_raw_nonzero().get()))
    }

    /// See [`Process::kib`].
    pub async fn kib(&self, size: &str) -> Option<u64> {
        self.process.lock().await.as_ref()?.kib(size)
    }

    /// Fails when it has ended by itself, or has panicked.
    pub async fn check(&self) -> Result<()> {
        let status = self.process.lock().await.as_mut().and_then(Process::has_ended);
        let log = std::fs::read_to_string(&self.log).with_context(|| self.log.display().to_string())?;
        if let Some(status) = status {
            anyhow::bail!("{} ended by itself ({status}): {}", self.name, log.lines().last().unwrap_or(""));
        }
        let defect = self.lines().into_iter().find(|line| line.is("defect"));
        ensure!(defect.is_none(), "{}: {defect:?}", self.name);
        Ok(())
    }

    /// The lines of its log.
    pub fn lines(&self) -> Vec<Line> {
        log::read(&self.log)
    }

    /// How often it has reported this event.
    pub fn reported(&self, event: &str) -> usize {
        self.lines().iter().filter(|line| line.is(event)).count()
    }

    /// When it began to lead a role, unless it has ended or lost a session since then.
    pub async fn leads_since(&self, role: &str) -> Option<String> {
        self.pid().await?;
        let mut since = None;
        for line in self.lines() {
            let broken = line.is("session_broken") && line.text("role") == Some(role);
            if broken || line.is("starting") {
                since = None;
            } else if line.is("leading") && line.text("role") == Some(role) {
                since = line.at().map(str::to_owned);
            }
        }
        since
    }

    /// The last value of a counter in its log, summed over its lives. What was not reported before a kill is missing.
    pub fn count(&self, counter: &str) -> u64 {
        let (mut sum, mut last) = (0, 0);
        for line in self.lines() {
            if line.is("starting") {
                sum += std::mem::take(&mut last);
            }
            last = line.number(counter).unwrap_or(last);
        }
        sum + last
    }

    /// Leaves it running when this value and its parent are gone.
    pub fn leave_running(self) {
        if let Some(process) = self.process.into_inner() {
            process.leave_running();
        }
    }
}

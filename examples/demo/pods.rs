//! The pods: two `overdue run` that share the work, as child processes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use lapin::Connection;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::keep;
use crate::stage::Stage;
use crate::{During, Result};

const HOW_MANY: u32 = 2;
/// Their logs, and what KEEP=1 needs to remember.
pub const FOLDER: &str = "target/demo";
/// More than a pod's own drain (10 s) and what it takes to give back what it has (3 s).
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The running pods. Dropped, they are killed: the demo leaves nothing behind, except on request.
#[derive(Debug, Default)]
pub struct Pods(Vec<Pod>);

#[derive(Debug)]
struct Pod {
    child: Child,
    log: PathBuf,
}

/// What a pod's log says that it has done.
#[derive(Clone, Debug)]
pub struct Ending {
    /// Orders it closed.
    pub closed: u64,
    /// Of these, orders that only the sweep found.
    pub swept: u64,
    /// "exit code 0", "still runs", …
    pub state: String,
    /// Whether that is how a pod should end.
    pub clean: bool,
}

impl Pods {
    /// Starts them, and returns when each takes messages.
    pub async fn start(&mut self, stage: &Stage, connection: &Connection) -> Result<()> {
        fs::create_dir_all(FOLDER).during(FOLDER)?;
        for n in 1..=HOW_MANY {
            let log = Path::new(FOLDER).join(format!("pod-{n}.log"));
            let file = File::create(&log).during(log.display())?;
            let mut command = stage.command(&["run"])?;
            command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
            // Ctrl-C at the terminal is for the demo, which then stops its pods in order.
            let child = command.process_group(0).spawn().during("starting a pod")?;
            self.0.push(Pod { child, log });
        }
        let pids: Vec<_> = self.pids().iter().map(ToString::to_string).collect();
        keep::remember(&pids)?;
        self.await_consumers(connection).await?;
        let logs: Vec<_> = self.0.iter().map(|pod| pod.log.display().to_string()).collect();
        eprintln!("demo: pods {} run; their logs: {}", pids.join(" and "), logs.join(", "));
        Ok(())
    }

    async fn await_consumers(&mut self, connection: &Connection) -> Result<()> {
        let channel = connection.create_channel().await?;
        let look = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::durable() };
        let deadline = Instant::now() + Duration::from_secs(30);
        for queue in ["order.delay.queue", "order.process.queue"] {
            while channel.queue_declare(queue.into(), look, FieldTable::default()).await?.consumer_count()
                < HOW_MANY
            {
                self.check()?;
                if Instant::now() > deadline {
                    return Err(
                        format!("the pods do not consume from {queue}; their logs are in {FOLDER}").into()
                    );
                }
                sleep(Duration::from_millis(100)).await;
            }
        }
        channel.close(200, "done".into()).await.during("closing a channel")
    }

    /// Fails when a pod has ended by itself, with the last line of its log.
    pub fn check(&mut self) -> Result<()> {
        for Pod { child, log } in &mut self.0 {
            if let Some(status) = child.try_wait()? {
                let text = fs::read_to_string(&*log)?;
                let last = text.lines().last().unwrap_or_default();
                return Err(format!("a pod has ended ({status}); {} ends with: {last}", log.display()).into());
            }
        }
        Ok(())
    }

    /// Asks every pod to finish what it has in flight, and waits for it.
    pub async fn stop(&mut self) -> Vec<Ending> {
        for pid in self.pids() {
            if let Err(error) = terminate(pid).await {
                eprintln!("demo: {error}");
            }
        }
        let mut endings = Vec::new();
        for Pod { child, log } in &mut self.0 {
            let (state, clean) = match timeout(PATIENCE, child.wait()).await {
                Ok(Ok(status)) => (status.to_string().replace("status:", "code"), status.success()),
                Ok(Err(error)) => (error.to_string(), false),
                Err(_) => (format!("did not stop within {PATIENCE:?}: killed"), false), // by drop
            };
            endings.push(Ending::read(log, state, clean));
        }
        keep::forget();
        endings
    }

    /// What the pods have done so far; for KEEP=1. They report every ten seconds, so this waits for `closed` in sum.
    pub async fn so_far(&mut self, closed: u64) -> Vec<Ending> {
        let deadline = Instant::now() + Duration::from_secs(11);
        loop {
            let endings: Vec<_> =
                self.0.iter().map(|pod| Ending::read(&pod.log, "still runs".into(), true)).collect();
            if endings.iter().map(|ending| ending.closed).sum::<u64>() >= closed || Instant::now() > deadline
            {
                return endings;
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Their process ids.
    pub fn pids(&self) -> Vec<u32> {
        self.0.iter().filter_map(|pod| pod.child.id()).collect()
    }

    /// Forgets them: they go on after the demo.
    pub fn leave_running(mut self) {
        self.0.clear();
    }
}

impl Drop for Pods {
    fn drop(&mut self) {
        for pod in &mut self.0 {
            let _ = pod.child.start_kill();
        }
    }
}

impl Ending {
    fn read(log: &Path, state: String, clean: bool) -> Self {
        let text = fs::read_to_string(log).unwrap_or_default();
        // Counters are logged every ten seconds, and when it stops. What is zero is not among them.
        let is_report =
            |line: &&str| ["event=stopped", "event=counts"].iter().any(|event| line.contains(event));
        let counters = text.lines().rev().find(is_report);
        let count = |name: &str| {
            let mut words = counters.unwrap_or_default().split_whitespace();
            words.find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok()).unwrap_or(0)
        };
        Self { closed: count("closed"), swept: count("swept"), state, clean }
    }
}

/// Asks the process to stop.
pub async fn terminate(pid: u32) -> Result<()> {
    let status = shell(r#"kill -TERM "$1""#, pid).status().await?;
    if status.success() { Ok(()) } else { Err(format!("cannot send SIGTERM to pod {pid}").into()) }
}

/// A shell command about a process: `kill` is built into every shell, but a program of its own only on some systems.
pub fn shell(script: &str, pid: u32) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", &pid.to_string()]).stderr(Stdio::null());
    command
}

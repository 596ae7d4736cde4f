//! Pods: in the test's own process, where its counters can be read, or as the real command, to be killed.

use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use overdue::pod::{Ended, Pod};
use overdue::roles::Role;
use overdue::roles::shared::Shared;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::world::{LANES, World, env, eventually};

/// A pod in this process.
pub struct TestPod {
    /// Its counters.
    pub shared: Arc<Shared>,
    soft: CancellationToken,
    running: JoinHandle<Ended>,
}

impl World {
    /// Starts a pod with every role.
    pub fn pod(&self, overrides: &[(&str, &str)]) -> TestPod {
        self.pod_with_roles(&Role::ALL, overrides)
    }

    /// Starts a pod with some roles.
    pub fn pod_with_roles(&self, roles: &[Role], overrides: &[(&str, &str)]) -> TestPod {
        let pod = Pod::new(self.config(overrides)).expect("a pod");
        let soft = CancellationToken::new();
        let running = tokio::spawn({
            let (pod, soft, roles) = (pod.clone(), soft.clone(), roles.to_vec());
            async move { pod.run(&roles, &soft, &CancellationToken::new()).await }
        });
        TestPod { shared: pod.shared, soft, running }
    }

    /// The real command with this world's settings; `arguments` as on a command line.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_overdue"));
        command
            .args(arguments)
            .env("DATABASE_URL", &self.database_url)
            .env("AMQP_URL", &self.amqp_url)
            .env("OVERDUE_MANAGEMENT_URL", env("OVERDUE_MANAGEMENT_URL"))
            .env("OVERDUE_LANES", LANES)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Starts `overdue run` as a process of its own.
    pub fn process(&self, arguments: &[&str]) -> Process {
        Process::start(&mut self.command(&[&["run"], arguments].concat()))
    }

    /// Runs a command to its end: exit code, standard output, standard error.
    pub async fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = self.command(arguments).output().await.expect("it ran");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
    }

    /// Runs a command that must fail with 1; it says all of these words, and none of those.
    pub async fn fails(&self, arguments: &[&str], words: &[&str], untrue: &[&str]) {
        let (code, out, error) = self.run(arguments).await;
        assert_eq!(code, 1, "{arguments:?}: {out} {error}");
        for word in words {
            assert!(error.contains(word), "{arguments:?} does not say `{word}`: {error}");
        }
        for word in untrue {
            assert!(!error.contains(word), "{arguments:?} says `{word}`: {error}");
        }
        assert!(!error.contains("limited@") && !error.contains("panicked"), "{error}");
    }
}

impl TestPod {
    /// Stops softly and says how it ended.
    pub async fn stop(self) -> Ended {
        self.soft.cancel();
        self.running.await.expect("the pod did not panic")
    }
}

/// A pod as a process.
pub struct Process {
    child: Child,
    log: Arc<Mutex<String>>,
    reading: JoinHandle<()>,
}

impl Process {
    /// Starts `overdue run`, and reads its log.
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("started");
        let log = Arc::new(Mutex::new(String::new()));
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        // Read all the time: a full pipe would stop the pod.
        let reading = tokio::spawn({
            let log = Arc::clone(&log);
            async move {
                while let Ok(Some(line)) = lines.next_line().await {
                    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                    log.push_str(&line);
                    log.push('\n');
                }
            }
        });
        Self { child, log, reading }
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it has logged this.
    pub async fn says(&self, text: &str) {
        eventually(text, async || self.log().contains(text)).await;
    }

    /// The most memory that it has had, in KiB.
    pub fn peak_memory(&self) -> u64 {
        let pid = self.child.id().expect("it runs");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a status");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak.and_then(|peak| peak.trim().split(' ').next()?.parse().ok()).expect("VmHWM in KiB")
    }

    /// How many of its threads have this name.
    pub fn threads(&self, name: &str) -> usize {
        let pid = self.child.id().expect("it runs");
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
        let named =
            threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("comm")).ok());
        named.filter(|named| named.trim() == name).count()
    }

    /// SIGKILL.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("killed");
    }

    /// Sends a signal, such as `TERM`.
    pub async fn send(&self, name: &str) {
        let pid = self.child.id().expect("it runs").to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status().await.expect("kill");
        assert!(sent.success(), "signal {name} was not sent");
    }

    /// Exit code and log once it has ended.
    pub async fn end(mut self) -> (i32, String) {
        let ended = timeout(Duration::from_secs(120), self.child.wait()).await;
        let status = ended.unwrap_or_else(|_| panic!("it has not ended: {}", self.log())).expect("it ended");
        self.reading.await.expect("its log was read");
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (status.code().unwrap_or(-1), log)
    }
}

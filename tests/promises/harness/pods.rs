//! Pods: in the test's own process, where its counters can be read, or as the real command, to be killed.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use overdue::pod::{Ended, Pod};
use overdue::roles::Role;
use overdue::roles::shared::Shared;
use overdue_testkit::deployment::Deployment;
use overdue_testkit::log::Line;
use overdue_testkit::pod;
use overdue_testkit::process::Signal;
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::waiting::eventually;
use super::world::{LANES, WAKES_COME_LATE, World, env};

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

    /// This world's settings, for the real command.
    pub fn deployment(&self) -> Deployment {
        Deployment {
            database_url: self.pods_database_url(),
            amqp_urls: vec![self.amqp_url.clone()],
            prefix: String::new(),
            settings: vec![
                ("OVERDUE_MANAGEMENT_URL", env("OVERDUE_MANAGEMENT_URL")),
                ("OVERDUE_LANES", LANES.to_owned()),
                ("OVERDUE_SWEEP_GRACE", WAKES_COME_LATE.1.to_owned()),
            ],
            binary: env!("CARGO_BIN_EXE_overdue").into(),
        }
    }

    /// The real command; `arguments` as on a command line.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.deployment().command(arguments)
    }

    /// Starts `overdue run` as a process of its own.
    pub fn process(&self, arguments: &[&str]) -> Process {
        self.process_of(self.deployment(), &[&["run"], arguments].concat())
    }

    /// The same for other settings, and arguments from the first one on.
    pub fn process_of(&self, deployment: Deployment, arguments: &[&str]) -> Process {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("pod-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        std::fs::create_dir_all(self.logs()).expect("a folder for logs");
        Process(pod::Pod::start(&name, deployment, arguments, &self.logs()).expect("started"))
    }

    /// Where the logs of its processes are; a test that fails leaves them.
    pub fn logs(&self) -> PathBuf {
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(&self.name)
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
pub struct Process(pod::Pod);

impl Deref for Process {
    type Target = pod::Pod;

    fn deref(&self) -> &pod::Pod {
        &self.0
    }
}

impl Process {
    /// What it has logged so far.
    pub fn text(&self) -> String {
        std::fs::read_to_string(&self.log).expect("a log")
    }

    /// Waits until it has reported this event.
    pub async fn reports(&self, event: &str) {
        eventually(event, async || self.reported(event) > 0).await;
    }

    /// Waits until it has reported this event with such values.
    pub async fn reports_with(&self, event: &str, values: impl Fn(&Line) -> bool) {
        let such = |line: &Line| line.is(event) && values(line);
        eventually(event, async || self.lines().iter().any(such)).await;
    }

    /// Whether it panicked, or a session broke over a message. Sessions also break for other reasons, such as a slow database.
    pub fn broke_over_what_it_read(&self) -> bool {
        let over_what_it_read =
            |error: &str| error.starts_with("taking ") || error.starts_with("a task ended");
        self.lines().iter().any(|line| line.is("defect") || line.text("error").is_some_and(over_what_it_read))
    }

    /// The most memory that it has had, in KiB.
    pub async fn peak_memory(&self) -> u64 {
        self.kib("VmHWM").await.expect("it runs")
    }

    /// How many of its threads have this name.
    pub async fn threads(&self, name: &str) -> usize {
        let pid = self.pid().await.expect("it runs");
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
        let named =
            threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("comm")).ok());
        named.filter(|named| named.trim() == name).count()
    }

    /// SIGKILL.
    pub async fn kill(&self) {
        self.0.kill().await.expect("killed");
    }

    /// Sends a signal.
    pub async fn send(&self, signal: Signal) {
        self.signal(signal).await.expect("sent");
    }

    /// Exit code once it has ended.
    pub async fn end(&self) -> i32 {
        let ended = self.ended(Duration::from_secs(120)).await;
        let code = ended.unwrap_or_else(|error| panic!("{error}: {}", self.text()));
        code.expect("it ran")
    }

    /// Asks it to stop, and checks that it does so with nothing left behind.
    pub async fn stopped(&self) {
        self.send(Signal::TERM).await;
        assert_eq!(self.end().await, 0, "{}", self.text());
    }
}

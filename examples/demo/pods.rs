//! The pods: two `overdue run` that share the work, as child processes.

use std::fs;
use std::path::Path;
use std::time::Duration;

use overdue_testkit::broker::Broker;
use overdue_testkit::pod::{PATIENCE, Pod};
use overdue_testkit::process::Signal;
use tokio::time::{Instant, sleep};

use crate::keep;
use crate::stage::Stage;
use crate::{During, Result};

const HOW_MANY: u32 = 2;
/// The folder of the pods' logs and of the files that KEEP=1 needs.
pub const FOLDER: &str = "target/demo";

/// The running pods. Dropping this kills them: the demo leaves nothing behind, except on request.
#[derive(Debug, Default)]
pub struct Pods(Vec<Pod>);

/// What a pod's log says about its work, and how the pod ended.
#[derive(Clone, Debug)]
pub struct Ending {
    pub closed: u64,
    /// Of these, orders that the sweep closed.
    pub swept: u64,
    /// "exit code 0", "still runs", …
    pub state: String,
    /// Whether that is how a pod should end.
    pub clean: bool,
}

impl Pods {
    /// Starts the pods, and returns when each consumes messages.
    pub async fn start(&mut self, stage: &Stage, broker: &Broker) -> Result<()> {
        let folder = Path::new(FOLDER);
        fs::create_dir_all(folder).during(FOLDER)?;
        for n in 1..=HOW_MANY {
            let name = format!("pod-{n}");
            let _ = fs::remove_file(folder.join(format!("{name}.log"))); // an earlier demo's
            self.0.push(Pod::start(&name, stage.deployment()?, &["run"], folder)?);
        }
        let pids = self.pids().await;
        keep::remember(&pids)?;
        self.await_consumers(broker).await?;
        let logs: Vec<_> = self.0.iter().map(|pod| pod.log.display().to_string()).collect();
        eprintln!("demo: pods {} run; their logs: {}", pids.join(" and "), logs.join(", "));
        Ok(())
    }

    async fn await_consumers(&self, broker: &Broker) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        for queue in ["order.delay.queue", "order.process.queue"] {
            while broker.consumers(queue).await? < HOW_MANY {
                self.check().await?;
                if Instant::now() > deadline {
                    return Err(
                        format!("the pods do not consume from {queue}; their logs are in {FOLDER}").into()
                    );
                }
                sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(())
    }

    /// Fails when a pod has ended by itself or has panicked.
    pub async fn check(&self) -> Result<()> {
        for pod in &self.0 {
            pod.check().await?;
        }
        Ok(())
    }

    /// Asks every pod to drain, and waits for it.
    pub async fn stop(&self) -> Vec<Ending> {
        for pod in &self.0 {
            if let Err(error) = pod.signal(Signal::TERM).await {
                eprintln!("demo: {error}");
            }
        }
        let mut endings = Vec::new();
        for pod in &self.0 {
            let (state, clean) = match pod.ended(PATIENCE).await {
                Ok(code) => (format!("exit code {}", code.unwrap_or(-1)), code == Some(0)),
                Err(error) => (error.to_string(), false),
            };
            endings.push(Ending::read(pod, state, clean));
        }
        keep::forget();
        endings
    }

    /// What the pods have done so far, for KEEP=1. They log every ten seconds, so this waits until they report `closed` in sum.
    pub async fn so_far(&self, closed: usize) -> Vec<Ending> {
        let deadline = Instant::now() + Duration::from_secs(11);
        loop {
            let endings: Vec<_> =
                self.0.iter().map(|pod| Ending::read(pod, "still runs".into(), true)).collect();
            if endings.iter().map(|ending| ending.closed).sum::<u64>() >= closed as u64
                || Instant::now() > deadline
            {
                return endings;
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// The process ids.
    pub async fn pids(&self) -> Vec<String> {
        let mut pids = Vec::new();
        for pod in &self.0 {
            pids.extend(pod.pid().await.map(|pid| pid.to_string()));
        }
        pids
    }

    /// Lets the pods run after the demo.
    pub fn leave_running(self) {
        self.0.into_iter().for_each(Pod::leave_running);
    }
}

impl Ending {
    fn read(pod: &Pod, state: String, clean: bool) -> Self {
        Self { closed: pod.count("closed"), swept: pod.count("swept"), state, clean }
    }
}

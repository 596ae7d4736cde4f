//! Processor time of PostgreSQL and RabbitMQ, where they run on this machine.

use std::fs::read_to_string;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::{Instant, sleep};

use super::BenchError;
use super::process::Ticks;
use super::sandbox::Sandbox;
use crate::broker::management::Management;

/// The servers' processes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Servers {
    postgres: u32,
    broker: u32,
}

#[derive(Deserialize)]
struct Node {
    os_pid: Option<String>,
}

/// For so long after it has started, a node does not say which process it is.
const UNTOLD: Duration = Duration::from_secs(15);

impl Servers {
    /// The servers of this sandbox; `None` if one of them cannot be seen from here, as in a container or on another machine.
    pub async fn find(sandbox: &Sandbox) -> Result<Option<Self>, BenchError> {
        let session =
            sandbox.number("asking for a session's process", "SELECT pg_backend_pid()::bigint").await?;
        let Some(broker) = broker(sandbox).await? else { return Ok(None) };
        let Ok(session) = u32::try_from(session) else { return Ok(None) };
        // A number in another namespace names another process here.
        let server = if is(session, "postgres") { parent(session) } else { None };
        let postgres = server.filter(|server| is(*server, "postgres"));
        Ok(postgres.filter(|_| is(broker, "beam")).map(|postgres| Self { postgres, broker }))
    }

    /// Processor seconds of PostgreSQL and RabbitMQ so far, of sessions that have ended too.
    pub fn cpu_seconds(self) -> [f64; 2] {
        [cpu_seconds(self.postgres), cpu_seconds(self.broker)]
    }
}

/// The broker's process; `None` if it does not say, or is a cluster.
async fn broker(sandbox: &Sandbox) -> Result<Option<u32>, BenchError> {
    let began = Instant::now();
    loop {
        let management = Management::new(&sandbox.config);
        let nodes =
            tokio::task::spawn_blocking(move || management.get::<Vec<Node>>("nodes", "columns=os_pid"));
        let nodes = nodes.await.map_err(std::io::Error::other)?.unwrap_or_default();
        match nodes.as_slice() {
            [Node { os_pid: Some(process) }] => return Ok(process.parse().ok()),
            [] | [Node { os_pid: None }] if began.elapsed() < UNTOLD => sleep(Duration::from_secs(1)).await,
            _ => return Ok(None),
        }
    }
}

/// Whether a process's name begins so.
fn is(process: u32, name: &str) -> bool {
    read_to_string(format!("/proc/{process}/comm")).is_ok_and(|comm| comm.starts_with(name))
}

fn parent(process: u32) -> Option<u32> {
    let status = read_to_string(format!("/proc/{process}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())
}

/// Of a process, its children, and those of them that have ended.
fn cpu_seconds(process: u32) -> f64 {
    let read = |file: &str| read_to_string(format!("/proc/{process}/{file}")).unwrap_or_default();
    let children = read(&format!("task/{process}/children"));
    let children = children.split_whitespace().filter_map(|child| child.parse().ok());
    Ticks::read(&read("stat")).with_ended_children + children.map(cpu_seconds).sum::<f64>()
}

//! PostgreSQL and RabbitMQ of the trial's own: on loopback, on free ports, as an unprivileged user, with fresh data.

mod account;
pub mod pooler;
pub mod postgres;
pub mod rabbitmq;

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::sync::{Mutex, OnceCell};

use crate::proc::processor_seconds;

pub use account::Account;
pub use pooler::Pooler;
pub use postgres::Postgres;
pub use rabbitmq::RabbitMq;

/// Both servers. Whoever does something to one of them holds its lock until it works again.
#[derive(Debug)]
pub struct Servers {
    /// The database.
    pub postgres: Mutex<Postgres>,
    /// The broker.
    pub rabbit: Mutex<RabbitMq>,
    /// What pods use instead of the database itself.
    pub pooler: OnceCell<Pooler>,
    /// The broker's version.
    pub version: String,
    /// Logs and data.
    pub folder: PathBuf,
}

impl Servers {
    /// Starts them side by side.
    pub async fn start(folder: PathBuf, nodes: usize) -> Result<Arc<Self>> {
        let account = Account::unprivileged()?;
        let (postgres, rabbit) = tokio::try_join!(
            Postgres::new(folder.join("postgres"), account),
            RabbitMq::new(folder.join("rabbitmq"), account, nodes),
        )?;
        let version = rabbit.version();
        let (postgres, rabbit) = (Mutex::new(postgres), Mutex::new(rabbit));
        Ok(Arc::new(Self { postgres, rabbit, pooler: OnceCell::new(), version, folder }))
    }

    /// From now on pods use a pooler in this mode.
    pub async fn pool(&self, mode: &str) -> Result<()> {
        let (folder, port) = (self.folder.join("pooler"), self.postgres.lock().await.port());
        let pooler = Pooler::new(folder, Account::unprivileged()?, mode, port).await?;
        self.pooler.set(pooler).context("there is a pooler already")
    }

    /// Processor time of both, with all their processes.
    pub async fn processor_seconds(&self) -> Result<f64> {
        let postgres = self.postgres.lock().await.pid()?;
        let rabbit = self.rabbit.lock().await.pid(0)?;
        Ok(processor_seconds(postgres) + processor_seconds(rabbit))
    }

    /// Both run and are awake, whatever was done to them.
    pub async fn heal(&self) -> Result<()> {
        let mut postgres = self.postgres.lock().await;
        postgres.thaw()?;
        if !postgres.runs() {
            postgres.start().await?;
        }
        drop(postgres);
        let mut rabbit = self.rabbit.lock().await;
        for node in 0..rabbit.nodes() {
            rabbit.thaw(node)?;
            if !rabbit.runs(node) {
                rabbit.start(node).await?;
            }
        }
        Ok(())
    }
}

/// The project's folder.
pub fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// The newest of several installed versions: `parent/<prefix><version>`.
fn newest(parent: &str, prefix: &str) -> Option<PathBuf> {
    let version = |path: &Path| -> Option<Vec<u32>> {
        let name = path.file_name()?.to_str()?.strip_prefix(prefix)?;
        name.split('.').map(|part| part.parse().ok()).collect()
    };
    let entries = std::fs::read_dir(parent).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    entries.filter_map(|path| Some((version(&path)?, path))).max().map(|(_, path)| path)
}

/// A port that nobody listens on, below the range from which outgoing connections take theirs.
pub fn free_port() -> Result<u16> {
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let mut ports = std::iter::repeat_with(|| rand::random_range(20_000..32_000u16));
    ports.by_ref().take(1_000).find(free).context("no free port")
}

/// A folder for servers and logs, emptied. In `target/`, or in the temporary folder where the unprivileged user cannot
/// reach the project (a clone in a private home).
pub fn workshop(name: &str) -> Result<PathBuf> {
    let reachable = project().ancestors().all(|folder| {
        std::fs::metadata(folder).is_ok_and(|metadata| metadata.permissions().mode() & 0o001 != 0)
    });
    let parent = if reachable || !rustix::process::geteuid().is_root() {
        project().join("target/trials")
    } else {
        std::env::temp_dir().join("overdue-trials")
    };
    let folder = parent.join(name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("emptying {}", folder.display()))?;
    }
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    Ok(folder)
}

//! PostgreSQL and RabbitMQ of the trial's own: on loopback, on free ports, as an unprivileged user, with fresh data.

mod account;
pub mod postgres;
pub mod rabbitmq;

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub use account::Account;
pub use postgres::Postgres;
pub use rabbitmq::RabbitMq;

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

//! A PgBouncer of the trial's own, in front of its PostgreSQL.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use overdue_testkit::process::Process;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::account::Account;
use super::free_port;
use super::postgres::PASSWORD;

/// The pooler; it ends with the trial.
#[derive(Debug)]
pub struct Pooler {
    port: u16,
    _process: Process,
}

impl Pooler {
    /// Starts it in this mode (`session` or `transaction`). All else is as PgBouncer has it by default.
    pub async fn new(folder: PathBuf, account: Account, mode: &str, server: u16) -> Result<Self> {
        let program = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"].map(Path::new);
        let program = program.into_iter().find(|path| path.exists()).context("PgBouncer is not installed")?;
        let folder = account.folder(folder)?;
        let port = free_port()?;
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={server}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = md5\nauth_file = users\npool_mode = {mode}\n"
        );
        std::fs::write(folder.join("ini"), settings)?;
        std::fs::write(folder.join("users"), format!("\"trial\" \"{PASSWORD}\"\n"))?;
        let mut command = account.command(program, &folder);
        let process = Process::start("PgBouncer", command.arg("ini"), &folder.join("log"))?;
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            anyhow::ensure!(Instant::now() < deadline, "PgBouncer does not listen");
            sleep(Duration::from_millis(30)).await;
        }
        Ok(Self { port, _process: process })
    }

    /// Where a database is, through this pooler.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://trial:{PASSWORD}@127.0.0.1:{}/{database}", self.port)
    }
}

//! A private PostgreSQL that can be shut down at once, frozen, and started again.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use overdue_testkit::process::{Process, Signal, run};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::time::{Instant, sleep, timeout};

use super::account::Account;
use super::{free_port, newest};

/// Of the user `trial`.
pub const PASSWORD: &str = "trial";

/// The server; its data outlives its process, not the trial.
#[derive(Debug)]
pub struct Postgres {
    folder: PathBuf,
    bin: PathBuf,
    account: Account,
    port: u16,
    process: Option<Process>,
}

impl Postgres {
    /// Makes an empty data folder and starts.
    pub async fn new(folder: PathBuf, account: Account) -> Result<Self> {
        let bin = newest("/usr/lib/postgresql", "")
            .map(|version| version.join("bin"))
            .context("PostgreSQL is not installed")?;
        let folder = account.folder(folder)?;
        let password = folder.join("password");
        std::fs::write(&password, PASSWORD)?;
        account.own(&password)?;
        // In clear, on loopback: SCRAM takes a tenth of a second in a debug build, for each connection after each fault.
        let mut initdb = account.command(&bin.join("initdb"), &folder);
        initdb.args(["--no-sync", "-A", "password", "-U", "trial", "-E", "UTF8", "-D", "data"]);
        run(initdb.args(["--pwfile", "password"]), Duration::from_mins(1)).await?;
        let mut server = Self { folder, bin, account, port: free_port()?, process: None };
        server.start().await?;
        Ok(server)
    }

    /// Where a database is.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://trial:{PASSWORD}@127.0.0.1:{}/{database}", self.port)
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts it, and returns when it answers.
    pub async fn start(&mut self) -> Result<()> {
        // After a kill the lock file stays, and its pid may be somebody else's by now.
        let _ = std::fs::remove_file(self.folder.join("data/postmaster.pid"));
        let port = format!("port={}", self.port);
        let mut command = self.account.command(&self.bin.join("postgres"), &self.folder);
        command.args(["-D", "data", "-c", "listen_addresses=127.0.0.1", "-c", &port]);
        command.args(["-c", "unix_socket_directories=", "-c", "max_connections=200"]);
        command.args(["-c", "shared_buffers=128MB", "-c", "max_wal_size=2GB"]);
        // So that the delay of a slow disk is everybody's.
        command.args(["-c", "commit_siblings=0"]);
        self.process = Some(Process::start("PostgreSQL", &mut command, &self.folder.join("log"))?);
        let deadline = Instant::now() + Duration::from_mins(1);
        while let Err(error) = self.answers().await {
            anyhow::ensure!(Instant::now() < deadline, "PostgreSQL does not answer: {error}");
            sleep(Duration::from_millis(30)).await;
        }
        Ok(())
    }

    async fn answers(&self) -> Result<()> {
        let connection =
            timeout(Duration::from_secs(2), PgConnection::connect(&self.url("postgres"))).await??;
        connection.close().await?;
        Ok(())
    }

    /// Immediate shutdown: nothing is written, nobody is told; the next start recovers from the log.
    pub async fn kill(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        process.signal(Signal::QUIT)?;
        process.ended(Duration::from_secs(20)).await?;
        Ok(())
    }

    /// Every process of it stops in its tracks, as when its disk hangs.
    pub fn freeze(&self) -> Result<()> {
        self.signal_tree(Signal::STOP)
    }

    /// Goes on.
    pub fn thaw(&self) -> Result<()> {
        self.signal_tree(Signal::CONT)
    }

    // Its workers are in sessions of their own, so its process group is not all of it.
    fn signal_tree(&self, signal: Signal) -> Result<()> {
        let Some(process) = &self.process else { return Ok(()) };
        let pid = process.pid()?;
        process.signal(signal)?;
        let path = format!("/proc/{0}/task/{0}/children", pid.as_raw_nonzero());
        let children = std::fs::read_to_string(path).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            if let Some(pid) = rustix::process::Pid::from_raw(child) {
                let _ = rustix::process::kill_process(pid, signal);
            }
        }
        Ok(())
    }

    /// From now on each commit waits before it is written, as for a slow disk; or no longer.
    pub async fn slow_down(&self, slow: bool) -> Result<()> {
        let mut connection = PgConnection::connect(&self.url("postgres")).await?;
        // In microseconds, and as long as PostgreSQL allows (a tenth of a second).
        let delay = if slow { "100000" } else { "0" };
        connection.execute(AssertSqlSafe(format!("ALTER SYSTEM SET commit_delay = {delay}"))).await?;
        connection.execute("SELECT pg_reload_conf()").await?;
        connection.close().await?;
        Ok(())
    }

    /// Its first process.
    pub fn pid(&self) -> Result<i32> {
        Ok(self.process.as_ref().context("PostgreSQL does not run")?.pid()?.as_raw_nonzero().get())
    }

    /// Whether it runs.
    pub fn runs(&self) -> bool {
        self.process.is_some()
    }
}

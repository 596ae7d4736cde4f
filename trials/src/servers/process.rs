//! A process of ours that can be killed, frozen and started again; it ends with the trial, however that ends.

use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// A running process, with a log.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Starts it, in a process group of its own: Ctrl-C at the terminal is for the trial, which then ends its processes.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let file = appending(log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.process_group(0).kill_on_drop(true).spawn();
        Ok(Self { name: name.to_owned(), child: child.with_context(|| format!("starting {name}"))? })
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(self.pid()?, signal).with_context(|| format!("{signal:?} to {}", self.name))
    }

    /// Sends a signal to it and to all processes that it has started.
    pub fn signal_all(&self, signal: Signal) -> Result<()> {
        kill_process_group(self.pid()?, signal).with_context(|| format!("{signal:?} to all of {}", self.name))
    }

    /// Waits for its end; after `patience` it is an error, and the process is killed.
    pub async fn ended(&mut self, patience: Duration) -> Result<ExitStatus> {
        let Ok(status) = timeout(patience, self.child.wait()).await else {
            self.child.kill().await?;
            anyhow::bail!("{} did not end within {patience:?}", self.name);
        };
        Ok(status?)
    }

    /// How it ended, if it has.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Its process id.
    pub fn pid(&self) -> Result<Pid> {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        pid.with_context(|| format!("{} has ended", self.name))
    }

    /// Resident memory in KiB, or 0 when it has ended.
    pub fn resident_kib(&self) -> u64 {
        let Some(pid) = self.child.id() else { return 0 };
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A frozen process dies of SIGKILL, too; its children go with it.
        let _ = self.signal_all(Signal::KILL);
    }
}

/// Runs a command to its end and returns what it printed; an error shows what it said.
pub async fn run(command: &mut Command, patience: Duration) -> Result<String> {
    let shown = command.as_std().get_program().display().to_string();
    let arguments: Vec<_> = command.as_std().get_args().map(|a| a.to_string_lossy().into_owned()).collect();
    let output = timeout(patience, command.stdin(Stdio::null()).kill_on_drop(true).output()).await;
    let output =
        output.with_context(|| format!("{shown} {}: no end after {patience:?}", arguments.join(" ")))??;
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{shown} {}: {}\n{out}{error}", arguments.join(" "), output.status);
    Ok(out.into_owned())
}

fn appending(log: &Path) -> Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(log);
    file.with_context(|| format!("opening {}", log.display()))
}

/// Who the servers run as: PostgreSQL refuses to run as root.
#[derive(Clone, Copy, Debug)]
pub struct Account(Option<(u32, u32)>);

impl Account {
    /// `nobody` when we are root, else ourselves.
    pub fn unprivileged() -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self(None));
        }
        let users = std::fs::read_to_string("/etc/passwd").context("/etc/passwd")?;
        let fields = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let nobody = fields.into_iter().find(|fields| fields[0] == "nobody").context("no user `nobody`")?;
        Ok(Self(Some((nobody[2].parse()?, nobody[3].parse()?))))
    }

    /// A command with a clean environment, run as this account.
    pub fn command(self, program: &Path, folder: &Path) -> Command {
        let mut command = std::process::Command::new(program);
        command.current_dir(folder).env_clear().env("LANG", "C.UTF-8").env("LC_ALL", "C.UTF-8");
        if let Self(Some((user, group))) = self {
            command.uid(user).gid(group);
        }
        command.into()
    }

    /// A folder that this account may write to.
    pub fn folder(self, path: PathBuf) -> Result<PathBuf> {
        std::fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        self.own(&path)?;
        Ok(path)
    }

    /// Gives it a file or folder.
    pub fn own(self, path: &Path) -> Result<()> {
        let Self(Some((user, group))) = self else { return Ok(()) };
        std::os::unix::fs::chown(path, Some(user), Some(group)).with_context(|| path.display().to_string())
    }
}

//! A process that can be killed, frozen and started again; it ends with whoever started it, however that ends.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, kill_process, kill_process_group};
use tokio::process::{Child, Command};
use tokio::time::timeout;

pub use rustix::process::Signal;

/// A running process, with a log.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Starts it, in a process group of its own: Ctrl-C at the terminal is for its parent, which then ends its processes.
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

    /// Sends a signal to the process and to all that it has started.
    pub fn signal_all(&self, signal: Signal) -> Result<()> {
        kill_process_group(self.pid()?, signal).with_context(|| format!("{signal:?} to all of {}", self.name))
    }

    /// Waits for the process to end. After `patience` it is killed.
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

    /// The process id.
    pub fn pid(&self) -> Result<Pid> {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        pid.with_context(|| format!("{} has ended", self.name))
    }

    /// See [`kib`].
    #[must_use]
    pub fn kib(&self, size: &str) -> Option<u64> {
        kib(&self.child.id()?.to_string(), size)
    }

    /// Leaves it running when this value and its parent are gone.
    pub fn leave_running(self) {
        // Neither of the two that would kill it is dropped.
        std::mem::forget(self);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A frozen process dies of SIGKILL, too; its children go with it.
        let _ = self.signal_all(Signal::KILL);
    }
}

/// A size in KiB of a process (`self`, or a process id), such as `VmRSS` or `VmHWM`; none when it has ended.
#[must_use]
pub fn kib(process: &str, size: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(size)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Runs a command to its end and returns what it printed.
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

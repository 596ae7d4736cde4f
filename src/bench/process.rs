//! A pod under measurement: a process of its own, so that its memory and processor time are separate from the bench's.

use std::path::Path;
use std::process::Stdio;

use tokio::process::{Child, Command};

use crate::config::settings::{Raw, SETTINGS};
use crate::stats::Summary;

/// A running pod.
pub(super) struct PodProcess {
    child: Child,
}

/// What a pod has used so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Footprint {
    /// Peak resident memory.
    pub peak_memory_mib: f64,
    pub cpu_seconds: f64,
}

impl PodProcess {
    /// Starts `overdue run` with these settings; its log is appended to the file, or discarded without one.
    pub fn start(raw: &Raw, log: Option<&Path>) -> std::io::Result<Self> {
        let stderr = match log {
            Some(path) => std::fs::OpenOptions::new().create(true).append(true).open(path)?.into(),
            None => Stdio::null(),
        };
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--json", "run"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
        command.kill_on_drop(true);
        for setting in SETTINGS {
            if let Ok(value) = raw.text(setting.name) {
                // In the environment: every user of the machine can read a command line.
                command.env(setting.env, value);
            }
            if let Some(variable) = setting.file_env() {
                command.env_remove(variable); // the value is above, and both would be one too many
            }
        }
        Ok(Self { child: command.spawn()? })
    }

    /// Memory and processor time so far, from Linux's /proc; zero on other systems.
    pub fn footprint(&self) -> Footprint {
        let read = |file: &str| {
            self.child
                .id()
                .and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok())
                .unwrap_or_default()
        };
        let peak = read("status").lines().find_map(|line| {
            line.strip_prefix("VmHWM:")?.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()
        });
        let cpu_seconds = processor_seconds(&read("stat"));
        Footprint { peak_memory_mib: peak.unwrap_or_default() / 1024.0, cpu_seconds }
    }

    /// Stops the pod with SIGTERM, which drains it; returns its counts.
    pub async fn stop(self) -> std::io::Result<Summary> {
        if let Some(pid) = self.child.id() {
            Command::new("kill").arg(pid.to_string()).status().await?;
        }
        let output = self.child.wait_with_output().await?;
        serde_json::from_slice(&output.stdout).map_err(std::io::Error::other)
    }

    pub async fn kill(mut self) -> std::io::Result<()> {
        self.child.kill().await
    }
}

/// Processor time from a process's `stat` file: utime and stime, fields 14 and 15, in hundredths of a second on Linux.
/// Fields are counted from the parenthesis that closes the name, because a name may contain spaces.
pub(super) fn processor_seconds(stat: &str) -> f64 {
    let ticks = stat.rsplit_once(')').map_or(0.0, |(_, fields)| {
        fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum()
    });
    ticks / 100.0
}

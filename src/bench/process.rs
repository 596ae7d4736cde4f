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
        let cpu_seconds = Ticks::read(&read("stat")).own;
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

/// Processor seconds from a process's `stat` file.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ticks {
    pub own: f64,
    pub with_ended_children: f64,
}

impl Ticks {
    /// After the name in parentheses, which may contain spaces, utime, stime, cutime and cstime are the fields 14 to 17, in
    /// hundredths of a second on Linux.
    pub fn read(stat: &str) -> Self {
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
        let ticks: Vec<f64> = fields.skip(11).take(4).filter_map(|field| field.parse().ok()).collect();
        let own = ticks.iter().take(2).sum::<f64>() / 100.0;
        Self { own, with_ended_children: ticks.iter().sum::<f64>() / 100.0 }
    }
}

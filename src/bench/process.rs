//! A pod under measurement: a process of its own, so that its memory and its time can be told from the bench's.

use std::path::Path;
use std::process::Stdio;

use tokio::process::{Child, Command};

use crate::config::settings::{Raw, SETTINGS};
use crate::stats::Summary;

/// A running pod.
pub(super) struct PodProcess {
    child: Child,
}

/// What a pod took until now.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Footprint {
    /// The most memory it ever had resident, in MiB.
    pub peak_memory_mib: f64,
    /// Processor time, in seconds.
    pub cpu_seconds: f64,
}

impl PodProcess {
    /// Starts `overdue run` with these settings; its log goes to the file, or nowhere.
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
                // By the environment: a command line can be read by everybody on the machine.
                command.env(setting.env, value);
            }
        }
        Ok(Self { child: command.spawn()? })
    }

    /// Memory and time so far, as Linux tells them; zero elsewhere.
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

    /// Stops it softly; what it had counted.
    pub async fn stop(self) -> std::io::Result<Summary> {
        if let Some(pid) = self.child.id() {
            Command::new("kill").arg(pid.to_string()).status().await?;
        }
        let output = self.child.wait_with_output().await?;
        serde_json::from_slice(&output.stdout).map_err(std::io::Error::other)
    }

    /// Kills it.
    pub async fn kill(mut self) -> std::io::Result<()> {
        self.child.kill().await
    }
}

/// Processor time by a process's `stat` file. After the name in parentheses: utime and stime are fields 14 and 15, in hundredths
/// of a second on Linux.
pub(super) fn processor_seconds(stat: &str) -> f64 {
    let ticks = stat.rsplit_once(')').map_or(0.0, |(_, fields)| {
        fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum()
    });
    ticks / 100.0
}

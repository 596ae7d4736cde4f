//! One deployment of Overdue: where its servers are, how it is set up, and which build of it runs.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Result;
use tokio::process::Command;

use crate::process::run;

/// What pods and commands of one deployment share.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// The database.
    pub database_url: String,
    /// Every node of the broker.
    pub amqp_urls: Vec<String>,
    /// Before the name of every exchange and queue.
    pub prefix: String,
    /// Other settings: environment variables and their values.
    pub settings: Vec<(&'static str, String)>,
    /// The program.
    pub binary: PathBuf,
}

/// Longest that a command may take.
const PATIENCE: Duration = Duration::from_secs(60);

impl Deployment {
    /// `overdue` with this deployment's settings, and with no others: what the caller's environment sets is removed.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("OVERDUE_") {
                command.env_remove(name);
            }
        }
        command.env_remove("DATABASE_URL_FILE").env_remove("AMQP_URL_FILE");
        command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
        command.env("DATABASE_URL", &self.database_url).env("AMQP_URL", self.amqp_urls.join(","));
        if !self.prefix.is_empty() {
            command.env("OVERDUE_PREFIX", &self.prefix);
        }
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a command to its end and returns what it printed.
    pub async fn overdue(&self, arguments: &[&str]) -> Result<String> {
        run(&mut self.command(arguments), PATIENCE).await
    }
}

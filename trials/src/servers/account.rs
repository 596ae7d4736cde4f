//! Who the servers run as.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tokio::process::Command;

/// An account that is not root, as which PostgreSQL refuses to run.
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

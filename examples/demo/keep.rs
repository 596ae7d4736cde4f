//! KEEP=1: what stays up after the demo, how to look at it, and how the next demo stops it.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use overdue_testkit::pod::PATIENCE;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::addresses::VHOST;
use crate::pods::{FOLDER, Pods};
use crate::stage::{self, Stage};
use crate::{During, Result};

/// The text that says where everything is and how to stop it.
pub async fn how_to_look_around(stage: &Stage, pods: &Pods) -> Result<String> {
    let file = Path::new(FOLDER).join("env");
    let lines = stage.at.environment().map(|(name, value)| format!("export {name}='{value}'\n")).concat();
    // The lines contain passwords, so only the owner may read the file. An existing file would keep its own mode.
    let _ = fs::remove_file(&file);
    let opened = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&file);
    opened.and_then(|mut opened| opened.write_all(lines.as_bytes())).during(file.display())?;
    let overdue = stage::binary()?;
    let overdue = overdue.strip_prefix(std::env::current_dir()?).unwrap_or(&overdue).display();
    let operator = &stage.at.operator;
    Ok(format!(
        "It is still up (vhost {VHOST}):\n  \
         RabbitMQ's management UI   {}   user {}   password {}\n  \
         in a shell                 . {}; {overdue} parked list; psql \"$DATABASE_URL\"\n  \
         to stop the pods           kill {}\n  \
         to stop the services       dev/services stop",
        stage.at.management,
        operator.user,
        operator.password,
        file.display(),
        pods.pids().await.join(" "),
    ))
}

/// The text for a run that leaves nothing up: how to keep it.
pub fn how_to_keep(stage: &Stage) -> String {
    format!(
        "To look at the queues ({}) and the database, leave everything up: make demo KEEP=1",
        stage.at.management
    )
}

/// Records which pods run.
pub fn remember(pids: &[String]) -> Result<()> {
    fs::write(pid_file(), pids.join("\n")).during("recording the pods")
}

/// Removes the record of running pods.
pub fn forget() {
    // The file may not exist, and a stale process id does no harm.
    let _ = fs::remove_file(pid_file());
}

/// Stops the pods that an earlier demo left up with KEEP=1: they would work on the new stage too.
pub async fn stop_left_over() -> Result<()> {
    let pids = fs::read_to_string(pid_file()).unwrap_or_default();
    for pid in pids.lines().filter_map(|line| line.parse().ok()) {
        let deadline = Instant::now() + PATIENCE;
        let mut asked = false;
        // Another process may have this id by now.
        while is_pod(pid).await {
            if !asked {
                eprintln!("demo: stopping pod {pid}, which an earlier demo has left running");
                terminate(pid).await?;
                asked = true;
            }
            if Instant::now() > deadline {
                return Err(format!("pod {pid} of an earlier demo does not stop; try: kill -9 {pid}").into());
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}

async fn is_pod(pid: u32) -> bool {
    // Without /proc (macOS), `ps` is used.
    let look = r#"tr '\0' ' ' <"/proc/$1/cmdline" || ps -o command= -p "$1""#;
    let said = shell(look, pid).output().await.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&said).trim().ends_with("overdue run")
}

async fn terminate(pid: u32) -> Result<()> {
    let status = shell(r#"kill -TERM "$1""#, pid).status().await?;
    if status.success() { Ok(()) } else { Err(format!("cannot send SIGTERM to pod {pid}").into()) }
}

/// A shell command about a process: `kill` is built into every shell, but a program of its own only on some systems.
fn shell(script: &str, pid: u32) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", &pid.to_string()]).stderr(Stdio::null());
    command
}

fn pid_file() -> PathBuf {
    Path::new(FOLDER).join("pods.pid")
}

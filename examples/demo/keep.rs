//! KEEP=1: what stays up after the demo, how to look at it, and how the next demo ends it.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::addresses::VHOST;
use crate::pods::{FOLDER, PATIENCE, Pods, shell, terminate};
use crate::stage::{self, Stage};
use crate::{During, Result};

/// Says where everything is, and how to stop it.
pub fn how_to_look_around(stage: &Stage, pods: &Pods) -> Result<String> {
    let file = Path::new(FOLDER).join("env");
    let lines = stage.at.environment().map(|(name, value)| format!("export {name}='{value}'\n")).concat();
    // They hold passwords: for their owner only. An older file would keep its own mode.
    let _ = fs::remove_file(&file);
    let opened = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&file);
    opened.and_then(|mut opened| opened.write_all(lines.as_bytes())).during(file.display())?;
    let overdue = stage::binary()?;
    let overdue = overdue.strip_prefix(std::env::current_dir()?).unwrap_or(&overdue).display();
    let pids: Vec<_> = pods.pids().iter().map(ToString::to_string).collect();
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
        pids.join(" "),
    ))
}

/// For a run that leaves nothing: how to get one that does.
pub fn how_to_keep(stage: &Stage) -> String {
    format!(
        "To look at the queues ({}) and the database, leave it all up: make demo KEEP=1",
        stage.at.management
    )
}

/// Writes down which pods run.
pub fn remember(pids: &[String]) -> Result<()> {
    fs::write(pid_file(), pids.join("\n")).during("writing down the pods")
}

/// They run no more.
pub fn forget() {
    // It may not be there; and a number that is no pod's any more does no harm.
    let _ = fs::remove_file(pid_file());
}

/// Stops the pods that an earlier demo left with KEEP=1: they would work on the new stage too.
pub async fn stop_left_over() -> Result<()> {
    let pids = fs::read_to_string(pid_file()).unwrap_or_default();
    for pid in pids.lines().filter_map(|line| line.parse().ok()) {
        let deadline = Instant::now() + PATIENCE;
        let mut asked = false;
        // The system may have given the number to somebody else since.
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
    // Without /proc (macOS), ps.
    let look = r#"tr '\0' ' ' <"/proc/$1/cmdline" || ps -o command= -p "$1""#;
    let said = shell(look, pid).output().await.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&said).trim().ends_with("overdue run")
}

fn pid_file() -> PathBuf {
    Path::new(FOLDER).join("pods.pid")
}

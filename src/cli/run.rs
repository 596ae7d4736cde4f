//! `overdue run`: a pod in the foreground, with its log and its signals.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{CliError, Context, log};
use crate::pod::{Ended, Pod};
use crate::roles::Role;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Which parts of the work this pod does
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "relay,intake,close,sweep,watch",
        value_name = "ROLES"
    )]
    roles: Vec<Role>,
}

pub async fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let config = context.config()?;
    let (database, broker) = (config.database_url.clone(), config.amqp_nodes[0].clone());
    let pod = Pod::new(config)?;
    let _log = log::start(context, &pod.shared.stats)?;
    let roles: Vec<_> = Role::ALL.into_iter().filter(|role| args.roles.contains(role)).collect();
    let (soft, hard) = (CancellationToken::new(), CancellationToken::new());
    stop_on_signals(soft.clone(), hard.clone())?;
    tracing::info!(
        event = "starting",
        version = env!("CARGO_PKG_VERSION"),
        pid = std::process::id(),
        roles = args.roles.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        %database,
        %broker,
        "starting"
    );
    if !context.unknown.is_empty() {
        let variables = context.unknown.join(", ");
        tracing::warn!(
            event = "unknown_variables",
            variables,
            "environment variables that begin with OVERDUE_ and are no settings"
        );
    }
    let ended = pod.run(&roles, &soft, &hard).await;
    // For people, the log has it.
    context.out.last_for_scripts(pod.shared.stats.summary());
    match ended {
        Ended::Clean => Ok(()),
        Ended::Cut => Err(CliError::Cut),
        Ended::Failed(role, error) => Err(CliError::Role(role, error)),
    }
}

/// The first signal drains in-flight work, the second stops at once.
fn stop_on_signals(soft: CancellationToken, hard: CancellationToken) -> Result<(), CliError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // SIGHUP: the terminal is gone, or a supervisor wants a new configuration, which is read at start. Ignored under `nohup`.
    let mut hangup = if ignores_hangup() { None } else { Some(signal(SignalKind::hangup())?) };
    tokio::spawn(async move {
        for token in [soft, hard] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = async { hangup.as_mut()?.recv().await }, if hangup.is_some() => {}
            }
            token.cancel();
        }
    });
    Ok(())
}

/// Whether this process was started with SIGHUP ignored. Only Linux shows that; elsewhere it counts as not ignored.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // A mask in hexadecimal; SIGHUP is 1, the lowest bit.
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

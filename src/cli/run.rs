//! `overdue run`: a pod in the foreground, with its log and its signals.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use super::{CliError, Context};
use crate::pod::{Ended, Pod};
use crate::role::Role;

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
    start_log(context)?;
    let roles: Vec<_> = Role::ALL.into_iter().filter(|role| args.roles.contains(role)).collect();
    let (soft, hard) = (CancellationToken::new(), CancellationToken::new());
    stop_on_signals(soft.clone(), hard.clone())?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        pid = std::process::id(),
        roles = args.roles.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        database = %config.database_url,
        broker = %config.amqp_nodes[0],
        "starting"
    );
    let pod = Pod::new(config)?;
    let ended = pod.run(&roles, &soft, &hard).await;
    // People have it in the log.
    context.out.for_scripts(pod.stats.summary());
    match ended {
        Ended::Clean => Ok(()),
        Ended::Cut => Err(CliError::Cut),
        Ended::Failed(role, error) => Err(CliError::Role(role, error)),
    }
}

fn start_log(context: &Context) -> Result<(), CliError> {
    let filter =
        context.raw.parse("log", |text| EnvFilter::try_new(text).map_err(|error| error.to_string()))?;
    let format = context.raw.text("log_format")?;
    // The log goes to standard error: standard output is for results.
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        "text" => log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        "json" => log.json().flatten_event(true).init(),
        other => {
            return Err(context
                .raw
                .wrong("log_format", format!("`{other}` is neither `text` nor `json`"))
                .into());
        }
    }
    Ok(())
}

/// The first signal stops softly, the second at once.
fn stop_on_signals(soft: CancellationToken, hard: CancellationToken) -> Result<(), CliError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        for token in [soft, hard] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            token.cancel();
        }
    });
    Ok(())
}

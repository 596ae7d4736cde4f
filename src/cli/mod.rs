//! The command line: parses it, reads the settings, runs one command, and turns its outcome into an exit code.

mod announce;
mod bench;
mod harmless;
mod lanes;
mod log;
mod order;
mod output;
mod parked;
mod publish;
mod run;
mod sweep;
mod topology;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::broker::BrokerError;
use crate::broker::management::ManagementError;
use crate::clock::DbClock;
use crate::config::Config;
use crate::config::settings::{Raw, SETTINGS, SettingError, dashed, unknown_variables};
use crate::database::{self, Database, DatabaseError};
use crate::orders::ShopError;
use harmless::{harmless_lines, without_logins};
use output::{Output, counted};

/// Closes unpaid orders on time, with RabbitMQ delay lanes and PostgreSQL as the truth.
#[derive(Parser, Debug)]
#[command(name = "overdue", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
struct Cli {
    /// A TOML file with settings; flags and environment take precedence
    #[arg(long, global = true, env = "OVERDUE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON for scripts
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 broker, database or the service failed; 2 wrong usage or setting;
3 the order's state or the selection does not allow it; 4 broker or database differ, or a lane does
not deliver; 5 nothing differs in what could be seen, but not everything could be.
Settings are flags, environment variables or keys of the file, in this order: see `overdue run --help`.";

#[derive(Subcommand, Debug)]
enum Command {
    /// Run a pod: relay, intake, close, sweep and watch, until SIGTERM, SIGINT or SIGHUP
    Run(run::Args),
    /// Create or update the database schema
    Migrate,
    /// Declare, verify or export exchanges, queues and bindings
    #[command(subcommand)]
    Topology(topology::Command),
    /// Compare broker and database with what this version needs
    Verify,
    /// Place, show, pay, cancel or extend an order, as a shop would by SQL
    #[command(subcommand)]
    Order(order::Command),
    /// Publish an order-created message, as an outside service would
    Publish(publish::Args),
    /// Close now what no wake has closed
    Sweep(sweep::Args),
    /// Announce all waiting orders again: after a purge, on a new broker, under a new prefix
    Announce,
    /// Show whether each delay lane delivers, according to its probes
    Lanes,
    /// List, show, retry or discard parked messages
    #[command(subcommand)]
    Parked(parked::Command),
    /// Measure speed and punctuality on the configured broker and database, in a schema and prefix of its own
    Bench(bench::Args),
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error(transparent)]
    Setting(#[from] SettingError),
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Shop(#[from] ShopError),
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error("migrating the database: {}", database::migrating(.0))]
    Migrate(#[from] sqlx::migrate::MigrateError),
    #[error(transparent)]
    Management(#[from] ManagementError),
    #[error(transparent)]
    Bench(#[from] crate::bench::BenchError),
    #[error("{0}")]
    NothingMeant(String),
    #[error("differs from what Overdue needs in {}", counted(*.0, "place"))]
    Differs(usize),
    #[error("{} cannot be seen; nothing differs in what can", counted(*.0, "thing"))]
    CannotTell(usize),
    #[error("{} not deliver", if *.0 == 1 { "1 queue does".to_owned() } else { format!("{} queues do", .0) })]
    Stuck(usize),
    #[error("much slower than it should be: {}; see the goals that were missed", counted(*.0, "workload"))]
    Slow(usize),
    #[error("stopped, but requeued what could not be finished in time")]
    Cut,
    #[error("the {0} role cannot work: {1}")]
    Role(crate::roles::Role, crate::roles::RoleError),
    #[error("{0}")]
    System(#[from] std::io::Error),
}

impl CliError {
    fn code(&self) -> u8 {
        match self {
            Self::Setting(_) | Self::Usage(_) => 2,
            Self::Shop(ShopError::Database(_))
            | Self::Broker(_)
            | Self::Database(_)
            | Self::Migrate(_)
            | Self::Management(_)
            | Self::Bench(_)
            | Self::Slow(_)
            | Self::Cut
            | Self::Role(..)
            | Self::System(_) => 1,
            Self::Shop(_) | Self::NothingMeant(_) => 3,
            Self::Differs(_) | Self::Stuck(_) => 4,
            Self::CannotTell(_) => 5,
        }
    }
}

struct Context {
    raw: Raw,
    /// Environment variables that begin with `OVERDUE_` and are no settings.
    unknown: Vec<String>,
    out: Output,
}

#[must_use]
pub fn main() -> ExitCode {
    let matches = match command().try_get_matches() {
        Ok(matches) => matches,
        // Removing the login also removes the colours.
        Err(error) if error.use_stderr() && error.to_string().contains("://") => {
            log::last_words(&std::io::stderr(), without_logins(error.to_string().trim_end()));
            return ExitCode::from(2);
        }
        Err(error) => error.exit(),
    };
    let outcome =
        Cli::from_arg_matches(&matches).map_err(|error| error.exit()).and_then(|cli| run(cli, &matches));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The error may contain foreign text. Addresses in Overdue's own errors have no password any more.
            let shown = format!("overdue: {error}");
            let shown = if error.code() == 2 { without_logins(&shown) } else { shown };
            log::last_words(&std::io::stderr(), harmless_lines(&shown));
            ExitCode::from(error.code())
        }
    }
}

/// The command line with a flag for every setting, before and after the command. Only the help of `overdue` and of
/// `overdue run` shows these flags: they would bury the other commands' own.
fn command() -> clap::Command {
    with_settings(Cli::command(), true)
}

fn with_settings(command: clap::Command, shown: bool) -> clap::Command {
    let flag = |setting: &'static crate::config::settings::Setting| {
        let default = setting.default.filter(|default| !default.is_empty());
        let default = default.map(|default| format!(" [default: {default}]")).unwrap_or_default();
        Arg::new(setting.name)
            .long(dashed(setting.name))
            .value_name("VALUE")
            .help(format!("{} [env: {}]{default}", setting.help, setting.env))
            .help_heading("Settings")
            .hide_short_help(true)
            .hide(!shown)
    };
    let command = if shown { command } else { command.after_help(SETTINGS_HELP) };
    command.args(SETTINGS.iter().map(flag)).mut_subcommands(|command| {
        let shown = command.get_name() == "run";
        with_settings(command, shown)
    })
}

const SETTINGS_HELP: &str =
    "Settings are flags here too, such as --database-url and --amqp-url: see `overdue run --help`.";

fn run(cli: Cli, matches: &ArgMatches) -> Result<(), CliError> {
    let flag = |name: &str| given(matches, name);
    let env = |name: &str| std::env::var(name).ok();
    let raw = Raw::collect(flag, env, cli.config.as_deref())?;
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let unknown = unknown_variables(names).map_err(SettingError::from)?;
    let context = Context { raw, unknown, out: Output::new(cli.json) };
    // One thread: a pod waits for answers most of the time, and several threads would mostly wake each other.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match cli.command {
            Command::Run(args) => run::run(&context, &args).await,
            Command::Migrate => migrate(&context).await,
            Command::Verify => verify::run(&context).await,
            Command::Topology(command) => topology::run(&context, command).await,
            Command::Order(command) => order::run(&context, command).await,
            Command::Publish(args) => publish::run(&context, args).await,
            Command::Sweep(args) => sweep::run(&context, &args).await,
            Command::Announce => announce::run(&context).await,
            Command::Lanes => lanes::run(&context).await,
            Command::Parked(command) => parked::run(&context, command).await,
            Command::Bench(args) => bench::run(&context, &args).await,
        }
    })
}

/// The value of a flag. If it is given more than once, the innermost subcommand's wins.
fn given(matches: &ArgMatches, name: &str) -> Option<String> {
    let further = matches.subcommand().and_then(|(_, inner)| given(inner, name));
    further.or_else(|| matches.get_one::<String>(name).cloned())
}

impl Context {
    fn config(&self) -> Result<Config, CliError> {
        Ok(Config::from_raw(&self.raw)?)
    }

    /// The configuration, for a command that needs no database.
    fn broker_config(&self) -> Result<Config, CliError> {
        Ok(Config::from_raw(&self.raw.clone().or("database_url", "postgres://localhost/not-needed"))?)
    }

    /// The configuration and a pool, for a command that needs a migrated database and no broker.
    async fn database(&self) -> Result<(Config, Database), CliError> {
        let (config, pool) = self.unchecked_database()?;
        // Without the pool, which would retry for a while and then report only a timeout.
        match database::connect(&config).await {
            Ok(checked) => drop(checked.close().await),
            Err(error) => return Err(database::explained(&pool, error).await.into()),
        }
        database::probe(&pool, &DbClock::default()).await?;
        Ok((config, pool))
    }

    fn unchecked_database(&self) -> Result<(Config, Database), CliError> {
        let config = Config::from_raw(&self.raw.clone().or("amqp_url", "amqp://localhost/not-needed"))?;
        let pool = database::pool(&config)?;
        Ok((config, pool))
    }
}

async fn migrate(context: &Context) -> Result<(), CliError> {
    let (config, pool) = context.unchecked_database()?;
    database::reach(&pool).await?;
    database::migrate_and_say(&database::options(&config)?, &mut |line| {
        log::last_words(&std::io::stderr(), harmless_lines(&format!("overdue: {line}")));
    })
    .await?;
    context.out.done(
        &format!("the schema {} in {} is up to date", config.schema, config.database_url),
        serde_json::json!({"migrated": true, "schema": config.schema}),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_flag_of_a_command_has_the_name_of_a_setting_or_of_another() {
        super::command().debug_assert();
    }
}

//! The command line: parses it, reads the settings, runs one command, and turns its outcome into an exit code.

mod bench;
mod lanes;
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
use sqlx::PgPool;

use crate::broker::BrokerError;
use crate::config::Config;
use crate::database::{self, DatabaseError};
use crate::settings::{Raw, SETTINGS, SettingError, dashed};
use crate::shop::ShopError;
use crate::topology::management::ManagementError;
use output::Output;

/// Closes unpaid orders on time, with RabbitMQ delay lanes and PostgreSQL as the truth.
#[derive(Parser, Debug)]
#[command(name = "overdue", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
struct Cli {
    /// A TOML file with settings; flags and environment win over it
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
    /// Run a pod: relay, intake, close, sweep and watch, until SIGTERM or SIGINT
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
    /// Show whether each delay lane delivers, as the last probe through it told
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
    #[error("migrating the database: {0}; check database_url (DATABASE_URL)")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    #[error(transparent)]
    Management(#[from] ManagementError),
    #[error(transparent)]
    Bench(#[from] crate::bench::BenchError),
    #[error("{0}")]
    NothingMeant(String),
    #[error("differences from what Overdue needs: {0}")]
    Differs(usize),
    #[error("no difference in what could be seen; parts that could not be seen: {0}")]
    CannotTell(usize),
    #[error("{0} queues do not deliver")]
    Stuck(usize),
    #[error("{0} workloads are much slower than they should be: see the goals that were missed")]
    Slow(usize),
    #[error("stopped, but gave back what could not be finished in time")]
    Cut,
    #[error("the {0} role cannot work: {1}")]
    Role(crate::role::Role, crate::role::RoleError),
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

/// What a command works with.
struct Context {
    raw: Raw,
    out: Output,
}

/// Runs the command line.
#[must_use]
pub fn main() -> ExitCode {
    let matches = command().get_matches();
    let outcome =
        Cli::from_arg_matches(&matches).map_err(|error| error.exit()).and_then(|cli| run(cli, &matches));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("overdue: {error}");
            ExitCode::from(error.code())
        }
    }
}

/// The command line with a flag for every setting.
fn command() -> clap::Command {
    let flag = |setting: &'static crate::settings::Setting| {
        let default = setting.default.filter(|default| !default.is_empty());
        let default = default.map(|default| format!(" [default: {default}]")).unwrap_or_default();
        Arg::new(setting.name)
            .long(dashed(setting.name))
            .global(true)
            .value_name("VALUE")
            .help(format!("{} [env: {}]{default}", setting.help, setting.env))
            .help_heading("Settings")
            .hide_short_help(true)
    };
    Cli::command().args(SETTINGS.iter().map(flag))
}

fn run(cli: Cli, matches: &ArgMatches) -> Result<(), CliError> {
    let flag = |name: &str| innermost(matches).get_one::<String>(name).cloned();
    let env = |name: &str| std::env::var(name).ok();
    let raw = Raw::collect(flag, env, cli.config.as_deref())?;
    let context = Context { raw, out: Output::new(cli.json) };
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
            Command::Lanes => lanes::run(&context).await,
            Command::Parked(command) => parked::run(&context, command).await,
            Command::Bench(args) => bench::run(&context, &args).await,
        }
    })
}

/// A global flag's value is with the command after which it stands.
fn innermost(matches: &ArgMatches) -> &ArgMatches {
    matches.subcommand().map_or(matches, |(_, inner)| innermost(inner))
}

impl Context {
    fn config(&self) -> Result<Config, CliError> {
        Ok(Config::from_raw(&self.raw)?)
    }

    /// The configuration of a command that needs no database.
    fn broker_config(&self) -> Result<Config, CliError> {
        Ok(Config::from_raw(&self.raw.clone().or("database_url", "postgres://localhost/not-needed"))?)
    }

    /// The configuration and a pool of a command that needs no broker.
    fn database(&self) -> Result<(Config, PgPool), CliError> {
        let config = Config::from_raw(&self.raw.clone().or("amqp_url", "amqp://localhost/not-needed"))?;
        let pool = database::pool(&config)?;
        Ok((config, pool))
    }
}

async fn migrate(context: &Context) -> Result<(), CliError> {
    let (config, pool) = context.database()?;
    database::migrate(&pool).await?;
    context.out.done(
        &format!("the schema in {} is up to date", config.database_url),
        serde_json::json!({"migrated": true}),
    );
    Ok(())
}

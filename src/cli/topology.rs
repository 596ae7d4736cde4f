//! `overdue topology …`: exchanges, queues and bindings.

use serde_json::json;

use super::output::print;
use super::{CliError, Context};
use crate::broker::management::Management;
use crate::broker::{self, Broker};
use crate::config::Config;
use crate::topology::export::definitions;
use crate::topology::{Names, Topology};

#[derive(clap::Subcommand, Clone, Copy, Debug)]
pub enum Command {
    /// Declare what is missing; changes nothing that exists
    Declare,
    /// Compare the broker with the code; needs the management API
    Verify,
    /// Print a definitions file that RabbitMQ can import
    Export,
}

pub async fn run(context: &Context, command: Command) -> Result<(), CliError> {
    match command {
        Command::Declare => {
            let broker = Broker::new(&context.broker_config()?).declaring(true);
            let connection = broker.connect("topology").await?;
            let created = broker.declare(&connection).await?;
            broker::close(&connection).await;
            let (exchanges, queues) = (broker.topology.exchanges(), broker.topology.queues.len());
            let announce = if created {
                "; queues that hold wakes were missing: if orders wait already, run `overdue announce`"
            } else {
                ""
            };
            let text =
                format!("{} and {queues} queues are declared and bound{announce}", exchanges.join(", "));
            context.out.done(&text, json!({"exchanges": exchanges, "queues": queues, "created": created}));
            Ok(())
        }
        Command::Verify => super::verify::run_broker(context).await,
        Command::Export => {
            let raw = context.raw.clone().or("amqp_url", "amqp://localhost/%2f");
            let config = Config::from_raw(&raw.or("database_url", "postgres://localhost/not-needed"))?;
            let (names, management) = (Names::new(&config.prefix), Management::new(&config));
            let definitions = definitions(&management.vhost, &names, &Topology::new(&names, &config.lanes));
            // JSON even without `--json`: it is a file for the broker.
            print(&format!("{definitions:#}"));
            Ok(())
        }
    }
}

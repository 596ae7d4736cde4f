//! `overdue topology …`: exchanges, queues and bindings.

use serde_json::json;

use super::output::{print, table};
use super::{CliError, Context};
use crate::broker::{self, Broker};
use crate::config::Config;
use crate::topology::export::definitions;
use crate::topology::management::Management;
use crate::topology::verify::verify;
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
            broker.declare(&connection).await?;
            broker::close(&connection).await;
            let (exchanges, queues) = (broker.topology.exchanges(), broker.topology.queues.len());
            let text = format!("{} and {queues} queues are declared and bound", exchanges.join(", "));
            context.out.done(&text, json!({"exchanges": exchanges, "queues": queues}));
            Ok(())
        }
        Command::Verify => {
            let config = context.broker_config()?;
            let (names, management) = (Names::new(&config.prefix), Management::new(&config));
            let topology = Topology::new(&names, &config.lanes);
            let found = tokio::task::spawn_blocking(move || verify(&management, &names, &topology)).await;
            let found = found.map_err(std::io::Error::other)??;
            let text = || {
                if found.is_empty() {
                    return "the broker has exactly what the code wants".to_owned();
                }
                let rows = found.iter().map(|d| vec![d.name.clone(), d.problem.clone(), d.remedy.to_owned()]);
                table(&["name", "problem", "remedy"], &rows.collect::<Vec<_>>())
            };
            context.out.show(text, &found);
            if found.is_empty() { Ok(()) } else { Err(CliError::Differs(found.len())) }
        }
        Command::Export => {
            let raw = context.raw.clone().or("amqp_url", "amqp://localhost/%2f");
            let config = Config::from_raw(&raw.or("database_url", "postgres://localhost/not-needed"))?;
            let (names, management) = (Names::new(&config.prefix), Management::new(&config));
            let definitions = definitions(&management.vhost, &names, &Topology::new(&names, &config.lanes));
            // JSON either way: it is a file for the broker.
            print(&format!("{definitions:#}"));
            Ok(())
        }
    }
}

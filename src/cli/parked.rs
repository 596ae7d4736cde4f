//! `overdue parked …`: what needs a person.

use serde_json::json;

use super::harmless::harmless;
use super::output::{counted, table};
use super::{CliError, Context};
use crate::broker::Broker;
use crate::parked::{Action, Parked, Selection, go_through};

#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// List parked messages with their reasons
    List {
        #[command(flatten)]
        filter: Filter,
        /// At most this many
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// Show one message: reason, properties, body
    Show {
        /// Its id, from `parked list`
        id: String,
    },
    /// Send messages again: one, those that a filter selects, or all
    Retry(Which),
    /// Throw messages away: one, those that a filter selects, or all
    Discard(Which),
}

#[derive(clap::Args, Debug)]
pub struct Filter {
    /// Only messages that name this order
    #[arg(long)]
    order: Option<i64>,
    /// Only messages whose reason contains this text
    #[arg(long)]
    reason: Option<String>,
}

#[derive(clap::Args, Debug)]
#[group(skip)]
pub struct Which {
    /// Ids, from `parked list`
    #[arg(required_unless_present_any = ["order", "reason", "all"])]
    ids: Vec<String>,
    #[command(flatten)]
    filter: Filter,
    /// Every parked message
    #[arg(long, conflicts_with_all = ["ids", "order", "reason"])]
    all: bool,
}

impl Filter {
    fn selection(self, ids: Vec<String>) -> Selection {
        Selection { ids, order_id: self.order, reason: self.reason }
    }
}

pub async fn run(context: &Context, command: Command) -> Result<(), CliError> {
    // A user who looks at parked messages need not be allowed to declare queues.
    let broker = Broker::new(&context.broker_config()?).declaring(false);
    match command {
        Command::List { filter, limit } => {
            let found = act(context, &broker, &filter.selection(Vec::new()), Action::Look, limit).await?;
            context.out.show(|| list(&found, limit), &found);
        }
        Command::Show { id } => {
            let selection = Selection { ids: vec![id.clone()], ..Selection::default() };
            let found = act(context, &broker, &selection, Action::Look, 1).await?;
            let Some(parked) = found.first() else {
                return Err(CliError::NothingMeant(format!(
                    "no parked message has the id {id}; `overdue parked list` shows them"
                )));
            };
            context.out.show(|| detail(parked), parked);
        }
        Command::Retry(which) => change(context, &broker, which, Action::Retry, "sent again").await?,
        Command::Discard(which) => change(context, &broker, which, Action::Discard, "discarded").await?,
    }
    Ok(())
}

async fn change(
    context: &Context,
    broker: &Broker,
    which: Which,
    action: Action,
    done: &'static str,
) -> Result<(), CliError> {
    // A selection that matches nothing is an error; `--all` with nothing parked is not.
    let asked = !which.all;
    let found = act(context, broker, &which.filter.selection(which.ids), action, usize::MAX).await?;
    if asked && found.is_empty() {
        return Err(CliError::NothingMeant(
            "no parked message matches; `overdue parked list` shows them".into(),
        ));
    }
    let ids: Vec<_> = found.iter().map(|parked| &parked.id).collect();
    context.out.done(
        &format!("{} {done}", counted(found.len(), "message")),
        json!({"messages": found.len(), "ids": ids}),
    );
    Ok(())
}

async fn act(
    context: &Context,
    broker: &Broker,
    selection: &Selection,
    action: Action,
    most: usize,
) -> Result<Vec<Parked>, CliError> {
    let bar = context.out.progress("parked messages");
    let found = go_through(broker, selection, action, most, |n, all| {
        bar.set_length(all);
        bar.set_position(n);
    });
    let found = found.await;
    bar.finish_and_clear();
    Ok(found?)
}

fn list(found: &[Parked], limit: usize) -> String {
    if found.is_empty() {
        return "nothing is parked".to_owned();
    }
    let row = |parked: &Parked| {
        let orders: Vec<_> = parked.order_ids.iter().take(3).map(ToString::to_string).collect();
        let orders = if orders.is_empty() { "?".to_owned() } else { orders.join(",") };
        vec![parked.id.clone(), parked.parked_at.clone(), orders, parked.reason.clone()]
    };
    let rows: Vec<_> = found.iter().map(row).collect();
    let more =
        if found.len() == limit { format!("\n(at most {limit} are shown: --limit)") } else { String::new() };
    table(&["id", "parked at", "orders", "reason"], &rows) + &more
}

fn detail(parked: &Parked) -> String {
    let mut rows = vec![
        vec!["id".to_owned(), parked.id.clone()],
        vec!["reason".to_owned(), parked.reason.clone()],
        vec!["parked at".to_owned(), parked.parked_at.clone()],
        vec!["retry goes to".to_owned(), parked.retry_key.clone()],
        vec!["bytes".to_owned(), parked.bytes.to_string()],
    ];
    rows.extend(parked.properties.iter().map(|(name, value)| vec![name.clone(), value.clone()]));
    let body: Vec<_> = parked.body.lines().map(harmless).collect();
    format!("{}\n\n{}", table(&["", ""], &rows).trim_start(), body.join("\n"))
}

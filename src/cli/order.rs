//! `overdue order …`: what a shop does, for trying things out.

use std::str::FromStr;
use std::time::Duration;

use serde_json::json;

use super::output::{counted, table};
use super::{CliError, Context};
use crate::closing::{Remembered, remembered};
use crate::orders::{self, Item, Order};

#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// Place an order, taking its items from stock
    Place {
        /// The buyer
        #[arg(long)]
        user: i64,
        /// How long the order can be paid
        #[arg(long, value_parser = humantime::parse_duration, default_value = "15m")]
        window: Duration,
        /// A product and its quantity; repeat for several products
        #[arg(long = "item", value_name = "PRODUCT:QUANTITY")]
        items: Vec<Item>,
    },
    /// Show an order with its items and, once closed, its lateness
    Show {
        /// The order's number
        order_id: i64,
    },
    /// Mark a PENDING order as paid
    Pay {
        /// The order's number
        order_id: i64,
    },
    /// Cancel a PENDING order and give its stock back
    Cancel {
        /// The order's number
        order_id: i64,
    },
    /// Give a PENDING order more time
    Extend {
        /// The order's number
        order_id: i64,
        /// How much more time
        #[arg(long, value_parser = humantime::parse_duration)]
        by: Duration,
    },
}

impl FromStr for Item {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once(':').and_then(|(product, quantity)| {
            Some(Self { product_id: product.parse().ok()?, quantity: quantity.parse().ok()? })
        });
        numbers
            .filter(|item| item.product_id > 0 && item.quantity > 0)
            .ok_or_else(|| "write PRODUCT:QUANTITY, both whole numbers from 1 on, such as 7:2".to_owned())
    }
}

pub async fn run(context: &Context, command: Command) -> Result<(), CliError> {
    let (_, pool) = context.database().await?;
    let order_id = match command {
        Command::Place { user, window, mut items } => {
            items.sort_unstable_by_key(|item| item.product_id);
            if let Some([item, _]) = items.array_windows().find(|[a, b]| a.product_id == b.product_id) {
                return Err(CliError::Usage(format!(
                    "--item names product {} twice: add the quantities",
                    item.product_id
                )));
            }
            orders::place(&pool, user, window, items).await?
        }
        Command::Pay { order_id } => orders::pay(&pool, order_id).await.map(|()| order_id)?,
        Command::Cancel { order_id } => orders::cancel(&pool, order_id).await.map(|()| order_id)?,
        Command::Extend { order_id, by } => orders::extend(&pool, order_id, by).await.map(|()| order_id)?,
        Command::Show { order_id } => order_id,
    };
    let order = orders::show(&pool, order_id).await?;
    // A shop's role may not read this table; the order is shown all the same.
    let failures = remembered(&pool, order_id).await;
    let failures = failures.map_err(|error| error.to_string());
    let mut shown = json!(order);
    shown["closing_failures"] = match &failures {
        Ok(failures) => json!(failures),
        Err(why) => json!({ "cannot_tell": why }),
    };
    context.out.show(|| text(&order, &failures), shown);
    Ok(())
}

fn text(order: &Order, failures: &Result<Option<Remembered>, String>) -> String {
    let mut rows = vec![
        ("order", order.order_id.to_string()),
        ("buyer", order.user_id.to_string()),
        ("status", order.status.clone()),
        ("placed", order.created_at.clone()),
        ("deadline", order.payment_deadline.clone()),
    ];
    if let (Some(at), Some(late)) = (&order.closed_at, order.lateness_ms) {
        rows.push(("closed", format!("{at}, {late:.1} ms after the deadline")));
    }
    match failures {
        Ok(None) => {}
        Ok(Some(failures)) => {
            let Remembered { attempts, reason, last_failed_at, next_try_at, .. } = failures;
            let times = counted(usize::try_from(*attempts).unwrap_or_default(), "time");
            rows.push(("closing failed", format!("{times}, last at {last_failed_at}: {reason}")));
            if order.status == "PENDING" {
                rows.push(("next try", format!("by a wake, or by the sweep after {next_try_at}")));
            }
        }
        Err(why) => rows.push(("closing", format!("cannot tell whether it failed: {why}"))),
    }
    rows.extend(
        order.items.iter().map(|item| ("item", format!("{} of product {}", item.quantity, item.product_id))),
    );
    let rows: Vec<_> = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    table(&["", ""], &rows).trim_start().to_owned()
}

//! `overdue sweep`: closes now what no wake has closed, with the service's own code.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::output::{counted, table};
use super::{CliError, Context};
use crate::closing::Closer;
use crate::closing::sweep::{Look, Pace, overdue, sweep};
use crate::database::presence;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Show what would be closed, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Leave orders alone whose deadline passed less than this ago [default: the setting sweep_grace]
    #[arg(long, value_parser = humantime::parse_duration)]
    grace: Option<Duration>,
}

/// Orders that a dry run reads at one time.
const PAGE: usize = 1_000;
/// Orders that a dry run names; the others are counted.
const SHOWN: usize = 50;

pub async fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let (config, pool) = context.database().await?;
    crate::database::fit(&config).await?;
    let grace = args.grace.unwrap_or(config.sweep_grace);
    let closer = Closer::new(&config, pool, Arc::default(), Arc::default())?;
    if args.dry_run {
        return dry_run(context, &closer, grace).await;
    }
    closer.rate.share(1 + presence::closing(&closer.pool).await?);
    let bar = context.out.progress("sweeping");
    let never = CancellationToken::new();
    let swept = sweep(&closer, grace, Pace::of(&config), Look::default(), &never, |so_far| {
        bar.set_position((so_far.closed + so_far.left) as u64);
    });
    let (swept, outcome) = swept.await;
    outcome?;
    bar.finish_and_clear();
    context.out.done(
        &format!(
            "closed {}; {} left (locked by another transaction, or failing)",
            counted(swept.closed, "overdue order"),
            swept.left
        ),
        swept,
    );
    Ok(())
}

async fn dry_run(context: &Context, closer: &Closer, grace: Duration) -> Result<(), CliError> {
    let (mut shown, mut count, mut after) = (Vec::new(), 0, None);
    loop {
        let page = overdue(&closer.pool, grace, after, PAGE).await?;
        count += page.len();
        after = page.last().map(|last| (last.payment_deadline, last.order_id));
        let room = SHOWN - shown.len();
        let full = page.len() == PAGE;
        shown.extend(page.into_iter().take(room));
        if !full {
            break;
        }
    }
    let orders: Vec<_> = shown
        .iter()
        .map(|o| json!({"order_id": o.order_id, "payment_deadline": o.payment_deadline.to_string(), "overdue_ms": o.overdue_for.as_secs_f64() * 1e3}))
        .collect();
    let text = || {
        let row = |o: &crate::closing::sweep::Overdue| {
            let ago = humantime::format_duration(Duration::from_secs(o.overdue_for.as_secs()));
            vec![o.order_id.to_string(), o.payment_deadline.to_string(), ago.to_string()]
        };
        let rows: Vec<_> = shown.iter().map(row).collect();
        let list = if rows.is_empty() {
            String::new()
        } else {
            table(&["order", "deadline", "overdue for"], &rows) + "\n"
        };
        let more = if count > shown.len() {
            format!(" (the first {} are shown)", shown.len())
        } else {
            String::new()
        };
        format!("{list}{} would be closed{more}; nothing was changed", counted(count, "order"))
    };
    context.out.show(text, json!({"would_close": count, "orders": orders}));
    Ok(())
}

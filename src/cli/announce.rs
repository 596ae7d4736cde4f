//! `overdue announce`: records a new wake for every waiting order.

use serde_json::json;

use super::output::spinner;
use super::{CliError, Context};
use crate::outbox::announce::announce;

pub async fn run(context: &Context) -> Result<(), CliError> {
    let (_, pool) = context.database().await?;
    let progress = spinner(context.out);
    let announced = announce(&pool, |count| progress.set_message(format!("announced {count} orders"))).await;
    progress.finish_and_clear();
    let announced = announced?;
    context.out.done(
        &format!("announced {announced} waiting orders; the pods publish their wakes"),
        json!({"announced": announced}),
    );
    Ok(())
}

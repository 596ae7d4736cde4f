//! The sweep: closes what no wake closed, every `sweep_every`.

use std::sync::Arc;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::RoleError;
use super::shared::Shared;
use crate::closing::sweep::{Pace, Swept, sweep};

/// Sweeps every `sweep_every` until `stop`.
///
/// # Errors
/// The first database error; the caller builds a new session.
pub async fn session(shared: &Arc<Shared>, stop: &CancellationToken) -> Result<(), RoleError> {
    tracing::info!(event = "sweeping", "sweeping");
    while !stop.is_cancelled() {
        let (grace, pace) = (shared.config.sweep_grace, Pace::of(&shared.config));
        let swept = sweep(&shared.closer, grace, pace, stop, |_| {}).await?;
        if swept != Swept::default() {
            tracing::warn!(
                event = "swept",
                closed = swept.closed,
                first_closed = ?swept.first_closed,
                left = swept.left,
                "overdue orders that no wake had closed"
            );
        }
        tokio::select! {
            () = sleep(shared.config.sweep_every) => {}
            () = stop.cancelled() => {}
        }
    }
    Ok(())
}

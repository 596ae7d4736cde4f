//! Records probes that have come back with the wakes, and reports those that were late or came from another shop.

use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;

use crate::database::{ErrorClass, error_class};
use crate::probes::{self, grace};
use crate::roles::RoleError;
use crate::roles::shared::Shared;
use crate::stats::Count;

/// Shortest time between two reports of another shop.
const AGAIN: Duration = Duration::from_secs(60);

/// Records that probes have come back, and reports which were late.
///
/// # Errors
/// When the database is away. No other error with a probe may keep a pod from its orders.
pub(super) async fn record_returned(shared: &Shared, tokens: &[String]) -> Result<(), RoleError> {
    match probes::returned(&shared.closer.pool, tokens).await {
        Ok(returned) => {
            if returned.len() < tokens.len() {
                report_another_shop(shared, tokens).await;
            }
            for (queue, late) in returned.into_iter().filter(|(_, late)| *late > grace(&shared.config)) {
                tracing::warn!(
                    event = "lane_late",
                    queue,
                    late_s = late.as_secs_f64(),
                    "messages left the lane late"
                );
            }
            Ok(())
        }
        Err(error) if error_class(&error.source) == ErrorClass::Away => Err(error.into()),
        Err(error) => {
            tracing::error!(event = "probe_not_recorded", %error, "a probe has come back and could not be recorded");
            Ok(())
        }
    }
}

/// Reports probes that another shop has sent: the shop that takes such a probe notices it. No order depends on a probe, so a
/// failed look-up is ignored.
async fn report_another_shop(shared: &Shared, tokens: &[String]) {
    let Ok(foreign @ 1..) = probes::of_another_shop(&shared.closer.pool, tokens).await else { return };
    shared.stats.add(Count::ForeignProbes, foreign);
    let mut reported = shared.another_shop_reported.lock().unwrap_or_else(PoisonError::into_inner);
    if reported.is_none_or(|reported| reported.elapsed() > AGAIN) {
        *reported = Some(Instant::now());
        tracing::error!(
            event = "foreign_probes",
            exchange = shared.broker.names.exchange(),
            "another shop, with another database, uses the same vhost and prefix: each takes the other's messages, orders are \
             closed late, and subscribers get the events of both. Give one of them a `prefix` (OVERDUE_PREFIX) or a vhost of \
             its own, and run `overdue announce` there"
        );
    }
}

//! Wakes: from the outbox into the lanes.

use std::sync::Arc;
use std::time::Duration;

use sqlx::Postgres;
use sqlx::pool::PoolConnection;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Sparingly, complain};
use crate::broker::publisher::Publisher;
use crate::database::bounded;
use crate::outbox::{self, Kind, Look, Mark, Most};
use crate::roles::RoleError;
use crate::roles::shared::{Shared, after_stop};
use crate::stats::Count;
use crate::wire::wake::Wake;

/// Orders published in one round. Publishing more would take so long that their expirations would be out of date.
const MOST: i64 = 10_000;

pub(super) async fn session(shared: &Arc<Shared>, stop: &CancellationToken) -> Result<(), RoleError> {
    let publisher = Publisher::connect(&shared.broker, "relay").await?;
    // Kept for the whole session: the pool would ping it twice after each of twenty looks a second.
    let connection = bounded("connecting the relay", shared.closer.pool.acquire()).await?;
    let mut wakes = Wakes {
        shared: Arc::clone(shared),
        publisher,
        connection,
        mark: Mark::default(),
        looked_for: Duration::ZERO,
        reported: Sparingly::default(),
    };
    while !stop.is_cancelled() {
        let more = tokio::select! {
            more = wakes.round() => more?,
            // A broker may block publishers for long. Unconfirmed rows are not deleted, so nothing is lost.
            () = after_stop(stop, shared.config.drain_timeout) => return Ok(()),
        };
        // A round costs as much for one row as for many, so rows recorded meanwhile go together in the next one.
        if !more {
            tokio::select! {
                () = sleep(wakes.mark.rest(shared.config.relay_poll, wakes.looked_for)) => {}
                () = stop.cancelled() => {}
            }
        }
    }
    wakes.publisher.close().await;
    Ok(())
}

struct Wakes {
    shared: Arc<Shared>,
    publisher: Publisher,
    connection: PoolConnection<Postgres>,
    mark: Mark,
    /// How long the last look took.
    looked_for: Duration,
    reported: Sparingly,
}

impl Wakes {
    /// Publishes the oldest wakes, and deletes them once they are confirmed. Returns whether there are probably more.
    async fn round(&mut self) -> Result<bool, RoleError> {
        let shared = Arc::clone(&self.shared);
        let most = Most { rows: shared.config.relay_batch, orders: MOST };
        let look =
            outbox::look(&mut self.connection, Kind::Wakes, &mut self.mark, most, &shared.clock).await?;
        self.looked_for = look.took;
        complain(&look, &mut self.reported);
        if !look.rows.is_empty() {
            self.publisher.publish(shared.scheduler.messages(wakes(&look), shared.clock.now())).await?;
            outbox::delete_wakes(&mut self.connection, &look.ids()).await?;
            shared.stats.add(Count::Woken, look.orders());
        }
        look.relayed(&mut self.mark);
        Ok(look.more)
    }
}

fn wakes(look: &Look) -> Vec<Wake> {
    let orders = look.rows.iter().flat_map(|row| &row.orders);
    orders.map(|&(order_id, due, _)| Wake { due, order_id, attempt: 0, announced: false }).collect()
}

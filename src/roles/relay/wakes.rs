//! Wakes: from the outbox into the lanes.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{Sparingly, complain};
use crate::broker::publisher::Publisher;
use crate::database::{Session, bounded};
use crate::lanes::GATHER;
use crate::outbox::{self, Kind, Mark, Most, Row};
use crate::roles::RoleError;
use crate::roles::shared::{Shared, after_stop};
use crate::stats::Count;
use crate::wire::wake::Wake;

/// Wakes that wait for others wait no longer once they are this many rows: fewer than a look reads, so that a look from the beginning sees past them.
const GATHERED: usize = 200;

/// Orders published in one round. Publishing more would take so long that their expirations would be out of date.
const MOST: i64 = 10_000;

pub(super) async fn session(
    shared: &Arc<Shared>,
    publisher: Publisher,
    stop: &CancellationToken,
) -> Result<(), RoleError> {
    // Kept for the whole session: the pool would ping it twice after each of twenty looks a second.
    let connection = bounded("connecting the relay", shared.closer.pool.acquire()).await?;
    let mut wakes = Wakes {
        shared: Arc::clone(shared),
        publisher,
        connection,
        mark: Mark::default(),
        looked_for: Duration::ZERO,
        gathered: Vec::new(),
        gathered_since: Instant::now(),
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
    tokio::select! {
        published = wakes.publish_gathered() => published?,
        () = after_stop(stop, shared.config.drain_timeout) => {}
    }
    wakes.publisher.close().await;
    Ok(())
}

struct Wakes {
    shared: Arc<Shared>,
    publisher: Publisher,
    connection: Session,
    mark: Mark,
    /// How long the last look took.
    looked_for: Duration,
    /// Rows that wait for others. They are in the outbox until they are published, so a session that breaks loses none.
    gathered: Vec<Row>,
    /// When the first of them was found.
    gathered_since: Instant,
    reported: Sparingly,
}

impl Wakes {
    /// Publishes the oldest wakes, and deletes them once they are confirmed. Some wait for others first. Returns whether there are probably more.
    async fn round(&mut self) -> Result<bool, RoleError> {
        let shared = Arc::clone(&self.shared);
        let most = Most { rows: shared.config.relay_batch, orders: MOST };
        let mut look =
            outbox::look(&mut self.connection, Kind::Wakes, &mut self.mark, most, &shared.clock).await?;
        self.looked_for = look.took;
        complain(&look, &mut self.reported);
        let now = shared.clock.now();
        let gathered: HashSet<i64> = self.gathered.iter().map(|row| row.id).collect();
        let rows = std::mem::take(&mut look.rows).into_iter().filter(|row| !gathered.contains(&row.id));
        let (mut rows, may_wait): (Vec<_>, Vec<_>) = rows
            .partition(|row| row.orders.iter().any(|&(_, due, _)| !shared.scheduler.may_gather(due, now)));
        if self.gathered.is_empty() {
            self.gathered_since = Instant::now();
        }
        self.gathered.extend(may_wait);
        if look.more || self.gathered.len() >= GATHERED || self.gathered_since.elapsed() >= GATHER {
            rows.append(&mut self.gathered);
        }
        self.publish(&rows).await?;
        look.relayed(&mut self.mark);
        Ok(look.more)
    }

    async fn publish_gathered(&mut self) -> Result<(), RoleError> {
        let rows = std::mem::take(&mut self.gathered);
        self.publish(&rows).await
    }

    async fn publish(&mut self, rows: &[Row]) -> Result<(), RoleError> {
        if rows.is_empty() {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        let wakes = wakes(rows);
        let orders = wakes.len();
        self.publisher.publish(shared.scheduler.messages(wakes, shared.clock.now())).await?;
        let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
        outbox::delete_wakes(&mut self.connection, &ids).await?;
        shared.stats.add(Count::Woken, orders);
        Ok(())
    }
}

fn wakes(rows: &[Row]) -> Vec<Wake> {
    let orders = rows.iter().flat_map(|row| &row.orders);
    orders.map(|&(order_id, due, _)| Wake { due, order_id, attempt: 0, announced: false }).collect()
}

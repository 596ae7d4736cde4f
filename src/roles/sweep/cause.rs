//! Why a wake had not closed an order that the sweep found: counted, so that the sweep hides nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::broker::{self, Broker};
use crate::clock::DbTime;
use crate::database::presence;
use crate::probes::depth::{Depth, depth};
use crate::roles::shared::{Away, Shared, after_stop};
use crate::stats::Count;

/// Other pods are asked about after this time: every pod that is well has been seen again by then.
const SEEN_AGAIN: Duration = Duration::from_secs(3);

/// A pod that stops waits no longer for the broker's answer.
const AT_LAST: Duration = Duration::from_millis(500);

/// Orders that were found, and whose cause is not known yet.
#[derive(Debug, Default)]
pub(super) struct Found {
    orders: usize,
    /// When the first was found.
    at: Option<DbTime>,
}

/// What is known of the moment at which an order was found.
#[derive(Clone, Copy, Debug)]
struct Signs {
    /// Why this pod took no wakes then, or shortly before.
    away: Option<Away>,
    /// The process queue; `None` when it could not be asked.
    queue: Option<Depth>,
    /// Whether another pod was silent, or had due orders waiting. Its wakes are in the queue, unacknowledged.
    others: bool,
}

fn cause(signs: Signs) -> Count {
    match signs {
        Signs { away: Some(Away::Broker), .. } => Count::SweptBrokerAway,
        Signs { away: Some(Away::Starting), .. } | Signs { queue: Some(Depth { consumers: 0, .. }), .. } => {
            Count::SweptNoConsumer
        }
        Signs { queue: None, .. } => Count::SweptBrokerAway,
        Signs { queue: Some(Depth { messages: 1.., .. }), .. } | Signs { others: true, .. } => {
            Count::SweptWaiting
        }
        Signs { .. } => Count::SweptMissed,
    }
}

impl Found {
    pub fn is_nothing(&self) -> bool {
        self.orders == 0
    }

    pub fn add(&mut self, at: DbTime, orders: usize) {
        if orders > 0 {
            self.orders += orders;
            self.at.get_or_insert(at);
        }
    }

    /// Finds the cause, and counts the orders by it. Pods that cannot be asked about are no excuse.
    pub async fn count(self, shared: Arc<Shared>, stop: CancellationToken) {
        let Some(at) = self.at else { return };
        let away = shared.consuming.was_away();
        let mut signs = Signs { away, queue: None, others: false };
        if away.is_none() {
            signs.queue = tokio::select! {
                queue = process_queue(&shared.broker) => queue,
                () = after_stop(&stop, AT_LAST) => None,
            };
            tokio::select! {
                () = sleep(SEEN_AGAIN) => {}
                () = stop.cancelled() => {}
            }
            signs.others = presence::any_silent_or_busy(&shared.closer.pool, at).await.unwrap_or(false);
        }
        shared.stats.add(cause(signs), self.orders);
    }
}

async fn process_queue(broker: &Broker) -> Option<Depth> {
    let connection = broker.connect("sweep").await.ok()?;
    let depth = depth(broker, &connection, &broker.names.process()).await;
    broker::close(&connection).await;
    depth
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_missed_only_where_everything_else_is_excluded() {
        let queue = |messages, consumers| Some(Depth { messages, consumers });
        for (away, queue, others, expected) in [
            (Some(Away::Broker), None, false, Count::SweptBrokerAway),
            (Some(Away::Starting), None, true, Count::SweptNoConsumer),
            (None, None, false, Count::SweptBrokerAway),
            (None, queue(0, 0), true, Count::SweptNoConsumer),
            (None, queue(3, 0), false, Count::SweptNoConsumer),
            (None, queue(3, 2), false, Count::SweptWaiting),
            (None, queue(0, 2), true, Count::SweptWaiting),
            (None, queue(0, 2), false, Count::SweptMissed),
        ] {
            let signs = Signs { away, queue, others };
            assert_eq!(cause(signs), expected, "{signs:?}");
        }
    }
}

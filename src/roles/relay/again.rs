//! Retries events that subscribers refused, a few at a time until all are accepted.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::teller::{Doubtful, Teller, why};
use super::{Database, Sparingly};
use crate::broker::publisher::Answer;
use crate::outbox::refused::{self, Due, OrderEvent, Why};
use crate::roles::RoleError;
use crate::roles::shared::Shared;
use crate::stats::Count;

/// How often to look for refused events, and to retry them while some are still refused.
const EVERY: Duration = Duration::from_secs(1);
/// Events retried together while some are refused: other subscribers may get each of them once more. The number doubles, up
/// to [`MANY`], with each round in which all are accepted, so that a backlog drains at full speed once its subscriber has
/// recovered.
const FEW: usize = 16;
const MANY: usize = 1_000;
/// The same while the broker does not confirm. It is more, because other subscribers get these events in no other way then.
const DOUBTFUL: usize = 256;
/// How long a retry waits for its confirms.
const BRIEFLY: Duration = Duration::from_secs(1);

pub(super) async fn again(
    shared: &Arc<Shared>,
    database: &Database,
    doubtful: &Doubtful,
    stop: &CancellationToken,
) -> Result<(), RoleError> {
    let mut again = Again {
        shared,
        database,
        doubtful,
        teller: None,
        together: FEW,
        reported: Sparingly::default(),
        refusing: false,
        looked_for: Duration::ZERO,
    };
    while !stop.is_cancelled() {
        if !again.round().await? {
            tokio::select! {
                // Deleted rows that an open snapshot keeps make a look expensive; looks take a fiftieth of the time at most.
                () = sleep(EVERY.max(again.looked_for * 50)) => {}
                () = stop.cancelled() => {}
            }
        }
    }
    if let Some(teller) = again.teller {
        teller.close().await;
    }
    Ok(())
}

struct Again<'a> {
    shared: &'a Arc<Shared>,
    database: &'a Database,
    doubtful: &'a Doubtful,
    /// Connected when needed.
    teller: Option<Teller<'a>>,
    together: usize,
    /// How long the last look took.
    looked_for: Duration,
    /// When refused events were last reported.
    reported: Sparingly,
    /// Whether events have been refused since the last time none was waiting.
    refusing: bool,
}

impl Again<'_> {
    /// Retries what is due. Returns whether to go on at once.
    async fn round(&mut self) -> Result<bool, RoleError> {
        let mut connection = self.database.lock().await;
        let began = Instant::now();
        let due = refused::due(&mut *connection, self.together).await?;
        self.looked_for = began.elapsed();
        drop(connection);
        if due.is_empty() {
            self.nothing_due().await?;
            return Ok(false);
        }
        let (behind, first): (Vec<Due>, Vec<Due>) = due.into_iter().partition(|due| due.behind);
        let behind: Vec<_> = behind.iter().map(|due| &due.event).collect();
        let first: Vec<OrderEvent> = first.into_iter().map(|due| due.event).collect();
        let answers = self.tell(&first).await?;
        let answered = || first.iter().zip(&answers);
        let told: Vec<_> =
            answered().filter(|(_, answer)| **answer == Answer::Confirmed).map(|(event, _)| event).collect();
        let refused: Vec<_> = answered().filter_map(|(event, answer)| Some((event, why(*answer)?))).collect();
        refused::settle_again(&mut *self.database.lock().await, &told, &refused, &behind).await?;
        self.shared.stats.add(Count::Events, told.len());
        self.shared.stats.add(Count::EventsRefused, refused.len());
        let silent = refused.iter().any(|(_, why)| *why == Why::Unconfirmed);
        for kind in first.iter().map(|event| &*event.kind).collect::<BTreeSet<_>>() {
            let unconfirmed =
                |(event, why): &(&OrderEvent, Why)| *event.kind == *kind && *why == Why::Unconfirmed;
            if !refused.iter().any(unconfirmed) {
                self.doubtful.clear(Some(kind));
            }
        }
        self.say(&refused).await?;
        self.together = match (refused.is_empty(), silent) {
            (true, _) => (self.together * 2).min(MANY),
            (false, true) => DOUBTFUL,
            (false, false) => FEW,
        };
        // Events that waited behind the published ones are due now.
        Ok(refused.is_empty() && !told.is_empty())
    }

    async fn tell(&mut self, events: &[OrderEvent]) -> Result<Vec<Answer>, RoleError> {
        let teller = match &mut self.teller {
            Some(teller) => teller,
            none => none.insert(Teller::connect(self.shared, "refused events").await?),
        };
        teller.try_again(events, BRIEFLY.min(self.shared.config.broker_timeout)).await
    }

    /// Nothing is due. If nothing waits either, all refused events have been published.
    async fn nothing_due(&mut self) -> Result<(), RoleError> {
        if self.refusing && refused::waiting(&mut *self.database.lock().await).await? == 0 {
            tracing::info!(event = "refused_events_told", "all events that were refused have been published");
            (self.refusing, self.together) = (false, FEW);
            self.doubtful.clear(None);
            if let Some(teller) = self.teller.take() {
                teller.close().await;
            }
        }
        Ok(())
    }

    /// Logs the problem and its remedy: one line for all events, at most once a minute.
    async fn say(&mut self, refused: &[(&OrderEvent, Why)]) -> Result<(), RoleError> {
        self.refusing |= !refused.is_empty();
        if refused.is_empty() || !self.reported.now() {
            return Ok(());
        }
        let waiting = refused::waiting(&mut *self.database.lock().await).await?;
        let exchange = self.shared.broker.topology.events.as_str();
        let (event, why) = refused[0];
        tracing::error!(
            event = "event_refused",
            kind = %event.kind,
            exchange,
            waiting,
            "a subscriber's queue keeps events from being published: {}; find it among the bindings of the exchange, and empty, \
             repair or unbind it. Other events go on, and these are retried",
            why.reason()
        );
        Ok(())
    }
}

//! Tries again what subscribers refused, in small numbers until it is taken.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::Sparingly;
use super::events::{Database, why};
use super::teller::{Doubtful, Teller};
use crate::broker::publisher::Answer;
use crate::outbox::refused::{self, Due, OrderEvent, Why};
use crate::roles::RoleError;
use crate::roles::shared::Shared;
use crate::stats::Count;

/// How often refused events are looked for, and tried while some are refused.
const EVERY: Duration = Duration::from_secs(1);
/// Events tried together while some are refused: other subscribers may hear each of them once more. Doubled with each round in
/// which all are taken, so that a backlog goes as fast as ever once its subscriber is well.
const FEW: usize = 16;
const MANY: usize = 1_000;
/// The same where the broker does not confirm: other subscribers hear of them by no other way meanwhile.
const DOUBTFUL: usize = 256;
/// How long a confirm is waited for then.
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
        error_class: false,
        looked_for: Duration::ZERO,
    };
    while !stop.is_cancelled() {
        if !again.round().await? {
            tokio::select! {
                // Deleted rows that an open snapshot keeps make a look dear: no more than a fiftieth of the time is for looking.
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
    /// Connected when it is needed.
    teller: Option<Teller<'a>>,
    together: usize,
    /// How long the last look took.
    looked_for: Duration,
    /// When the trouble was last reported.
    reported: Sparingly,
    /// Whether there was trouble since all was well.
    error_class: bool,
}

impl Again<'_> {
    /// Tries what is due; whether to go on at once.
    async fn round(&mut self) -> Result<bool, RoleError> {
        let mut connection = self.database.lock().await;
        let began = Instant::now();
        let due = refused::due(&mut connection, self.together).await?;
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
        // What waited behind those that were told is due now.
        Ok(refused.is_empty() && !told.is_empty())
    }

    async fn tell(&mut self, events: &[OrderEvent]) -> Result<Vec<Answer>, RoleError> {
        let teller = match &mut self.teller {
            Some(teller) => teller,
            none => none.insert(Teller::connect(self.shared, "refused events").await?),
        };
        teller.try_again(events, BRIEFLY.min(self.shared.config.broker_timeout)).await
    }

    /// Without anything due, and with nothing waiting, the trouble is over.
    async fn nothing_due(&mut self) -> Result<(), RoleError> {
        if self.error_class && refused::waiting(&mut *self.database.lock().await).await? == 0 {
            tracing::info!(event = "refused_events_told", "all events that were refused have been told");
            (self.error_class, self.together) = (false, FEW);
            self.doubtful.clear(None);
            if let Some(teller) = self.teller.take() {
                teller.close().await;
            }
        }
        Ok(())
    }

    /// Names the trouble and the remedy, in one line for all events and not in each round.
    async fn say(&mut self, refused: &[(&OrderEvent, Why)]) -> Result<(), RoleError> {
        self.error_class |= !refused.is_empty();
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
            "a subscriber's queue keeps events from being told: {}; find it among the bindings of the exchange, and empty it, mend it \
             or unbind it; other events go on, and these are tried again",
            why.reason()
        );
        Ok(())
    }
}

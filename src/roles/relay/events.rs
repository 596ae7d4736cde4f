//! Events: from the outbox to the subscribers.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::again::again;
use super::teller::{Doubtful, Teller, why};
use super::{Database, Sparingly, complain};
use crate::closing::LARGE_BATCH;
use crate::database::bounded;
use crate::outbox::refused::{self, OrderEvent, Why};
use crate::outbox::{self, Kind, Look, Mark, Most};
use crate::roles::RoleError;
use crate::roles::shared::{Shared, after_stop};
use crate::stats::Count;

/// Orders whose events are published in one round.
const MOST: i64 = 2_000;

/// At a rate, rounds are smaller, though large enough to keep up: a thousand events keep a machine busy for longer than a buyer should
/// wait.
fn most(close_rate: u32) -> i64 {
    if close_rate == 0 { MOST } else { i64::from(close_rate / 100).clamp(100, MOST) }
}

/// Events are looked for once while wakes are looked for this many times: a round costs as much for one event as for many, and a subscriber
/// has more time than a deadline.
const SELDOMER: u32 = 4;

/// Events give way to closing for this long at most. Publishing them costs as much as closing their orders, and on a single
/// machine both use the same processors. An event may be published a moment later if orders are closed sooner for it. Closing at a rate
/// leaves room by itself.
const GIVE_WAY: Duration = Duration::from_secs(5);

pub(super) async fn session(shared: &Arc<Shared>, stop: &CancellationToken) -> Result<(), RoleError> {
    let connection = bounded("connecting the relay", shared.closer.pool.acquire()).await?;
    let (database, doubtful) = (Mutex::new(connection), Doubtful::default());
    let teller = Teller::connect(shared, "events").await?;
    let events = Events {
        shared,
        database: &database,
        doubtful: &doubtful,
        teller,
        mark: Mark::default(),
        looked_for: Duration::ZERO,
        reported: Sparingly::default(),
        behind_since: None,
    };
    let work = async { tokio::try_join!(relay(events, stop), again(shared, &database, &doubtful, stop)) };
    tokio::select! {
        done = work => done.map(|_| ()),
        // A broker may block publishers for long. Unconfirmed rows are not deleted, so nothing is lost.
        () = after_stop(stop, shared.config.drain_timeout) => Ok(()),
    }
}

async fn relay(mut events: Events<'_>, stop: &CancellationToken) -> Result<(), RoleError> {
    while !stop.is_cancelled() {
        if !events.round().await? {
            let poll = events.shared.config.relay_poll.saturating_mul(SELDOMER);
            tokio::select! {
                () = sleep(events.mark.rest(poll, events.looked_for)) => {}
                () = stop.cancelled() => {}
            }
        }
    }
    events.teller.close().await;
    Ok(())
}

struct Events<'a> {
    shared: &'a Arc<Shared>,
    database: &'a Database,
    doubtful: &'a Doubtful,
    teller: Teller<'a>,
    mark: Mark,
    /// How long the last look took.
    looked_for: Duration,
    reported: Sparingly,
    /// Since when this pod, or another, has been behind with closing.
    behind_since: Option<Instant>,
}

impl Events<'_> {
    /// Publishes the oldest events, unless they give way to closing. Returns whether there are probably more.
    async fn round(&mut self) -> Result<bool, RoleError> {
        let waited = self.behind_since.is_some_and(|since| since.elapsed() > GIVE_WAY);
        let gives_way = !self.shared.closer.rate.is_limited();
        let this_pod_behind = gives_way && self.shared.behind.load(Ordering::Relaxed);
        if this_pod_behind && !waited {
            self.behind_since.get_or_insert_with(Instant::now);
            return Ok(false);
        }
        let look = self.look().await?;
        self.looked_for = look.took;
        complain(&look, &mut self.reported);
        let burst = look.rows.iter().any(|row| row.orders.len() >= LARGE_BATCH);
        let behind = this_pod_behind
            || (gives_way && burst && outbox::large_batch_at_work(&mut *self.database.lock().await).await?);
        self.behind_since = behind.then(|| self.behind_since.unwrap_or_else(Instant::now));
        if behind && !waited {
            return Ok(false);
        }
        if !look.rows.is_empty() {
            let untold = self.tell(refused::events(&look)).await?;
            refused::record(&mut *self.database.lock().await, &look.ids(), &untold).await?;
            self.shared.stats.add(Count::Events, look.orders() - untold.len());
        }
        look.relayed(&mut self.mark);
        Ok(look.more)
    }

    async fn look(&mut self) -> Result<Look, RoleError> {
        let most = Most { rows: self.shared.config.relay_batch, orders: most(self.shared.config.close_rate) };
        let mut connection = self.database.lock().await;
        Ok(outbox::look(&mut *connection, Kind::Events, &mut self.mark, most, &self.shared.clock).await?)
    }

    /// Publishes these events. Those of one order go one after the other, each when the one before is confirmed. Returns the
    /// events that could not be published.
    async fn tell(&mut self, events: Vec<OrderEvent>) -> Result<Vec<(OrderEvent, Why)>, RoleError> {
        let orders: Vec<_> = events.iter().map(|event| event.order_id).collect();
        let held_back = refused::held_back(&mut *self.database.lock().await, &orders).await?;
        let mut held_back: HashSet<i64> = held_back.into_iter().collect();
        let mut untold = Vec::new();
        let mut rest = events;
        while !rest.is_empty() {
            let (now, later) = first_of_each_order(rest);
            rest = later;
            let (told, waits): (Vec<_>, Vec<_>) = now.into_iter().partition(|event| {
                !held_back.contains(&event.order_id) && !self.doubtful.contains(&event.kind)
            });
            let mut outcome: Vec<_> = waits.into_iter().map(|event| (event, Why::Waits)).collect();
            let answers = self.teller.tell(&told, self.doubtful).await?;
            let answered = told.into_iter().zip(answers);
            outcome.extend(answered.filter_map(|(event, answer)| Some((event, why(answer)?))));
            held_back.extend(outcome.iter().map(|(event, _)| event.order_id));
            untold.append(&mut outcome);
        }
        let refused = untold.iter().filter(|(_, why)| *why != Why::Waits).count();
        self.shared.stats.add(Count::EventsRefused, refused);
        Ok(untold)
    }
}

/// The first event of each order, and the others.
fn first_of_each_order(events: Vec<OrderEvent>) -> (Vec<OrderEvent>, Vec<OrderEvent>) {
    let mut seen = HashSet::new();
    events.into_iter().partition(|event| seen.insert(event.order_id))
}

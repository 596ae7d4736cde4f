//! The relay: from the outbox to lanes and subscribers. Read, publish, confirm, delete; in one pod at a time.
//!
//! Wakes and events are two loops with separate connections to broker and database, so neither holds up the other. A third
//! loop retries events that subscribers refuse, so a refused event holds up only later events of its own order.

mod again;
mod events;
mod teller;
mod wakes;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::broker::publisher::Publisher;
use crate::database::Session;
use crate::outbox::Look;
use crate::roles::RoleError;
use crate::roles::backoff::{Backoff, STABLE};
use crate::roles::shared::Shared;
use crate::stats::Count;

/// After this time without a connection, another pod should lead: perhaps only this one cannot reach the broker.
const GIVE_UP: Duration = Duration::from_secs(10);

/// One session: connects, and works until `stop`, a permanent error, or ten seconds without the broker. Other errors are retried
/// here.
///
/// # Errors
/// A permanent broker or database error in a loop that has not worked before, or the last one of those ten seconds; the caller
/// builds a new session. Rows that were not deleted are published again.
pub async fn session(shared: &Arc<Shared>, stop: &CancellationToken) -> Result<(), RoleError> {
    tracing::info!(event = "relaying", "relaying the outbox");
    tokio::try_join!(keep(Part::Wakes, shared, stop), keep(Part::Events, shared, stop),)?;
    Ok(())
}

/// One connection for events and refused events; each holds it for one operation of a few statements at a time.
type Database = Mutex<Session>;

#[derive(Clone, Copy, Debug)]
enum Part {
    Wakes,
    Events,
}

/// Keeps one of the two loops alive: a session that breaks does not interrupt the other loop.
async fn keep(part: Part, shared: &Arc<Shared>, stop: &CancellationToken) -> Result<(), RoleError> {
    let (mut backoff, mut worked, mut connected_at) = (Backoff::default(), false, Instant::now());
    loop {
        let started = Instant::now();
        let outcome = match part {
            // Boxed, because the futures are large.
            Part::Wakes => match Publisher::connect(&shared.broker, "relay").await {
                Ok(publisher) => {
                    let outcome = Box::pin(wakes::session(shared, publisher, stop)).await;
                    connected_at = Instant::now();
                    outcome
                }
                Err(error) => Err(error.into()),
            },
            Part::Events => {
                let outcome = Box::pin(events::session(shared, stop)).await;
                connected_at = Instant::now(); // wakes judge for both: trouble of events alone interrupts no wake
                outcome
            }
        };
        let Err(error) = outcome else { return Ok(()) };
        if stop.is_cancelled() {
            return Ok(());
        }
        let lasted = started.elapsed() > STABLE;
        worked |= lasted;
        if (!error.is_transient() && !worked) || connected_at.elapsed() > GIVE_UP {
            return Err(error);
        }
        let wait = backoff.next(lasted);
        tracing::warn!(event = "session_broken", role = "relay", ?part, %error, retry_in = ?wait, "session broke; building a new one");
        shared.stats.add(Count::Rebuilt, 1);
        tokio::select! {
            () = sleep(wait) => {}
            () = stop.cancelled() => return Ok(()),
        }
    }
}

/// Limits a log line to one a minute.
#[derive(Debug, Default)]
struct Sparingly(Option<Instant>);

impl Sparingly {
    fn now(&mut self) -> bool {
        let now = self.0.is_none_or(|last| last.elapsed() >= Duration::from_secs(60));
        if now {
            self.0 = Some(Instant::now());
        }
        now
    }
}

/// Reports rows that cannot be read. The table's CHECK admits no such rows.
fn complain(look: &Look, reported: &mut Sparingly) {
    if let Some(first) = look.unreadable.first()
        && reported.now()
    {
        tracing::error!(
            event = "outbox_rows_unreadable",
            rows = look.unreadable.len(),
            first,
            "rows of the outbox cannot be read and are skipped: a CHECK of the table is missing. Delete these rows, and check the \
             table with `overdue verify`"
        );
    }
}

//! The sweep: closes what no wake closed. Each pod looks every 0.4 s or so, unless due orders of its own are waiting, and more
//! often while wakes are known to be missing.

mod cause;
mod looks;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::RoleError;
use super::shared::Shared;
use crate::closing::sweep::{Look, Pace, Swept, sweep};
use crate::database;
use crate::stats::Count;
use cause::Found;
use looks::{Looks, Seen};

/// Interval between two log lines about swept orders.
const REPORT: Duration = Duration::from_secs(10);

/// Sweeps until `stop`.
///
/// # Errors
/// The first database error; the caller builds a new session.
pub async fn session(shared: &Arc<Shared>, stop: &CancellationToken) -> Result<(), RoleError> {
    database::probe(&shared.closer.pool, &shared.clock).await?;
    tracing::info!(event = "sweeping", "sweeping");
    let mut finding_causes = JoinSet::new();
    let (found, outcome) = look_until(shared, stop, &mut finding_causes).await;
    if outcome.is_err() {
        // The next session need not wait for the causes; they are counted all the same.
        finding_causes.spawn(found.count(Arc::clone(shared), stop.clone()));
        finding_causes.detach_all();
        return outcome;
    }
    found.count(Arc::clone(shared), stop.clone()).await;
    while finding_causes.join_next().await.is_some() {}
    Ok(())
}

/// Looks until `stop`, or until an error; returns what was found and is not being counted yet.
async fn look_until(
    shared: &Arc<Shared>,
    stop: &CancellationToken,
    finding_causes: &mut JoinSet<()>,
) -> (Found, Result<(), RoleError>) {
    let (grace, pace) = (shared.config.sweep_grace, Pace::of(&shared.config));
    let mut looks = Looks::new(shared.config.sweep_every, Instant::now());
    let (mut report, mut found, mut locked) = (Report::default(), Found::default(), HashMap::new());
    let mut blocked = false;
    while !stop.is_cancelled() {
        tokio::select! {
            () = sleep_until(looks.next()) => {}
            Some(_) = finding_causes.join_next() => {}
            () = stop.cancelled() => break,
        }
        if finding_causes.is_empty() && !found.is_nothing() {
            finding_causes.spawn(std::mem::take(&mut found).count(Arc::clone(shared), stop.clone()));
        }
        if Instant::now() < looks.next()
            || !looks.begin(Instant::now(), shared.behind.load(Ordering::Relaxed))
        {
            continue;
        }
        let at = shared.clock.now();
        let look =
            Look { from: looks.from(), behind: Some(&shared.behind), locked: std::mem::take(&mut locked) };
        let full = look.from.is_none();
        let (swept, outcome) = sweep(&shared.closer, grace, pace, look, stop, |_| {}).await;
        // The wake of an order that was locked, had failed or was blocked waits for its next attempt.
        let held_up = if blocked { swept.closed } else { swept.held_up };
        blocked = swept.blocked || (blocked && !full);
        shared.stats.add(Count::SweptWaiting, held_up);
        found.add(at, swept.closed - held_up);
        report.add(&swept);
        if let Err(error) = outcome {
            report.log(true);
            return (found, Err(error.into()));
        }
        // The next look begins no later than at the first order that is locked, and where this one stopped reading.
        let first = swept.locked.values().copied().chain(swept.reached).min();
        let seen = Seen {
            took: swept.looked_for,
            low_water: first.map_or(at.minus(grace), |first| first.min(at.minus(grace))),
            found: swept.closed > 0,
            failing: swept.left > swept.locked.len(),
            away: shared.consuming.has_lost_broker(),
        };
        looks.done(Instant::now(), seen);
        report.log(false);
        locked = swept.locked;
    }
    report.log(true);
    (found, Ok(()))
}

/// What was swept since the last log line.
#[derive(Default)]
struct Report {
    swept: Swept,
    logged: Option<Instant>,
}

impl Report {
    fn add(&mut self, swept: &Swept) {
        self.swept.closed += swept.closed;
        self.swept.left = swept.left;
        let room = Swept::MOST_NAMED - self.swept.first_closed.len();
        self.swept.first_closed.extend(swept.first_closed.iter().take(room));
    }

    /// One line at first, then one in a while: a broker that is away makes every look find orders.
    fn log(&mut self, at_last: bool) {
        let Swept { closed, first_closed, left, .. } = &self.swept;
        let nothing = *closed == 0 && *left == 0;
        if nothing || (!at_last && self.logged.is_some_and(|logged| logged.elapsed() < REPORT)) {
            return;
        }
        tracing::warn!(
            event = "swept",
            closed,
            ?first_closed,
            left,
            "overdue orders that no wake had closed"
        );
        *self = Self { swept: Swept::default(), logged: Some(Instant::now()) };
    }
}

//! The sweep: closes what no wake closed. Each pod looks every 0.4 s or so, unless due orders of its own are waiting, and more
//! often while wakes are known to be missing.

mod cause;
mod looks;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::RoleError;
use super::shared::Shared;
use crate::closing::sweep::{Pace, Swept, sweep};
use crate::database;
use cause::Found;
use looks::Looks;

/// Interval between two log lines about swept orders.
const REPORT: Duration = Duration::from_secs(10);

/// Sweeps until `stop`.
///
/// # Errors
/// The first database error; the caller builds a new session.
pub async fn session(shared: &Arc<Shared>, stop: &CancellationToken) -> Result<(), RoleError> {
    database::probe(&shared.closer.pool, &shared.clock).await?;
    tracing::info!(event = "sweeping", "sweeping");
    let (grace, pace) = (shared.config.sweep_grace, Pace::of(&shared.config));
    let mut looks = Looks::new(shared.config.sweep_every, Instant::now());
    let mut report = Report::default();
    let (mut found, mut finding_causes) = (Found::default(), JoinSet::new());
    while !stop.is_cancelled() {
        tokio::select! {
            () = sleep_until(looks.next()) => {}
            Some(_) = finding_causes.join_next() => {}
            () = stop.cancelled() => break,
        }
        if finding_causes.is_empty() && !found.is_nothing() {
            finding_causes.spawn(std::mem::take(&mut found).count(Arc::clone(shared), stop.clone()));
        }
        let now = Instant::now();
        if now < looks.next() || !looks.begin(now, shared.behind.load(Ordering::Relaxed)) {
            continue;
        }
        let at = shared.clock.now();
        let swept = sweep(&shared.closer, grace, pace, looks.from(), stop, |_| {}).await?;
        // An order that is locked is looked at again, so the next look begins no later than at its deadline.
        let low_water = swept.first_left.map_or(at.minus(grace), |left| left.min(at.minus(grace)));
        looks.done(
            Instant::now(),
            now.elapsed(),
            low_water,
            swept.closed > 0,
            shared.consuming.has_lost_broker(),
        );
        found.add(at, swept.closed);
        report.add(&swept);
        report.log(false);
    }
    report.log(true);
    found.count(Arc::clone(shared), stop.clone()).await;
    while finding_causes.join_next().await.is_some() {}
    Ok(())
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

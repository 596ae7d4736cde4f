//! What happens to a wake after the verdict on its order. Pure: decisions are data, carried out by `roles::close`.

use std::time::Duration;

use super::Verdict;
use crate::clock::DbTime;
use crate::wire::wake::Wake;

/// When a failed order is retried, and when it is parked instead.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// Attempts before parking, the first included.
    pub max_attempts: u32,
    /// Wait before the second attempt.
    pub base: Duration,
    /// Length of the shortest lane: the shortest wait of a wake outside a pod.
    pub shortest_lane: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextStep {
    /// Nothing: as far as this order goes, the message may be acknowledged.
    Done,
    /// Look again when the wake is due.
    Reschedule(Wake),
    /// Look again in a fraction of a second: another transaction had the order locked.
    RetryShortly(Wake),
    /// Look again after a hop through a lane, where waiting costs nothing.
    ToLane(Wake),
    /// Close it alone; it is too slow for a batch.
    Alone,
    /// Park the wake: a person must look.
    Park {
        /// The wake, with its attempts set back to 0 for the retry by hand.
        wake: Wake,
        reason: String,
    },
}

const LONGEST_BACKOFF: Duration = Duration::from_secs(3600);

/// Wait before an order is retried while no order can be closed.
const BLOCKED_FOR: Duration = Duration::from_secs(10);

/// A locked order is retried after 25 ms, 50 ms, … 800 ms; then it waits in a lane.
const FIRST_DEFERRAL: Duration = Duration::from_millis(25);
const MOST_DEFERRALS: u32 = 6;

impl RetryPolicy {
    /// The wait after failed attempt number `attempt` (from 1): base, 2 × base, 4 × base, … up to an hour.
    #[must_use]
    pub fn backoff(&self, attempt: u32) -> Duration {
        let doublings = attempt.saturating_sub(1).min(31);
        self.base.saturating_mul(1 << doublings).min(LONGEST_BACKOFF)
    }

    fn failed(&self, wake: Wake, now: DbTime, reason: String) -> NextStep {
        let attempt = wake.attempt.saturating_add(1);
        if attempt >= self.max_attempts {
            let reason = format!("{reason} (after {attempt} attempts)");
            return NextStep::Park { wake: Wake { due: now, attempt: 0, ..wake }, reason };
        }
        NextStep::Reschedule(Wake { due: now.plus(self.backoff(attempt)), attempt, ..wake })
    }

    fn to_lane(self, wake: Wake, now: DbTime) -> NextStep {
        NextStep::ToLane(Wake { due: now.plus(self.shortest_lane), ..wake })
    }
}

/// Decides what happens to `wake` after `verdict`.
///
/// `deferrals` is how many times in a row the order was found locked. `may_wait` is false in a pod that hands over its wakes: a
/// locked or slow order's wake goes to a lane instead of waiting in the pod.
#[must_use]
pub fn next_step(
    wake: Wake,
    verdict: &Verdict,
    deferrals: u32,
    may_wait: bool,
    policy: RetryPolicy,
    now: DbTime,
) -> NextStep {
    match verdict {
        Verdict::Closed | Verdict::NotPending => NextStep::Done,
        Verdict::NotDue { deadline } => NextStep::Reschedule(Wake { due: *deadline, attempt: 0, ..wake }),
        Verdict::Locked if may_wait && deferrals < MOST_DEFERRALS => {
            NextStep::RetryShortly(Wake { due: now.plus(FIRST_DEFERRAL * (1 << deferrals)), ..wake })
        }
        Verdict::Slow if may_wait => NextStep::Alone,
        Verdict::Locked | Verdict::Slow => policy.to_lane(wake, now),
        // No attempt is counted: the order is not the cause.
        Verdict::Blocked { .. } => NextStep::Reschedule(Wake { due: now.plus(BLOCKED_FOR), ..wake }),
        // The outbox had the wake, so the order existed; it has been deleted since.
        Verdict::Unknown if !wake.announced => NextStep::Done,
        // The order may not be committed yet.
        Verdict::Unknown => policy.failed(wake, now, format!("order {} does not exist", wake.order_id)),
        Verdict::Failed { reason } => policy.failed(wake, now, reason.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: DbTime = DbTime(1_000_000_000);
    const POLICY: RetryPolicy =
        RetryPolicy { max_attempts: 3, base: Duration::from_secs(1), shortest_lane: Duration::from_secs(2) };

    fn wake(attempt: u32) -> Wake {
        Wake { due: DbTime(5), order_id: 7, attempt, announced: true }
    }

    #[test]
    fn each_verdict_has_its_consequence() {
        let after = |verdict, attempt| next_step(wake(attempt), &verdict, 0, true, POLICY, NOW);
        assert_eq!(after(Verdict::Closed, 0), NextStep::Done);
        assert_eq!(after(Verdict::NotPending, 0), NextStep::Done);
        assert_eq!(after(Verdict::Slow, 0), NextStep::Alone);
        let deadline = NOW.plus(Duration::from_secs(60));
        let rescheduled = NextStep::Reschedule(Wake { due: deadline, ..wake(0) });
        assert_eq!(after(Verdict::NotDue { deadline }, 2), rescheduled);
        let again = |seconds, attempt| {
            NextStep::Reschedule(Wake { due: NOW.plus(Duration::from_secs(seconds)), ..wake(attempt) })
        };
        assert_eq!(after(Verdict::Unknown, 0), again(1, 1));
        assert_eq!(after(Verdict::Blocked { reason: "x".into() }, 2), again(10, 2));
        let recorded = Wake { announced: false, ..wake(0) };
        assert_eq!(next_step(recorded, &Verdict::Unknown, 0, true, POLICY, NOW), NextStep::Done);
        assert_eq!(after(Verdict::Failed { reason: "x".into() }, 1), again(2, 2));
        let parked =
            NextStep::Park { wake: Wake { due: NOW, ..wake(0) }, reason: "x (after 3 attempts)".into() };
        assert_eq!(after(Verdict::Failed { reason: "x".into() }, 2), parked);
    }

    #[test]
    fn a_locked_order_is_looked_at_ever_more_seldom_and_then_waits_in_a_lane() {
        let locked =
            |deferrals, may_wait| next_step(wake(2), &Verdict::Locked, deferrals, may_wait, POLICY, NOW);
        let after = |millis| Wake { due: NOW.plus(Duration::from_millis(millis)), ..wake(2) };
        for (deferrals, millis) in (0..).zip([25, 50, 100, 200, 400, 800]) {
            assert_eq!(locked(deferrals, true), NextStep::RetryShortly(after(millis)));
        }
        assert_eq!(locked(6, true), NextStep::ToLane(after(2_000)));
        assert_eq!(locked(u32::MAX, true), NextStep::ToLane(after(2_000)));
    }

    #[test]
    fn where_nothing_may_wait_in_the_pod_it_waits_in_a_lane() {
        let lane = NextStep::ToLane(Wake { due: NOW.plus(Duration::from_secs(2)), ..wake(1) });
        for verdict in [Verdict::Locked, Verdict::Slow] {
            assert_eq!(next_step(wake(1), &verdict, 0, false, POLICY, NOW), lane);
        }
    }

    #[test]
    fn the_backoff_doubles_up_to_an_hour() {
        let seconds: Vec<_> = (1..=14).map(|attempt| POLICY.backoff(attempt).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3600, 3600]);
        assert_eq!(POLICY.backoff(u32::MAX).as_secs(), 3600);
    }
}

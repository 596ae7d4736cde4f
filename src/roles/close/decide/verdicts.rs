//! Applies deliveries and verdicts to the state: each wake is held, rescheduled, parked, or done.

use std::time::Duration;

use super::WakeConsumer;
use super::event::{Arrival, Effect, Now, Report};
use crate::clock::DbTime;
use crate::closing::Verdict;
use crate::closing::next_step::{NextStep, next_step};
use crate::roles::close::in_flight::{Held, Tag};
use crate::wire::keys::KEY_PROCESS;
use crate::wire::outgoing::Outgoing;
use crate::wire::parked::parked;
use crate::wire::wake::{self, Wake};

/// A pod with room holds wakes with up to this much time left. Each further lane would cost messages, which carry fewer orders each.
const HOLD_WITH_ROOM: Duration = Duration::from_secs(20);

impl WakeConsumer {
    pub(super) fn take(&mut self, arrivals: Vec<Arrival>, now: Now) {
        for arrival in arrivals {
            match arrival {
                Arrival::Wakes(tag, wakes) => {
                    self.in_flight.take(tag, wakes.len());
                    for wake in wakes {
                        self.hold_or_reschedule(wake, tag, now);
                    }
                }
                Arrival::Probe(tag, token) => {
                    self.in_flight.take(tag, 0);
                    self.probes.push((token, tag));
                }
                Arrival::Malformed(tag, malformed) => {
                    let (reason, message) = *malformed;
                    self.in_flight.take(tag, 1);
                    let before = self.malformed.take().map_or(0, |(count, _)| count);
                    self.malformed = Some((before + 1, reason));
                    self.to_park.push((message, vec![tag]));
                }
            }
        }
        let all = self.in_flight.unacknowledged() >= self.limits.messages;
        self.drain.delivered(now.instant, all);
    }

    /// Holds a wake, or reschedules it if much time remains or nothing may wait in this pod.
    fn hold_or_reschedule(&mut self, wake: Wake, tag: Tag, now: Now) {
        let near = wake.due.since(now.time) <= HOLD_WITH_ROOM && self.has_leisure();
        if (near || self.scheduler.holds(&wake, now.time)) && self.drain.may_wait() {
            self.in_flight.hold(Held { wake, tag, deferrals: 0 });
        } else {
            self.reschedule(wake, tag, now);
        }
    }

    /// Whether there is room to hold wakes that another lane could carry nearer to their moment. Holding costs only room;
    /// every further lane costs messages, and the more of them the fewer orders each carries. Half of the room is kept
    /// for due wakes, which would otherwise queue behind wakes that are not due.
    fn has_leisure(&self) -> bool {
        2 * self.in_flight.unacknowledged() <= self.limits.messages
            && 2 * self.in_flight.orders() <= self.limits.orders
    }

    pub(super) fn apply_verdicts(
        &mut self,
        batch: Vec<(Held, Verdict)>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let (mut unknown_failed, mut unknown_orders) = (0, Vec::new());
        for (held, verdict) in batch {
            let (Held { wake, tag, deferrals }, unknown) = (held, verdict == Verdict::Unknown);
            unknown_failed += usize::from(unknown && wake.announced);
            match next_step(wake, &verdict, deferrals, self.drain.may_wait(), self.retry, now.time) {
                NextStep::Done => self.in_flight.done(tag),
                NextStep::Reschedule(wake) => self.hold_or_reschedule(wake, tag, now),
                NextStep::RetryShortly(wake) => {
                    self.in_flight.hold(Held { wake, tag, deferrals: deferrals + 1 });
                }
                NextStep::ToLane(wake) => self.reschedule(wake, tag, now),
                NextStep::Alone => self.slow.push_back(held),
                NextStep::Park { wake, .. } if unknown => unknown_orders.push((wake, tag)),
                NextStep::Park { wake, reason } => {
                    self.to_park.push((parked_wakes(&[wake], &reason, now.time), vec![tag]));
                    effects.push(Effect::Report(Report::ParkingOrder(wake.order_id, reason)));
                }
            }
        }
        if unknown_failed > 0 {
            effects.push(Effect::CountFailed(unknown_failed));
        }
        self.park_unknown(&unknown_orders, now.time, effects);
    }

    /// Any sender may name orders that do not exist, so one parked message and one log line cover up to `orders_per_wake`
    /// of them.
    fn park_unknown(&mut self, orders: &[(Wake, Tag)], now: DbTime, effects: &mut Vec<Effect>) {
        for orders in orders.chunks(self.limits.orders_per_wake) {
            let (wakes, tags): (Vec<_>, Vec<_>) = orders.iter().copied().unzip();
            let (first, count, attempts) = (wakes[0].order_id, wakes.len(), self.retry.max_attempts);
            let reason = match count {
                1 => format!("order {first} does not exist (after {attempts} attempts)"),
                _ => format!("{count} orders do not exist (after {attempts} attempts)"),
            };
            self.to_park.push((parked_wakes(&wakes, &reason, now), tags));
            effects.push(Effect::Report(Report::ParkingUnknown(count, first)));
        }
    }

    pub(super) fn done(&mut self, tags: &[Tag]) {
        for tag in tags {
            self.in_flight.done(*tag);
        }
    }

    /// Reschedules, for other pods, every wake whose order is not being closed.
    pub(super) fn hand_over(&mut self, effects: &mut Vec<Effect>) {
        let held = self.in_flight.take_held().into_iter().chain(self.slow.drain(..));
        let left: Vec<_> = held.map(|held| (held.wake, held.tag)).collect();
        if !left.is_empty() {
            effects.push(Effect::Report(Report::HandingOver(left.len())));
        }
        self.to_reschedule.extend(left);
    }
}

fn parked_wakes(wakes: &[Wake], reason: &str, now: DbTime) -> Outgoing {
    let properties = lapin::BasicProperties::default()
        .with_content_type("application/json".into())
        .with_type(wake::WAKE_TYPE.into());
    parked(wake::encode(wakes), &properties, reason, KEY_PROCESS, now)
}

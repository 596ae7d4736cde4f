//! How work in hand ends: verdicts become next steps, messages that are done are acknowledged, the rest is given back.

use std::time::Duration;

use lapin::options::{BasicAckOptions, BasicNackOptions};
use tokio::time::Instant;

use super::WakeConsumer;
use super::in_flight::{Ack, Held, Tag};
use crate::broker::consumer::Deliveries;
use crate::broker::together_in_order;
use crate::clock::DbTime;
use crate::closing::Verdict;
use crate::closing::next_step::{NextStep, next_step};
use crate::roles::RoleError;
use crate::stats::Count;
use crate::wire::keys::KEY_PROCESS;
use crate::wire::outgoing::Outgoing;
use crate::wire::parked::parked;
use crate::wire::wake::{self, Wake};

/// A locked order is looked at again after 25 ms, 50 ms, … 800 ms; then it waits in a lane, where it costs nothing.
const FIRST_DEFERRAL: Duration = Duration::from_millis(25);
const MOST_DEFERRALS: u32 = 6;

/// Messages that are done wait for others for this long: one acknowledgement serves for all, and one visit to the library. No
/// more than a quarter of what the broker sends ahead, or it would wait for us.
const OWED_FOR: Duration = Duration::from_millis(20);

impl WakeConsumer {
    pub(super) fn apply_verdicts(&mut self, batch: Vec<(Held, Verdict)>) {
        let now = self.shared.clock.now();
        let mut done = Vec::with_capacity(batch.len());
        let mut unknown_orders = Vec::new();
        for (held, verdict) in batch {
            let unknown = verdict == Verdict::Unknown;
            // Of those that are there, the closer counts the failures.
            if unknown && held.wake.announced {
                self.shared.stats.add(Count::Failed, 1);
            }
            match next_step(held.wake, &verdict, self.shared.retry, now) {
                NextStep::Done => done.push(held.tag),
                NextStep::Reschedule(wake) => self.hold_or_reschedule(wake, held.tag),
                NextStep::RetryShortly if held.deferrals < MOST_DEFERRALS && !self.handing_over => {
                    let wait = FIRST_DEFERRAL * (1 << held.deferrals);
                    let wake = Wake { due: now.plus(wait), ..held.wake };
                    self.in_flight.wait(Held { wake, deferrals: held.deferrals + 1, ..held });
                }
                NextStep::Alone if !self.handing_over => self.slow.push_back(held),
                NextStep::RetryShortly | NextStep::Alone => {
                    let due = now.plus(self.shared.config.lanes.as_slice()[0].length);
                    self.outbound.push((Wake { due, ..held.wake }, held.tag));
                }
                NextStep::Park { wake, reason } => {
                    if unknown {
                        unknown_orders.push((wake, held.tag));
                        continue;
                    }
                    tracing::error!(
                        event = "parking_order",
                        order_id = wake.order_id,
                        reason,
                        "parking an order that cannot be closed"
                    );
                    let message = parked_wakes(&[wake], &reason, now);
                    self.to_park.push((message, vec![held.tag]));
                }
            }
        }
        self.park_unknown(&unknown_orders, now);
        self.done(done);
    }

    /// Anybody may name orders that do not exist: one message and one line in the log for all of a batch.
    fn park_unknown(&mut self, orders: &[(Wake, Tag)], now: DbTime) {
        for orders in orders.chunks(self.shared.config.max_orders_per_wake) {
            let (wakes, tags): (Vec<_>, Vec<_>) = orders.iter().copied().unzip();
            let (first, count, attempts) = (wakes[0].order_id, wakes.len(), self.shared.config.max_attempts);
            let reason = match count {
                1 => format!("order {first} does not exist (after {attempts} attempts)"),
                _ => format!("{count} orders do not exist (after {attempts} attempts)"),
            };
            tracing::error!(
                event = "parking_unknown_orders",
                count,
                first,
                "parking orders that messages have named and that do not exist"
            );
            self.to_park.push((parked_wakes(&wakes, &reason, now), tags));
        }
    }

    /// Notes that these orders are done.
    pub(super) fn done(&mut self, orders: Vec<Tag>) {
        for tag in orders {
            self.in_flight.done(tag);
        }
    }

    /// Acknowledges the messages that are done, when they are many or have waited for others.
    pub(super) async fn acknowledge(&mut self) -> Result<(), RoleError> {
        if self.stopping || self.in_flight.owed() == 0 {
            self.acknowledge_at = None;
            return Ok(());
        }
        let now = Instant::now();
        let waited = now >= *self.acknowledge_at.get_or_insert(now + OWED_FOR);
        if waited || 4 * self.in_flight.owed() >= self.messages_ahead() {
            self.acknowledge_at = None;
            self.acknowledge_owed().await?;
        }
        Ok(())
    }

    /// Told to stop, this is done once, when everything that was delivered is done: one acknowledgement for all. A channel passes
    /// on some thirty to a quorum queue before it has heard of the first; those that still wait when it is closed are lost, and
    /// messages come again.
    pub(super) async fn acknowledge_owed(&mut self) -> Result<(), RoleError> {
        let acks = self.in_flight.take_acks().into_iter();
        let acks =
            acks.map(|Ack { tag, multiple }| self.channel.basic_ack(tag, BasicAckOptions { multiple }));
        self.shared.broker.bounded("acknowledging", together_in_order(acks)).await?;
        Ok(())
    }

    /// Told to stop: asks for no more messages, when no more come.
    pub(super) async fn cancel_when_quiet(&mut self, consumer: Option<&Deliveries>) -> Result<(), RoleError> {
        if self.cancel_at.is_some_and(|at| at <= Instant::now()) {
            self.cancel_at = None;
            if let Some(consumer) = consumer {
                self.shared.broker.cancel(&self.channel, consumer).await?;
            }
        }
        Ok(())
    }

    /// From now on, whatever is not in the database's hands is published again for other pods.
    pub(super) fn hand_over(&mut self) {
        self.hand_over_at = None;
        self.handing_over = true;
        let left = self.in_flight.leave();
        if !left.is_empty() {
            tracing::info!(
                event = "handing_over",
                orders = left.len(),
                "handing over what could not be closed soon"
            );
        }
        self.outbound.extend(left.into_iter().chain(self.slow.drain(..)).map(|held| (held.wake, held.tag)));
    }

    /// Gives what is left back to the queue at once, and says so. The broker would do it when the connection closes;
    /// a nack says that nobody crashed, which newer brokers do not count against the message.
    pub(super) async fn give_back(&mut self) {
        self.closing.abort_all();
        self.closing_apart.abort_all();
        self.moving.abort_all();
        self.recording_probes.abort_all();
        // First of all, and with nothing in hand too: what is done must not come again.
        let _ = self.acknowledge_owed().await;
        let (messages, orders) = (self.in_flight.messages(), self.in_flight.orders());
        if messages > 0 {
            let all = BasicNackOptions { multiple: true, requeue: true };
            let nack =
                self.shared.broker.bounded("giving messages back", self.channel.basic_nack(0, all)).await;
            tracing::info!(
                event = "gave_back",
                messages,
                orders,
                given_back = nack.is_ok(),
                "gave back what was in hand"
            );
        }
    }
}

fn parked_wakes(wakes: &[Wake], reason: &str, now: DbTime) -> Outgoing {
    let properties = lapin::BasicProperties::default()
        .with_content_type("application/json".into())
        .with_type(wake::WAKE_TYPE.into());
    parked(wake::encode(wakes), &properties, reason, KEY_PROCESS, now)
}

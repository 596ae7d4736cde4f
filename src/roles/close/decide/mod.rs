//! What a pod does about what happens to its wakes. Pure: events in, effects out; the session carries the effects out.
//!
//! Order of things, always: commit, then publish what follows from it, then acknowledge. A crash between any two of
//! them makes a message come again, which is harmless.

mod event;
mod verdicts;

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::drain::{Drain, Step};
use super::in_flight::{Held, InFlight, Tag};
use crate::clock::DbTime;
use crate::closing::next_step::RetryPolicy;
use crate::lanes::schedule::Scheduler;
use crate::wire::malformed::Malformed;
use crate::wire::outgoing::Outgoing;
use crate::wire::wake::Wake;

pub(super) use event::{Arrival, Effect, Event, Limits, NextMoments, Now, Publication, Report};

/// Wakes that are sent on wait for others for this long: each lane's travel in one message. Only those with seconds left are.
const GATHER: Duration = Duration::from_millis(100);
/// Publish early once this many are waiting.
const GATHERED: usize = 500;

/// Messages that are done wait for others for this long: one acknowledgement serves for all, and one visit to the library. No
/// more than a quarter of what the broker sends ahead, or it would wait for us.
const ACKNOWLEDGE_WITHIN: Duration = Duration::from_millis(20);

/// What is at work outside of here.
#[derive(Debug, Default)]
struct Running {
    batches: usize,
    /// At most one batch of orders that have failed before, or one slow order.
    apart: bool,
    /// At most one publication; what gathers meanwhile goes together next.
    publishing: bool,
    /// At most one.
    recording_probes: bool,
}

/// The consumer of the process queue: the wakes and messages that a pod has, and what becomes of them.
#[derive(Debug)]
pub(super) struct WakeConsumer {
    limits: Limits,
    retry: RetryPolicy,
    scheduler: Scheduler,
    /// Wakes on their timers, and messages with what is open of them.
    pub in_flight: InFlight,
    /// Orders that are too slow for a batch.
    slow: VecDeque<Held>,
    running: Running,
    /// Wakes to be scheduled again.
    to_reschedule: Vec<(Wake, Tag)>,
    /// Messages to be parked, each with those that it is made of.
    to_park: Vec<(Outgoing, Vec<Tag>)>,
    /// How many of these could not be understood, and why the last one could not; reported in one line for all.
    malformed: Option<(usize, Malformed)>,
    /// Until when wakes to be scheduled again wait for others.
    gather_until: Option<Instant>,
    /// Probes that have come back.
    probes: Vec<(String, Tag)>,
    /// When messages that are done have waited for others long enough.
    acknowledge_at: Option<Instant>,
    drain: Drain,
    consumer_ended: bool,
}

impl WakeConsumer {
    pub fn new(limits: Limits, retry: RetryPolicy, scheduler: Scheduler) -> Self {
        Self {
            limits,
            retry,
            scheduler,
            in_flight: InFlight::default(),
            slow: VecDeque::new(),
            running: Running::default(),
            to_reschedule: Vec::new(),
            to_park: Vec::new(),
            malformed: None,
            gather_until: None,
            probes: Vec::new(),
            acknowledge_at: None,
            drain: Drain::Taking,
            consumer_ended: false,
        }
    }

    /// Decides what to do about an event; appends it to `effects`, in the order in which it is to be done.
    pub fn decide(&mut self, event: Event, now: Now, effects: &mut Vec<Effect>) {
        match event {
            Event::Arrived(arrivals) => self.take(arrivals, now),
            Event::Closed { apart, verdicts } => {
                if apart {
                    self.running.apart = false;
                } else {
                    self.running.batches -= 1;
                }
                self.apply_verdicts(verdicts, now, effects);
            }
            Event::Published(tags) => {
                self.running.publishing = false;
                self.done(&tags);
            }
            Event::ProbesRecorded(tags) => {
                self.running.recording_probes = false;
                self.done(&tags);
            }
            Event::Moment => {}
            Event::StopRequested => {
                self.drain.begin(now.instant);
                effects.push(Effect::Report(Report::Stopping(self.in_flight.orders())));
            }
            // After basic.cancel it is ours; before, the server has ended it without a word.
            Event::ConsumerEnded if self.drain.is_stopping() => self.consumer_ended = true,
            Event::ConsumerEnded => effects.push(Effect::ConsumerLost),
        }
        while let Some(step) = self.drain.step(now.instant) {
            match step {
                Step::Cancel if self.consumer_ended => {}
                Step::Cancel => effects.push(Effect::CancelConsumer),
                Step::HandOver => self.hand_over(effects),
            }
        }
        self.acknowledge(now, effects);
        self.start_closing(now, effects);
        self.start_publishing(now, effects);
        self.start_recording_probes(effects);
        if self.drain.is_cancelled() && self.consumer_ended && self.in_flight.messages() == 0 {
            self.drain = Drain::Done;
            // One acknowledgement for everything since the stop. A channel passes on some thirty to a quorum queue before it has heard
            // of the first; those that still wait when it is closed are lost, and messages come again.
            effects.push(Effect::Acknowledge(self.in_flight.take_acks()));
        }
    }

    /// When [`Event::Moment`] is to come. One timer for everything: each costs as much as a message.
    pub fn next_moments(&self) -> NextMoments {
        let due = self.in_flight.next_due().filter(|_| self.running.batches < self.limits.batches);
        let apart = self.in_flight.next_failed_due().filter(|_| !self.running.apart);
        let gathered = self.gather_until.filter(|_| !self.running.publishing);
        NextMoments {
            due: [due, apart].into_iter().flatten().min(),
            waited: [gathered, self.acknowledge_at, self.drain.next_moment()].into_iter().flatten().min(),
        }
    }

    /// How many more orders may be taken. During shutdown every delivery is accepted, so that it can be told when the broker has
    /// sent the last one.
    pub fn room(&self) -> usize {
        if self.drain.is_stopping() {
            usize::MAX
        } else {
            self.limits.orders.saturating_sub(self.in_flight.orders())
        }
    }

    /// Whether orders are due that no closing transaction has taken up yet.
    pub fn is_behind(&self, now: DbTime) -> bool {
        self.in_flight.next_due().is_some_and(|due| due <= now)
    }

    pub fn is_stopping(&self) -> bool {
        self.drain.is_stopping()
    }

    pub fn is_done(&self) -> bool {
        self.drain == Drain::Done
    }

    /// Acknowledges the messages that are done, when they are many or have waited for others. During shutdown that is done once, at
    /// the end.
    fn acknowledge(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.drain.is_stopping() || self.in_flight.owed() == 0 {
            self.acknowledge_at = None;
            return;
        }
        let at = *self.acknowledge_at.get_or_insert(now.instant + ACKNOWLEDGE_WITHIN);
        if at <= now.instant || 4 * self.in_flight.owed() >= self.limits.messages {
            self.acknowledge_at = None;
            effects.push(Effect::Acknowledge(self.in_flight.take_acks()));
        }
    }

    /// A batch is whatever is due when there is room for one: no waiting to fill it.
    fn start_closing(&mut self, now: Now, effects: &mut Vec<Effect>) {
        while self.running.batches < self.limits.batches {
            let batch = self.in_flight.due(now.time, self.limits.batch);
            if batch.is_empty() {
                break;
            }
            self.running.batches += 1;
            effects.push(Effect::Close(batch));
        }
        if self.running.apart {
            return;
        }
        if let Some(held) = self.slow.pop_front() {
            self.running.apart = true;
            effects.push(Effect::CloseAlone(held));
        } else {
            let batch = self.in_flight.failed_due(now.time, self.limits.batch);
            if !batch.is_empty() {
                self.running.apart = true;
                effects.push(Effect::CloseApart(batch));
            }
        }
    }

    fn start_publishing(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let nothing = self.to_reschedule.is_empty() && self.to_park.is_empty();
        if self.running.publishing || nothing || self.gathers(now.instant) {
            return;
        }
        self.gather_until = None;
        if let Some((count, reason)) = self.malformed.take() {
            effects.push(Effect::Report(Report::ParkingMalformed(count, reason)));
        }
        let (wakes, mut tags): (Vec<_>, Vec<_>) = std::mem::take(&mut self.to_reschedule).into_iter().unzip();
        let (parked, parked_tags): (Vec<_>, Vec<_>) = std::mem::take(&mut self.to_park).into_iter().unzip();
        tags.extend(parked_tags.into_iter().flatten());
        self.running.publishing = true;
        effects.push(Effect::Publish(Publication { wakes, parked, tags }));
    }

    /// Whether wakes that are to be sent on wait for others that go the same way.
    fn gathers(&mut self, now: Instant) -> bool {
        let many = self.to_reschedule.len() >= GATHERED
            || 4 * self.in_flight.unacknowledged() >= 3 * self.limits.messages;
        if many || self.drain.is_stopping() || !self.to_park.is_empty() {
            return false;
        }
        now < *self.gather_until.get_or_insert(now + GATHER)
    }

    fn start_recording_probes(&mut self, effects: &mut Vec<Effect>) {
        if self.running.recording_probes || self.probes.is_empty() {
            return;
        }
        self.running.recording_probes = true;
        let (tokens, tags) = std::mem::take(&mut self.probes).into_iter().unzip();
        effects.push(Effect::RecordProbes(tokens, tags));
    }
}

//! The consumer's decisions. Pure: events in, effects out; the session carries the effects out.
//!
//! The order is always: commit, then publish what follows from the commit, then acknowledge. A crash between any two
//! steps causes a redelivery, which is harmless.

mod event;
mod verdicts;

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::drain::{Drain, Step};
use super::in_flight::{Held, InFlight, Tag};
use crate::clock::DbTime;
use crate::closing::next_step::RetryPolicy;
use crate::lanes::GATHER;
use crate::lanes::schedule::Scheduler;
use crate::wire::malformed::Malformed;
use crate::wire::outgoing::Outgoing;
use crate::wire::wake::Wake;

pub(super) use event::{Arrival, Effect, Event, Limits, NextMoments, Now, Publication, Report};

/// Wakes to be rescheduled that may not wait for [`GATHER`] wait for others for this long.
const GATHER_BRIEFLY: Duration = Duration::from_millis(100);
/// Publish early once this many are waiting.
const GATHERED: usize = 500;

/// Finished messages wait for others for this long: one acknowledgement and one call into the library serve all of them.
/// At most a quarter of the prefetch waits, or the broker would have to wait for acknowledgements.
const ACKNOWLEDGE_WITHIN: Duration = Duration::from_millis(20);

/// The tasks that the session has running.
#[derive(Debug, Default)]
struct Running {
    batches: usize,
    /// At most one batch of orders that have failed before, or one slow order.
    apart: bool,
    /// At most one publication; what gathers meanwhile goes into the next one.
    publishing: bool,
    /// At most one task.
    recording_probes: bool,
}

/// The state of the process queue's consumer: its wakes and messages, and what is to become of them.
#[derive(Debug)]
pub(super) struct WakeConsumer {
    limits: Limits,
    retry: RetryPolicy,
    scheduler: Scheduler,
    /// Wakes on their timers, and for each message how many of its orders are open.
    pub in_flight: InFlight,
    /// Orders that are too slow for a batch.
    slow: VecDeque<Held>,
    running: Running,
    to_reschedule: Vec<(Wake, Tag)>,
    /// Messages to be parked, each with the tags of the messages that it replaces.
    to_park: Vec<(Outgoing, Vec<Tag>)>,
    /// How many of these are malformed, and the reason of the last; one log line reports all of them.
    malformed: Option<(usize, Malformed)>,
    /// Until when wakes to be rescheduled wait for others.
    gather_until: Option<Instant>,
    /// Probes that have come back and are not being recorded yet.
    probes: Vec<(String, Tag)>,
    /// When finished messages have waited for others long enough.
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

    /// Decides what to do about an event; appends the effects in the order in which they must be carried out.
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
            // During shutdown the end is expected. Otherwise the server has ended the consumer unasked.
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
            // One acknowledgement covers everything since shutdown began. A channel passes some thirty on to a quorum
            // queue before it hears back about the first; those still waiting when the channel closes are lost, and
            // their messages are redelivered.
            effects.push(Effect::Acknowledge(self.in_flight.take_acks()));
        }
    }

    /// When [`Event::Moment`] is due. One timer serves everything, because each timer costs as much as a message.
    pub fn next_moments(&self) -> NextMoments {
        let due = self.next_step().filter(|_| self.running.batches < self.limits.batches);
        let apart = self.in_flight.next_failed_due().filter(|_| !self.running.apart);
        let gathered = self.gather_until.filter(|_| !self.running.publishing);
        NextMoments {
            due: [due, apart].into_iter().flatten().min(),
            waited: [gathered, self.acknowledge_at, self.drain.next_moment()].into_iter().flatten().min(),
        }
    }

    /// How many more orders may be taken. During shutdown every delivery is accepted: only then is it known when the broker
    /// has sent the last one.
    pub fn room(&self) -> usize {
        if self.drain.is_stopping() {
            usize::MAX
        } else {
            self.limits.orders.saturating_sub(self.in_flight.orders())
        }
    }

    /// Whether due orders are waiting for a closing transaction.
    pub fn is_behind(&self, now: DbTime) -> bool {
        self.next_step().is_some_and(|due| due <= now)
    }

    /// When the next order is to be closed: at its deadline, or at the end of the step in which that lies.
    fn next_step(&self) -> Option<DbTime> {
        self.in_flight.next_due().map(|due| due.rounded_up(self.limits.pace))
    }

    pub fn is_stopping(&self) -> bool {
        self.drain.is_stopping()
    }

    pub fn is_done(&self) -> bool {
        self.drain == Drain::Done
    }

    /// Acknowledges finished messages once they are many or have waited long enough. During shutdown they are acknowledged
    /// once, at the end.
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

    /// A batch is whatever is due when there is room for a batch; it never waits to be filled.
    fn start_closing(&mut self, now: Now, effects: &mut Vec<Effect>) {
        while self.running.batches < self.limits.batches && self.is_behind(now.time) {
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

    /// Reschedules a wake, soon: others may take the same message.
    fn reschedule(&mut self, wake: Wake, tag: Tag, now: Now) {
        let wait = if self.scheduler.may_gather(wake.due, now.time) { GATHER } else { GATHER_BRIEFLY };
        let until = now.instant + wait;
        self.gather_until = Some(self.gather_until.map_or(until, |earlier| earlier.min(until)));
        self.to_reschedule.push((wake, tag));
    }

    /// Whether wakes to be rescheduled still wait for others.
    fn gathers(&self, now: Instant) -> bool {
        let many = self.to_reschedule.len() >= GATHERED
            || 4 * self.in_flight.unacknowledged() >= 3 * self.limits.messages;
        if many || self.drain.is_stopping() || !self.to_park.is_empty() {
            return false;
        }
        self.gather_until.is_some_and(|until| now < until)
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

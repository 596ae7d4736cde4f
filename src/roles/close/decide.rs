//! What a pod does about what happens to its wakes. Pure: events in, effects out; the session carries the effects out.
//!
//! Order of things, always: commit, then publish what follows from it, then acknowledge. A crash between any two of
//! them makes a message come again, which is harmless.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::drain::{Drain, Step};
use super::in_flight::{Ack, Held, InFlight, Tag};
use crate::clock::DbTime;
use crate::closing::Verdict;
use crate::closing::next_step::{NextStep, RetryPolicy, next_step};
use crate::lanes::LONGEST_HOLD;
use crate::lanes::schedule::Scheduler;
use crate::wire::keys::KEY_PROCESS;
use crate::wire::malformed::Malformed;
use crate::wire::outgoing::Outgoing;
use crate::wire::parked::parked;
use crate::wire::wake::{self, Wake};

/// Wakes that are sent on wait for others for this long: each lane's travel in one message. Only those with seconds left are.
const GATHER: Duration = Duration::from_millis(100);
/// Publish early once this many are waiting.
const GATHERED: usize = 500;

/// Messages that are done wait for others for this long: one acknowledgement serves for all, and one visit to the library. No
/// more than a quarter of what the broker sends ahead, or it would wait for us.
const ACKNOWLEDGE_WITHIN: Duration = Duration::from_millis(20);

/// What a message turned out to be.
#[derive(Debug)]
pub(super) enum Arrival {
    /// Wakes for these orders.
    Wakes(Tag, Vec<Wake>),
    /// A probe with this token.
    Probe(Tag, String),
    /// It cannot be understood: why, and the message that goes to the parked queue. Boxed, because it is large and rare.
    Malformed(Tag, Box<(Malformed, Outgoing)>),
}

/// Something that happened.
#[derive(Debug)]
pub(super) enum Event {
    /// Messages have arrived.
    Arrived(Vec<Arrival>),
    /// A batch has its verdicts; `apart` as it was started.
    Closed {
        /// Whether it was closed apart from the others.
        apart: bool,
        /// Its wakes with what became of their orders.
        verdicts: Vec<(Held, Verdict)>,
    },
    /// The broker has confirmed what was published: one tag for each order or message in it.
    Published(Vec<Tag>),
    /// Probes have been recorded.
    ProbesRecorded(Vec<Tag>),
    /// A moment that [`WakeConsumer::next_moments`] named has come.
    Moment,
    /// Somebody asks to stop.
    StopRequested,
    /// The consumer's stream has ended.
    ConsumerEnded,
}

/// Something to do.
#[derive(Debug, PartialEq)]
pub(super) enum Effect {
    /// Close these orders together.
    Close(Vec<Held>),
    /// Close these orders together, apart from the others, which need not wait for them.
    CloseApart(Vec<Held>),
    /// Close this order alone: it is too slow for a batch.
    CloseAlone(Held),
    /// Publish these, and report their tags when the broker has confirmed all of them.
    Publish(Publication),
    /// Record that these probes have come back, and report their tags then.
    RecordProbes(Vec<String>, Vec<Tag>),
    /// Acknowledge these messages.
    Acknowledge(Vec<Ack>),
    /// Ask the broker for no more messages.
    CancelConsumer,
    /// The broker has ended the consumer: the session is lost.
    ConsumerLost,
    /// Count so many failures of orders that do not exist; the closer counts those of the others.
    CountFailed(usize),
    /// Log this.
    Report(Report),
}

/// What is published together.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Publication {
    /// Wakes to be scheduled again.
    pub wakes: Vec<Wake>,
    /// Messages for the parked queue.
    pub parked: Vec<Outgoing>,
    /// Of each order and message above.
    pub tags: Vec<Tag>,
}

/// A line for the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// Stopping, with so many orders in flight.
    Stopping(usize),
    /// This many orders go to other pods.
    HandingOver(usize),
    /// An order that cannot be closed is parked: which, and why.
    ParkingOrder(i64, String),
    /// This many orders that do not exist are parked; the first of them.
    ParkingUnknown(usize, i64),
    /// This many messages that cannot be understood are parked; why the last one cannot.
    ParkingMalformed(usize, Malformed),
}

/// The moment of a decision, by both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    /// By the database's clock, as deadlines are.
    pub time: DbTime,
    /// By this machine's clock, as waits are.
    pub instant: Instant,
}

/// What a pod may have in flight; see the settings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Messages that the broker sends ahead.
    pub messages: usize,
    /// Orders.
    pub orders: usize,
    /// Orders in a batch.
    pub batch: usize,
    /// Batches at one time.
    pub batches: usize,
    /// Orders in a message.
    pub orders_per_wake: usize,
}

/// When there is something to do though nothing happens.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NextMoments {
    /// By the database's clock: a wake is due.
    pub due: Option<DbTime>,
    /// By this machine's clock: something has waited long enough.
    pub waited: Option<Instant>,
}

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

    fn take(&mut self, arrivals: Vec<Arrival>, now: Now) {
        for arrival in arrivals {
            match arrival {
                Arrival::Wakes(tag, wakes) => {
                    self.in_flight.take(tag, wakes.len());
                    for wake in wakes {
                        self.hold_or_reschedule(wake, tag, now.time);
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

    /// Holds a wake, or sends it on where much time remains.
    fn hold_or_reschedule(&mut self, wake: Wake, tag: Tag, now: DbTime) {
        let near = wake.due.since(now) <= LONGEST_HOLD && self.has_leisure();
        if (near || self.scheduler.holds(&wake, now)) && self.drain.may_wait() {
            self.in_flight.hold(Held { wake, tag, deferrals: 0 });
        } else {
            self.to_reschedule.push((wake, tag));
        }
    }

    /// Whether there is room for wakes that another lane could carry nearer to their moment: holding them costs nothing but
    /// room, while every further lane costs messages, and the fewer orders one carries the more. Half of the room is for
    /// wakes that are due, which would otherwise stand in the queue behind those that are not.
    fn has_leisure(&self) -> bool {
        2 * self.in_flight.unacknowledged() <= self.limits.messages
            && 2 * self.in_flight.orders() <= self.limits.orders
    }

    fn apply_verdicts(&mut self, batch: Vec<(Held, Verdict)>, now: Now, effects: &mut Vec<Effect>) {
        let (mut unknown_failed, mut unknown_orders) = (0, Vec::new());
        for (held, verdict) in batch {
            let (Held { wake, tag, deferrals }, unknown) = (held, verdict == Verdict::Unknown);
            unknown_failed += usize::from(unknown && wake.announced);
            match next_step(wake, &verdict, deferrals, self.drain.may_wait(), self.retry, now.time) {
                NextStep::Done => self.in_flight.done(tag),
                NextStep::Reschedule(wake) => self.hold_or_reschedule(wake, tag, now.time),
                NextStep::RetryShortly(wake) => {
                    self.in_flight.hold(Held { wake, tag, deferrals: deferrals + 1 });
                }
                NextStep::ToLane(wake) => self.to_reschedule.push((wake, tag)),
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

    /// Anybody may name orders that do not exist: one message and one line in the log for all of a batch.
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

    fn done(&mut self, tags: &[Tag]) {
        for tag in tags {
            self.in_flight.done(*tag);
        }
    }

    /// From now on, whatever is not in the database's hands is published again for other pods.
    fn hand_over(&mut self, effects: &mut Vec<Effect>) {
        let held = self.in_flight.take_held().into_iter().chain(self.slow.drain(..));
        let left: Vec<_> = held.map(|held| (held.wake, held.tag)).collect();
        if !left.is_empty() {
            effects.push(Effect::Report(Report::HandingOver(left.len())));
        }
        self.to_reschedule.extend(left);
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

fn parked_wakes(wakes: &[Wake], reason: &str, now: DbTime) -> Outgoing {
    let properties = lapin::BasicProperties::default()
        .with_content_type("application/json".into())
        .with_type(wake::WAKE_TYPE.into());
    parked(wake::encode(wakes), &properties, reason, KEY_PROCESS, now)
}

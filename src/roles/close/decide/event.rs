//! The events that the consumer decides on, and the effects that it asks for.

use std::time::Duration;

use tokio::time::Instant;

use crate::clock::DbTime;
use crate::closing::Verdict;
use crate::roles::close::in_flight::{Ack, Held, Tag};
use crate::wire::malformed::Malformed;
use crate::wire::outgoing::Outgoing;
use crate::wire::wake::Wake;

/// A decoded delivery.
#[derive(Debug)]
pub(in crate::roles::close) enum Arrival {
    Wakes(Tag, Vec<Wake>),
    /// A probe with this token.
    Probe(Tag, String),
    /// Why the message is malformed, and the message that goes to the parked queue. Boxed, because it is large and rare.
    Malformed(Tag, Box<(Malformed, Outgoing)>),
}

#[derive(Debug)]
pub(in crate::roles::close) enum Event {
    Arrived(Vec<Arrival>),
    /// A closing batch has finished.
    Closed {
        /// Whether the batch was closed apart from the others.
        apart: bool,
        /// Its wakes, each with the verdict on its order.
        verdicts: Vec<(Held, Verdict)>,
    },
    /// The broker has confirmed a publication; one tag for each order and each malformed message in it.
    Published(Vec<Tag>),
    ProbesRecorded(Vec<Tag>),
    /// A moment from `WakeConsumer::next_moments` has come.
    Moment,
    StopRequested,
    /// The consumer's stream has ended.
    ConsumerEnded,
}

#[derive(Debug, PartialEq)]
pub(in crate::roles::close) enum Effect {
    /// Close these orders in one batch.
    Close(Vec<Held>),
    /// Close these orders, which have failed before, in a batch of their own: the others need not wait for them.
    CloseApart(Vec<Held>),
    /// Close this order alone: it is too slow for a batch.
    CloseAlone(Held),
    /// Publish these; [`Event::Published`] follows when the broker has confirmed all of them.
    Publish(Publication),
    /// Record that these probes have come back; [`Event::ProbesRecorded`] follows.
    RecordProbes(Vec<String>, Vec<Tag>),
    Acknowledge(Vec<Ack>),
    CancelConsumer,
    /// The broker has ended the consumer: the session is lost.
    ConsumerLost,
    /// Count this many failures of orders that do not exist; the closer counts all other failures.
    CountFailed(usize),
    Report(Report),
}

/// Messages that are published together.
#[derive(Debug, Default, PartialEq)]
pub(in crate::roles::close) struct Publication {
    /// Wakes to be scheduled again.
    pub wakes: Vec<Wake>,
    /// Messages for the parked queue.
    pub parked: Vec<Outgoing>,
    /// One for each order and each malformed message above.
    pub tags: Vec<Tag>,
}

/// A line for the log.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::roles::close) enum Report {
    /// Shutdown begins, with this many orders in flight.
    Stopping(usize),
    /// This many orders go to other pods.
    HandingOver(usize),
    /// An order that cannot be closed is parked: its id and the reason.
    ParkingOrder(i64, String),
    /// This many orders that do not exist are parked; the id of the first.
    ParkingUnknown(usize, i64),
    /// This many malformed messages are parked; the reason of the last.
    ParkingMalformed(usize, Malformed),
}

/// The moment of a decision, by both clocks.
#[derive(Clone, Copy, Debug)]
pub(in crate::roles::close) struct Now {
    /// By the database's clock, as deadlines are.
    pub time: DbTime,
    /// By this machine's clock, as waits are.
    pub instant: Instant,
}

/// What a pod may have in flight; see the settings.
#[derive(Clone, Copy, Debug)]
pub(in crate::roles::close) struct Limits {
    /// Unacknowledged messages: the prefetch.
    pub messages: usize,
    pub orders: usize,
    /// Orders in a batch.
    pub batch: usize,
    /// Batches that are closed at one time.
    pub batches: usize,
    /// Orders are closed in steps of this length; zero is at their deadlines.
    pub pace: Duration,
    /// Orders in a message.
    pub orders_per_wake: usize,
}

/// When to decide again if no other event comes before.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::roles::close) struct NextMoments {
    /// By the database's clock: a wake is due.
    pub due: Option<DbTime>,
    /// By this machine's clock: something has waited long enough.
    pub waited: Option<Instant>,
}

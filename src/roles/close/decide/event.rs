//! What happens to a pod's wakes, and what is to be done about it.

use tokio::time::Instant;

use crate::clock::DbTime;
use crate::closing::Verdict;
use crate::roles::close::in_flight::{Ack, Held, Tag};
use crate::wire::malformed::Malformed;
use crate::wire::outgoing::Outgoing;
use crate::wire::wake::Wake;

/// What a message turned out to be.
#[derive(Debug)]
pub(in crate::roles::close) enum Arrival {
    /// Wakes for these orders.
    Wakes(Tag, Vec<Wake>),
    /// A probe with this token.
    Probe(Tag, String),
    /// It cannot be understood: why, and the message that goes to the parked queue. Boxed, because it is large and rare.
    Malformed(Tag, Box<(Malformed, Outgoing)>),
}

/// Something that happened.
#[derive(Debug)]
pub(in crate::roles::close) enum Event {
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
    /// A moment that `WakeConsumer::next_moments` named has come.
    Moment,
    /// Somebody asks to stop.
    StopRequested,
    /// The consumer's stream has ended.
    ConsumerEnded,
}

/// Something to do.
#[derive(Debug, PartialEq)]
pub(in crate::roles::close) enum Effect {
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
pub(in crate::roles::close) struct Publication {
    /// Wakes to be scheduled again.
    pub wakes: Vec<Wake>,
    /// Messages for the parked queue.
    pub parked: Vec<Outgoing>,
    /// Of each order and message above.
    pub tags: Vec<Tag>,
}

/// A line for the log.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::roles::close) enum Report {
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
pub(in crate::roles::close) struct Now {
    /// By the database's clock, as deadlines are.
    pub time: DbTime,
    /// By this machine's clock, as waits are.
    pub instant: Instant,
}

/// What a pod may have in flight; see the settings.
#[derive(Clone, Copy, Debug)]
pub(in crate::roles::close) struct Limits {
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
pub(in crate::roles::close) struct NextMoments {
    /// By the database's clock: a wake is due.
    pub due: Option<DbTime>,
    /// By this machine's clock: something has waited long enough.
    pub waited: Option<Instant>,
}

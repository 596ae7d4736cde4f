//! The consumer of the process queue: takes wakes in hand, closes what is due in natural batches, settles the verdicts.
//!
//! Order of things, always: commit, then publish what follows from it, then acknowledge. A crash between any two of
//! them makes a message come again, which is harmless.

mod finish;
pub mod in_flight;
mod probes;
mod take;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lapin::Channel;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::broker::consumer::{Deliveries, QUIET, QUIET_AT_LAST};
use crate::broker::publisher::Publisher;
use crate::broker::{self, BrokerError};
use crate::closing::{Closer, Verdict};
use crate::database;
use crate::roles::RoleError;
use crate::roles::shared::{Shared, after_stop};
use crate::stats::Count;
use crate::wire::malformed::Malformed;
use crate::wire::outgoing::Outgoing;
use crate::wire::wake::Wake;
use in_flight::{Held, InFlight, Tag};
use take::next_delivery;

/// A pod that was asked to stop closes orders for this long; then it publishes what is left for the others, and acknowledges.
/// Given back instead, messages would come again as redeliveries, which brokers count against them.
const HAND_OVER: Duration = Duration::from_secs(2);

/// Wakes that are sent on wait for others for this long: each lane's travel in one message. Only those with seconds left are.
const GATHER: Duration = Duration::from_millis(100);
/// So many are enough.
const GATHERED: usize = 500;

/// One session: connects, works until `stop` or until something breaks, gives back what is left.
///
/// # Errors
/// Whatever broke; the caller builds a new session.
pub async fn session(shared: &Arc<Shared>, stop: &CancellationToken) -> Result<(), RoleError> {
    // Messages are better off in the queue than in a pod that cannot do anything with them.
    database::probe(&shared.closer.pool, &shared.clock).await?;
    let publisher = Arc::new(Publisher::connect(&shared.broker, "close").await?);
    let connection = shared.broker.connect("close").await?;
    let (channel, consumer) = shared
        .broker
        .consume(&connection, &shared.broker.names.process(), shared.config.messages_ahead())
        .await?;
    let mut collector = WakeConsumer {
        shared: Arc::clone(shared),
        intake: shared.broker.names.intake(),
        publisher,
        channel,
        in_flight: InFlight::default(),
        closing: JoinSet::new(),
        closing_apart: JoinSet::new(),
        slow: VecDeque::new(),
        moving: JoinSet::new(),
        recording_probes: JoinSet::new(),
        probes: Vec::new(),
        stopping: false,
        acknowledge_at: None,
        cancel_at: None,
        hand_over_at: None,
        handing_over: false,
        outbound: Vec::new(),
        gathered_at: None,
        to_park: Vec::new(),
        malformed: None,
    };
    tracing::info!(event = "taking_wakes", "taking wakes");
    let outcome = tokio::select! {
        outcome = collector.work(consumer, stop) => outcome,
        () = after_stop(stop, shared.config.drain_timeout) => Ok(()),
    };
    collector.shared.behind.store(false, Ordering::Relaxed);
    let left = collector.in_flight.orders();
    // A broker that is in trouble gives everything back by itself when the connection is gone.
    if !matches!(outcome, Err(RoleError::Broker(_))) {
        collector.give_back().await;
        broker::close(&connection).await;
    }
    match outcome {
        // Only when asked to stop does a session end before its time without an error.
        Ok(()) if left > 0 => Err(RoleError::Unfinished { orders: left }),
        Err(error) if left > 0 && stop.is_cancelled() => {
            tracing::warn!(event = "broken_while_stopping", %error, "broke while stopping");
            Err(RoleError::Unfinished { orders: left })
        }
        outcome => outcome,
    }
}

/// Wakes of a batch with what became of their orders.
type Verdicts = Vec<(Held, Verdict)>;

struct WakeConsumer {
    shared: Arc<Shared>,
    /// The intake queue's name: what has expired there comes from services.
    intake: String,
    publisher: Arc<Publisher>,
    channel: Channel,
    in_flight: InFlight,
    /// Batches on their way to the database.
    closing: JoinSet<Result<Verdicts, RoleError>>,
    /// At most one batch of orders that have failed before, or one slow order: the others need not wait for them.
    closing_apart: JoinSet<Result<Verdicts, RoleError>>,
    /// Orders that are too slow for a batch.
    slow: VecDeque<Held>,
    /// At most one publish on its way; what gathers meanwhile goes together next.
    moving: JoinSet<Result<Vec<Tag>, RoleError>>,
    /// At most one note of probes on its way.
    recording_probes: JoinSet<Result<Vec<Tag>, RoleError>>,
    /// Probes that have come back.
    probes: Vec<(String, Tag)>,
    /// When messages that are done have waited for others long enough, and are acknowledged.
    acknowledge_at: Option<Instant>,
    /// Told to stop. From then on messages that are done are owed their acknowledgement until all are.
    stopping: bool,
    /// Told to stop: when no more messages are asked for; see [`QUIET`].
    cancel_at: Option<Instant>,
    /// Told to stop: from when on what is left goes to other pods; see [`HAND_OVER`].
    hand_over_at: Option<Instant>,
    /// It does now.
    handing_over: bool,
    /// Wakes to be scheduled again.
    outbound: Vec<(Wake, Tag)>,
    /// When they have waited for others long enough.
    gathered_at: Option<Instant>,
    /// Messages to be parked, each with those that it is made of.
    to_park: Vec<(Outgoing, Vec<Tag>)>,
    /// How many of these could not be understood, and why the last one could not; said in one line for all.
    malformed: Option<(Malformed, usize)>,
}

impl WakeConsumer {
    async fn work(&mut self, consumer: Deliveries, stop: &CancellationToken) -> Result<(), RoleError> {
        let mut consumer = Some(consumer);
        let mut latest = Instant::now();
        while consumer.is_some() || self.has_work() {
            self.cancel_when_quiet(consumer.as_ref()).await?;
            if self.hand_over_at.is_some_and(|at| at <= Instant::now()) {
                self.hand_over();
            }
            self.acknowledge().await?;
            self.start_closing();
            self.start_moving();
            self.start_recording_probes();
            let room = self.has_room();
            let next = self.next_moment();
            tokio::select! {
                Some(batch) = self.closing.join_next() => self.apply_verdicts(flatten(batch)?),
                Some(batch) = self.closing_apart.join_next() => self.apply_verdicts(flatten(batch)?),
                Some(moved) = self.moving.join_next() => self.done(flatten(moved)?),
                Some(noted) = self.recording_probes.join_next() => self.done(flatten(noted)?),
                delivery = next_delivery(&mut consumer), if room && consumer.is_some() => match delivery {
                    Some(delivery) => {
                        self.take_arrived(delivery, &mut consumer)?;
                        let all = self.in_flight.unacknowledged() >= self.messages_ahead();
                        let quiet = if all { Duration::ZERO } else { QUIET };
                        self.cancel_at = self.cancel_at.map(|_| latest.min(Instant::now() + quiet));
                    }
                    // Ours, after basic.cancel; else the server's, without a word.
                    None if self.stopping => consumer = None,
                    None => return Err(BrokerError::ConsumerEnded { queue: self.shared.broker.names.process() }.into()),
                },
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
                () = stop.cancelled(), if !self.stopping => {
                    self.stopping = true;
                    self.hand_over_at = Some(Instant::now() + HAND_OVER);
                    latest = Instant::now() + QUIET_AT_LAST;
                    self.cancel_at = Some(Instant::now() + QUIET);
                    tracing::info!(event = "stopping", orders = self.in_flight.orders(), "stopping: finishing what is in hand");
                }
            }
        }
        self.acknowledge_owed().await
    }

    /// When there is something to do though nothing happens. One timer for everything: each costs as much as a message.
    fn next_moment(&self) -> Option<Instant> {
        let free = self.closing.len() < self.shared.config.close_concurrency;
        let due = self.in_flight.next_due().filter(|_| free).map(|due| self.shared.clock.instant(due));
        let apart = self.closing_apart.is_empty();
        let failed =
            self.in_flight.next_failed_due().filter(|_| apart).map(|due| self.shared.clock.instant(due));
        let gathered = self.gathered_at.filter(|_| self.moving.is_empty());
        [due, failed, gathered, self.acknowledge_at, self.cancel_at, self.hand_over_at]
            .into_iter()
            .flatten()
            .min()
    }

    fn has_work(&self) -> bool {
        self.in_flight.messages() > 0 || self.cancel_at.is_some()
    }

    /// The most messages that the broker sends before it hears of those that are done.
    fn messages_ahead(&self) -> usize {
        usize::from(self.shared.config.messages_ahead())
    }

    /// A batch is whatever is due when there is room for one: no waiting to fill it.
    fn start_closing(&mut self) {
        while self.closing.len() < self.shared.config.close_concurrency {
            let batch = self.in_flight.due(self.shared.clock.now(), self.shared.config.close_batch);
            if batch.is_empty() {
                break;
            }
            self.closing.spawn(close(self.shared.closer.clone(), batch));
        }
        if self.closing_apart.is_empty() {
            if let Some(held) = self.slow.pop_front() {
                let closer = self.shared.closer.clone();
                self.closing_apart.spawn(async move {
                    let verdicts = closer.close_alone(held.wake.order_id).await?;
                    Ok(with_verdicts(vec![held], &verdicts))
                });
            } else {
                let batch =
                    self.in_flight.failed_due(self.shared.clock.now(), self.shared.config.close_batch);
                if !batch.is_empty() {
                    self.closing_apart.spawn(close(self.shared.closer.clone(), batch));
                }
            }
        }
        let behind = self.in_flight.next_due().is_some_and(|due| due <= self.shared.clock.now());
        self.shared.behind.store(behind, Ordering::Relaxed);
    }

    fn start_moving(&mut self) {
        if !self.moving.is_empty() || (self.outbound.is_empty() && self.to_park.is_empty()) || self.gathers()
        {
            return;
        }
        self.gathered_at = None;
        if let Some((reason, count)) = self.malformed.take() {
            tracing::warn!(event = "parking_malformed", count, %reason, "parking malformed messages of the process queue");
        }
        let (wakes, mut tags): (Vec<_>, Vec<_>) = std::mem::take(&mut self.outbound).into_iter().unzip();
        let (parked, parked_tags): (Vec<_>, Vec<_>) = std::mem::take(&mut self.to_park).into_iter().unzip();
        let (shared, publisher) = (Arc::clone(&self.shared), Arc::clone(&self.publisher));
        self.moving.spawn(async move {
            let (rescheduled, parking) = (wakes.len(), parked.len());
            let mut messages = shared.scheduler.messages(wakes, shared.clock.now());
            messages.extend(parked);
            publisher.publish(messages).await?;
            shared.stats.add(Count::Rescheduled, rescheduled);
            shared.stats.add(Count::Parked, parking);
            tags.extend(parked_tags.into_iter().flatten());
            Ok(tags)
        });
    }

    /// Whether wakes that are to be sent on wait for others that go the same way.
    fn gathers(&mut self) -> bool {
        let many = self.outbound.len() >= GATHERED
            || 4 * self.in_flight.unacknowledged() >= 3 * self.messages_ahead();
        if many || self.stopping || !self.to_park.is_empty() {
            return false;
        }
        let now = Instant::now();
        now < *self.gathered_at.get_or_insert(now + GATHER)
    }

    fn start_recording_probes(&mut self) {
        if !self.recording_probes.is_empty() || self.probes.is_empty() {
            return;
        }
        let (tokens, tags): (Vec<_>, Vec<_>) = std::mem::take(&mut self.probes).into_iter().unzip();
        let shared = Arc::clone(&self.shared);
        self.recording_probes.spawn(async move {
            probes::record_returned(&shared, &tokens).await?;
            Ok(tags)
        });
    }
}

async fn close(closer: Closer, batch: Vec<Held>) -> Result<Verdicts, RoleError> {
    let verdicts = closer.close(batch.iter().map(|held| held.wake.order_id).collect()).await?;
    Ok(with_verdicts(batch, &verdicts))
}

fn with_verdicts(batch: Vec<Held>, verdicts: &HashMap<i64, Verdict>) -> Verdicts {
    let verdict = |held: &Held| verdicts.get(&held.wake.order_id).cloned().unwrap_or(Verdict::Locked);
    batch.into_iter().map(|held| (held, verdict(&held))).collect()
}

fn flatten<T>(joined: Result<Result<T, RoleError>, tokio::task::JoinError>) -> Result<T, RoleError> {
    joined.map_err(|error| RoleError::Task(error.to_string()))?
}

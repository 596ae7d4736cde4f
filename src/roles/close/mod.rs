//! The consumer of the process queue: wakes become closed orders.
//!
//! A loop of three phases: wait for an event (only in `Session::wait`), decide what to do about it (`decide`, pure), carry
//! the effects out (`carry_out`, which awaits only acknowledgements and the cancel).

mod carry_out;
mod decide;
mod drain;
pub mod in_flight;
mod probes;
mod take;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lapin::Channel;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::RoleError;
use super::shared::{Away, Shared, after_stop};
use crate::broker::consumer::Deliveries;
use crate::broker::publisher::Publisher;
use crate::broker::{self, BrokerError};
use crate::closing::Verdict;
use crate::database;
use decide::{Event, Limits, NextMoments, Now, WakeConsumer};
use in_flight::{Held, Tag};

/// One session: connects, works until `stop` or until something breaks, requeues what is left.
///
/// # Errors
/// The broker's or the database's error, [`RoleError::Task`] when a task panicked, or [`RoleError::Unfinished`] when orders
/// are left after the drain. The caller builds a new session unless it is stopping.
pub async fn session(shared: &Arc<Shared>, stop: &CancellationToken) -> Result<(), RoleError> {
    shared.consuming.begins();
    let outcome = consume(shared, stop).await;
    let lost_broker = matches!(outcome, Err(RoleError::Broker(_)));
    shared.consuming.ends(if lost_broker { Away::Broker } else { Away::Starting });
    outcome
}

async fn consume(shared: &Arc<Shared>, stop: &CancellationToken) -> Result<(), RoleError> {
    // Before consuming: messages are better off in the queue than in a pod that cannot close their orders.
    database::probe(&shared.closer.pool, &shared.clock).await?;
    let publisher = Arc::new(Publisher::connect(&shared.broker, "close").await?);
    let connection = shared.broker.connect("close").await?;
    let (config, process) = (&shared.config, shared.broker.names.process());
    let (channel, consumer) = shared.broker.consume(&connection, &process, config.messages_ahead()).await?;
    let limits = Limits {
        messages: usize::from(config.messages_ahead()),
        orders: config.max_in_flight_orders,
        batch: config.close_batch,
        batches: config.close_concurrency,
        pace: config.pace,
        orders_per_wake: config.max_orders_per_wake,
    };
    let mut session = Session {
        shared: Arc::clone(shared),
        intake: shared.broker.names.intake(),
        publisher,
        channel,
        consumer: Some(consumer),
        state: WakeConsumer::new(limits, shared.retry, shared.scheduler.clone()),
        closing: JoinSet::new(),
        closing_apart: JoinSet::new(),
        publishing: JoinSet::new(),
        recording_probes: JoinSet::new(),
    };
    tracing::info!(event = "taking_wakes", "taking wakes");
    shared.consuming.takes_wakes();
    let outcome = tokio::select! {
        outcome = session.work(stop) => outcome,
        () = after_stop(stop, config.drain_timeout) => Ok(()),
    };
    shared.behind.store(false, Ordering::Relaxed);
    let left = session.state.in_flight.orders();
    // After a broker error there is nothing to give back: the broker requeues everything once the connection is gone.
    if !matches!(outcome, Err(RoleError::Broker(_))) {
        session.give_back().await;
        broker::close(&connection).await;
    }
    match outcome {
        // Without an error, orders are left only after the drain timeout.
        Ok(()) if left > 0 => Err(RoleError::Unfinished { orders: left }),
        Err(error) if left > 0 && stop.is_cancelled() => {
            tracing::warn!(event = "broken_while_stopping", %error, "the session broke during shutdown");
            Err(RoleError::Unfinished { orders: left })
        }
        outcome => outcome,
    }
}

/// Due orders that have waited for longer than this show that a pod is busy, as do orders that are locked: their wakes wait in the pod.
const MOMENT: Duration = Duration::from_millis(250);

/// A batch of wakes, each with the verdict on its order.
type Verdicts = Vec<(Held, Verdict)>;

/// What a session awaits: the broker's deliveries, and its own tasks.
struct Session {
    shared: Arc<Shared>,
    /// The intake queue's name: messages that expired there come from services.
    intake: String,
    publisher: Arc<Publisher>,
    channel: Channel,
    /// None once its stream has ended.
    consumer: Option<Deliveries>,
    state: WakeConsumer,
    closing: JoinSet<Result<Verdicts, RoleError>>,
    closing_apart: JoinSet<Result<Verdicts, RoleError>>,
    publishing: JoinSet<Result<Vec<Tag>, RoleError>>,
    recording_probes: JoinSet<Result<Vec<Tag>, RoleError>>,
}

impl Session {
    async fn work(&mut self, stop: &CancellationToken) -> Result<(), RoleError> {
        let mut effects = Vec::new();
        while !self.state.is_done() {
            let event = self.wait(stop).await?;
            let now = Now { time: self.shared.clock.now(), instant: Instant::now() };
            let locked = |verdict: &Verdict| *verdict == Verdict::Locked;
            let held_up = matches!(&event, Event::Closed { verdicts, .. } if verdicts.iter().any(|(_, verdict)| locked(verdict)));
            self.state.decide(event, now, &mut effects);
            self.shared.behind.store(self.state.is_behind(now.time), Ordering::Relaxed);
            if held_up || self.state.is_behind(now.time.minus(MOMENT)) {
                self.shared.busy.store(true, Ordering::Relaxed);
            }
            for effect in effects.drain(..) {
                self.carry_out(effect).await?;
            }
        }
        Ok(())
    }

    async fn wait(&mut self, stop: &CancellationToken) -> Result<Event, RoleError> {
        let (room, moment) = (self.state.room(), self.next_moment());
        tokio::select! {
            Some(batch) = self.closing.join_next() => {
                Ok(Event::Closed { apart: false, verdicts: flatten(batch)? })
            }
            Some(batch) = self.closing_apart.join_next() => {
                Ok(Event::Closed { apart: true, verdicts: flatten(batch)? })
            }
            Some(published) = self.publishing.join_next() => Ok(Event::Published(flatten(published)?)),
            Some(recorded) = self.recording_probes.join_next() => Ok(Event::ProbesRecorded(flatten(recorded)?)),
            delivery = take::next_delivery(&mut self.consumer), if room > 0 && self.consumer.is_some() => {
                let Some(first) = delivery else {
                    self.consumer = None;
                    return Ok(Event::ConsumerEnded);
                };
                Ok(Event::Arrived(take::arrived(&self.shared, &self.intake, first, &mut self.consumer, room)?))
            }
            () = sleep_until(moment.unwrap_or_else(Instant::now)), if moment.is_some() => Ok(Event::Moment),
            () = stop.cancelled(), if !self.state.is_stopping() => Ok(Event::StopRequested),
        }
    }

    fn next_moment(&self) -> Option<Instant> {
        let NextMoments { due, waited } = self.state.next_moments();
        due.map(|due| self.shared.clock.instant(due)).into_iter().chain(waited).min()
    }

    fn consumer_lost(&self) -> RoleError {
        BrokerError::ConsumerEnded { queue: self.shared.broker.names.process() }.into()
    }
}

fn flatten<T>(joined: Result<Result<T, RoleError>, JoinError>) -> Result<T, RoleError> {
    joined.map_err(|error| RoleError::Task(error.to_string()))?
}

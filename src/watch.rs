//! The watch: sends probes through the delay lanes, and says when messages stay in a queue after their moment.
//!
//! The orders behind such a blockage are the sweep's business; this tells a person that there is one, and where.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use lapin::Connection;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::broker::publisher::Publisher;
use crate::broker::{self, Broker, Link};
use crate::clock::DbTime;
use crate::config::Config;
use crate::database::{Trouble, trouble};
use crate::lane::Lane;
use crate::pod::Pod;
use crate::probe::{self, Health, Probe};
use crate::role::RoleError;
use crate::stats::Count;
use crate::topology::lane_key;

/// Longest time between two looks; short against any grace that makes sense.
const LOOK: Duration = Duration::from_secs(2);
/// A trouble that lasts is said again after this time.
const AGAIN: Duration = Duration::from_secs(60);

/// How late a probe may be before its lane counts as stuck: as late as an order may be before the sweep takes it.
#[must_use]
pub fn grace(config: &Config) -> Duration {
    const LEAST: Duration = Duration::from_secs(1);
    config.sweep_grace.max(LEAST)
}

/// One session: connects, watches until `stop` or until something breaks.
///
/// # Errors
/// Whatever broke; the caller builds a new session.
pub async fn session(pod: &Arc<Pod>, stop: &CancellationToken) -> Result<(), RoleError> {
    let publisher = Publisher::connect(&pod.broker, "watch").await?;
    let connection = pod.broker.connect("watch").await?;
    let mut watch =
        Watch { pod: Arc::clone(pod), publisher, connection, began: Instant::now(), said: HashMap::new() };
    tracing::info!("watching the lanes");
    loop {
        tokio::select! {
            looked = watch.look() => looked?,
            // Nothing is in hand that would have to be finished: a probe cut off here is never waited for.
            () = stop.cancelled() => return Ok(()),
        }
        tokio::select! {
            () = sleep(LOOK.min(pod.config.probe_every / 4)) => {}
            () = stop.cancelled() => break,
        }
    }
    watch.publisher.close().await;
    broker::close(&watch.connection).await;
    Ok(())
}

/// Notes that probes have come back, and says which were late.
///
/// # Errors
/// When the database is away. No other trouble with a probe may keep a pod from its orders.
pub async fn note(pod: &Pod, tokens: &[String]) -> Result<(), RoleError> {
    match probe::returned(&pod.closer.pool, tokens).await {
        Ok(returned) => {
            for (queue, late) in returned.into_iter().filter(|(_, late)| *late > grace(&pod.config)) {
                tracing::warn!(queue, late_s = late.as_secs_f64(), "messages left the lane late");
            }
            Ok(())
        }
        Err(error) if trouble(&error.source) == Trouble::Away => Err(error.into()),
        Err(error) => {
            tracing::error!(%error, "a probe has come back and could not be noted");
            Ok(())
        }
    }
}

struct Watch {
    pod: Arc<Pod>,
    publisher: Publisher,
    connection: Link,
    began: Instant,
    /// The queues that are in trouble, and when this was last said.
    said: HashMap<String, Instant>,
}

impl Watch {
    async fn look(&mut self) -> Result<(), RoleError> {
        let pod = Arc::clone(&self.pod);
        self.look_at_process_queue().await;
        let (now, probes) = probe::read(&pod.closer.pool).await?;
        for lane in pod.config.lanes.as_slice() {
            let queue = pod.broker.names.lane(lane);
            let ours: Vec<&Probe> = probes.iter().filter(|probe| probe.queue == queue).collect();
            match probe::health(&ours, now, grace(&pod.config)) {
                Health::Stuck { since } => self.report(&queue, since, now).await,
                Health::Well { .. } if self.said.remove(&queue).is_some() => {
                    tracing::warn!(queue, "the lane delivers again");
                }
                Health::Well { .. } | Health::Waiting { .. } | Health::Unknown => {}
            }
            if probe::next_at(&ours, lane.length, pod.config.probe_every, now) <= now {
                self.place(lane, &queue).await?;
            }
            probe::forget(&pod.closer.pool, &ours).await?;
        }
        Ok(())
    }

    /// Sends a probe through a lane.
    async fn place(&self, lane: &Lane, queue: &str) -> Result<(), RoleError> {
        let (pool, lanes) = (&self.pod.closer.pool, &self.pod.config.lanes);
        let (number, token) = probe::announce(pool, queue).await?;
        let message = probe::message(lane_key(lane), &token, lanes.shortest_wait());
        self.publisher.publish(vec![message]).await?;
        // Where nothing is ahead of it, it is due at once, however long the lane is.
        let alone = self.depth(queue).await.is_some_and(|depth| depth.messages <= 1);
        let within = if alone { lanes.shortest_wait() } else { lane.length };
        probe::placed(pool, number, within).await?;
        Ok(())
    }

    /// Says that a lane is stuck, at once and then from time to time, and repairs what declaring can repair.
    async fn report(&mut self, queue: &str, since: DbTime, now: DbTime) {
        // A probe may have come back while nobody took it: whoever takes wakes has to have had the time to.
        if self.began.elapsed() < grace(&self.pod.config) || !self.due_to_be_said(queue) {
            return;
        }
        let process = self.pod.broker.names.process();
        if self.depth(&process).await.is_some_and(|depth| depth.messages > 0) {
            // Probes wait there too; whether the lane delivers can be told when the pods have caught up.
            return;
        }
        if self.said.insert(queue.to_owned(), Instant::now()).is_none() {
            self.pod.stats.add(Count::Stuck, 1);
        }
        let messages = self.depth(queue).await.map(|depth| depth.messages);
        tracing::error!(
            queue,
            overdue_s = now.since(since).as_secs_f64(),
            messages_waiting = messages,
            "the lane does not deliver: {}. The sweep closes their orders",
            cause(messages, queue, &process)
        );
        // The usual cause is a binding that somebody has removed. Messages that wait for it are then tried again by the
        // broker.
        if let Err(error) = self.pod.broker.declare(&self.connection).await {
            tracing::error!(%error, "declaring the topology, because a lane does not deliver");
        }
    }

    /// Says that nobody takes wakes.
    async fn look_at_process_queue(&mut self) {
        let process = self.pod.broker.names.process();
        let Some(Depth { messages, consumers }) = self.depth(&process).await else { return };
        if consumers > 0 || messages == 0 {
            if self.said.remove(&process).is_some() {
                tracing::warn!(queue = process, "wakes are taken again");
            }
        } else if self.began.elapsed() > grace(&self.pod.config) && self.due_to_be_said(&process) {
            self.said.insert(process.clone(), Instant::now());
            tracing::error!(
                queue = process,
                messages_waiting = messages,
                "nobody takes wakes: no pod with the close role is connected, or none can work, which its own log \
                 explains. The sweep closes their orders"
            );
        }
    }

    fn due_to_be_said(&self, queue: &str) -> bool {
        self.said.get(queue).is_none_or(|said| said.elapsed() > AGAIN)
    }

    async fn depth(&self, queue: &str) -> Option<Depth> {
        depth(&self.pod.broker, &self.connection, queue).await
    }
}

/// Why a probe that went into a lane is not back, as far as the lane's depth tells; unknown where it was not told.
fn cause(messages: Option<u32>, queue: &str, process: &str) -> String {
    match messages {
        // Expired messages that wait for their target are not counted.
        Some(0) => format!(
            "what went into it is neither in it nor here. Expired messages wait where {process} cannot be reached \
             (`overdue topology verify`); else {queue} was purged or made again, or another shop with this prefix takes \
             its messages"
        ),
        Some(_) => format!(
            "messages stay in it after their expiry. Either {process} cannot be reached (`overdue topology verify`), or \
             a message without expiration stands first in {queue} (look at it in the management UI, and purge it away)"
        ),
        None => format!("a probe is overdue, and {queue} does not answer (`overdue topology verify`)"),
    }
}

/// What a queue says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Depth {
    /// Messages that wait; neither those that somebody has taken, nor expired ones that have not reached their target.
    pub messages: u32,
    /// Who takes messages from it.
    pub consumers: u32,
}

/// Asks a queue for its depth; `None` when it is not there or does not answer.
pub async fn depth(broker: &Broker, connection: &Connection, queue: &str) -> Option<Depth> {
    // A channel of its own: the broker closes it when there is no such queue.
    let channel = broker.channel(connection).await.ok()?;
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::durable() };
    let state = channel.queue_declare(queue.into(), passive, FieldTable::default());
    let state = broker.bounded("asking for a queue's depth", state).await.ok()?;
    let _ = broker.bounded("closing a channel", channel.close(200, "done".into())).await;
    Some(Depth { messages: state.message_count(), consumers: state.consumer_count() })
}

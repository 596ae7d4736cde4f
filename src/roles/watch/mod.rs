//! The watch: sends probes through the delay lanes, reports lanes that do not deliver, and checks what else Overdue needs of
//! the broker.
//!
//! The sweep closes the orders behind such a blockage; the watch reports that there is one, and where.

mod capabilities;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::RoleError;
use super::shared::Shared;
use crate::broker::publisher::Publisher;
use crate::broker::{self, BrokerConnection, BrokerError};
use crate::clock::DbTime;
use crate::lanes::Lane;
use crate::probes::depth::{Depth, cause, depth};
use crate::probes::{self, Health, Probe, grace};
use crate::stats::{Count, Stats};

/// Longest time between two looks; short compared with any sensible grace.
const LOOK: Duration = Duration::from_secs(2);
/// A lasting problem is reported again after this time.
const AGAIN: Duration = Duration::from_secs(60);

/// One session: connects, watches until `stop` or until something breaks.
///
/// # Errors
/// The first broker or database error; the caller builds a new session.
pub async fn session(shared: &Arc<Shared>, stop: &CancellationToken) -> Result<(), RoleError> {
    let publisher = Publisher::connect(&shared.broker, "watch").await?;
    let connection = shared.broker.connect("watch").await?;
    let mut watch = Watch {
        shared: Arc::clone(shared),
        publisher,
        connection,
        began: Instant::now(),
        stuck: BTreeMap::new(),
        untaken: None,
    };
    tracing::info!(event = "watching", "watching the lanes");
    tokio::select! {
        ended = watch.lanes(stop) => ended?,
        never = capabilities::keep_looking(shared) => match never {},
    }
    watch.publisher.close().await;
    broker::close(&watch.connection).await;
    Ok(())
}

struct Watch {
    shared: Arc<Shared>,
    publisher: Publisher,
    connection: BrokerConnection,
    began: Instant,
    /// The lanes that do not deliver.
    stuck: BTreeMap<String, Reported>,
    /// When it was last reported that no consumer takes wakes.
    untaken: Option<Instant>,
}

/// When a stuck lane was last reported.
struct Reported {
    at: Instant,
    /// The same by the database's clock, which the probes' times are in.
    time: DbTime,
}

/// The gauge of stuck lanes, set to 0 when the watch ends: the number is unknown then.
struct Gauge(Arc<Stats>);

impl Drop for Gauge {
    fn drop(&mut self) {
        self.0.set(Count::Stuck, 0);
    }
}

impl Watch {
    /// Looks at the lanes until `stop`.
    async fn lanes(&mut self, stop: &CancellationToken) -> Result<(), RoleError> {
        let _gauge = Gauge(Arc::clone(&self.shared.stats));
        loop {
            tokio::select! {
                looked = self.look() => looked?,
                // Nothing in flight has to be finished: no one waits for a probe that is cut off here.
                () = stop.cancelled() => return Ok(()),
            }
            tokio::select! {
                () = sleep(LOOK.min(self.shared.config.probe_every / 4)) => {}
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    async fn look(&mut self) -> Result<(), RoleError> {
        let shared = Arc::clone(&self.shared);
        self.look_at_process_queue().await;
        let (now, all) = probes::read(&shared.closer.pool).await?;
        for lane in shared.config.lanes.as_slice() {
            let queue = shared.broker.names.lane(lane);
            let ours: Vec<&Probe> = all.iter().filter(|probe| probe.queue == queue).collect();
            match probes::health(&ours, now, grace(&shared.config)) {
                Health::Stuck { since } => self.report(&queue, since, now).await,
                Health::Well { at }
                    if probes::is_taken(&ours)
                        && self.stuck.get(&queue).is_some_and(|reported| reported.time < at) =>
                {
                    self.stuck.remove(&queue);
                    tracing::warn!(event = "lane_recovered", queue, "the lane delivers again");
                }
                // Reported when the broker returned the probe.
                Health::CutOff { .. } => {}
                Health::Well { .. } | Health::Waiting { .. } | Health::Unknown => {}
            }
            if probes::next_at(&ours, lane.length, shared.config.probe_every, now) <= now {
                self.send_probe(lane, &queue, now).await?;
            }
            shared.stats.set(Count::Stuck, self.stuck.len());
            probes::forget(&shared.closer.pool, &ours).await?;
        }
        Ok(())
    }

    async fn send_probe(&mut self, lane: &Lane, queue: &str, now: DbTime) -> Result<(), RoleError> {
        let shared = Arc::clone(&self.shared);
        let (pool, lanes) = (&shared.closer.pool, &shared.config.lanes);
        let (number, token) = probes::announce(pool, queue).await?;
        let message = probes::message(lane.key(), &token, lanes.shortest_wait());
        match self.publisher.publish(vec![message]).await {
            // The probe's row stays unconfirmed, which `overdue lanes` shows. The other lanes are still watched.
            Err(BrokerError::Unroutable { key }) => {
                self.report_cut_off(queue, &key, now).await;
                return Ok(());
            }
            published => published?,
        }
        // With nothing ahead of it, a probe expires after the shortest wait, however long the lane is.
        let alone = self.depth(queue).await.is_some_and(|depth| depth.messages <= 1);
        let within = if alone { lanes.shortest_wait() } else { lane.length };
        probes::confirmed(pool, number, within).await?;
        Ok(())
    }

    /// Reports a stuck lane, again each [`AGAIN`] while it lasts, and repairs what declaring can repair.
    async fn report(&mut self, queue: &str, since: DbTime, now: DbTime) {
        // A probe may be back in the process queue without a consumer having taken it: consumers first get `grace` to do so.
        if self.began.elapsed() < grace(&self.shared.config) || !self.due_to_be_reported(queue) {
            return;
        }
        let process = self.shared.broker.names.process();
        if self.depth(&process).await.is_some_and(|depth| depth.messages > 0) {
            // Probes wait there too; whether the lane delivers is known once the pods have caught up.
            return;
        }
        self.note_stuck(queue, now);
        let messages = self.depth(queue).await.map(|depth| depth.messages);
        tracing::error!(
            event = "lane_stuck",
            queue,
            overdue_s = now.since(since).as_secs_f64(),
            messages_waiting = messages,
            "the lane does not deliver: {}. The sweep closes the orders concerned",
            cause(messages, queue, &process)
        );
        self.repair().await;
    }

    /// Reports that nothing leads into a lane, and repairs that if this pod may.
    async fn report_cut_off(&mut self, queue: &str, key: &str, now: DbTime) {
        if self.due_to_be_reported(queue) {
            self.note_stuck(queue, now);
            let exchange = self.shared.broker.names.exchange();
            tracing::error!(
                event = "lane_cut_off",
                queue,
                key,
                "nothing leads into the lane: it is not bound to {exchange} with its key. Wakes for it wait in the \
                 outbox, and the sweep closes their orders. Run `overdue topology declare`"
            );
        }
        self.repair().await;
    }

    fn note_stuck(&mut self, queue: &str, now: DbTime) {
        let reported = Reported { at: Instant::now(), time: now };
        if self.stuck.insert(queue.to_owned(), reported).is_none() {
            self.shared.stats.add(Count::StuckTotal, 1);
        }
    }

    /// Declares the topology, if this pod may. A lane that does not deliver usually lacks a binding that was removed; once the
    /// binding is back, the broker retries the messages that wait for it.
    async fn repair(&self) {
        if let Err(error) = self.shared.broker.declare(&self.connection).await {
            tracing::error!(event = "declare_failed", %error, "cannot declare the topology to repair a lane that does not deliver");
        }
    }

    /// Reports when no consumer takes wakes, and when one does again.
    async fn look_at_process_queue(&mut self) {
        let process = self.shared.broker.names.process();
        let Some(Depth { messages, consumers }) = self.depth(&process).await else { return };
        if consumers > 0 || messages == 0 {
            if self.untaken.take().is_some() {
                tracing::warn!(event = "wakes_taken_again", queue = process, "wakes are taken again");
            }
        } else if self.began.elapsed() > grace(&self.shared.config)
            && self.untaken.is_none_or(|reported| reported.elapsed() > AGAIN)
        {
            self.untaken = Some(Instant::now());
            tracing::error!(
                event = "wakes_not_taken",
                queue = process,
                messages_waiting = messages,
                "no consumer takes wakes: no pod with the close role is connected, or none can work, which its own log \
                 explains. The sweep closes the orders concerned"
            );
        }
    }

    fn due_to_be_reported(&self, queue: &str) -> bool {
        self.stuck.get(queue).is_none_or(|reported| reported.at.elapsed() > AGAIN)
    }

    async fn depth(&self, queue: &str) -> Option<Depth> {
        depth(&self.shared.broker, &self.connection, queue).await
    }
}

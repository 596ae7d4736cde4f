//! Connections to RabbitMQ.
//!
//! lapin's automatic recovery is not used: after some errors it leaves a consumer that stays silent until it is dropped.
//! A role whose session breaks in any way drops the whole session and builds a new one.

pub mod consumer;
pub mod declare;
mod error;
pub mod frames;
pub mod live;
pub mod management;
pub mod publisher;
mod reason;
mod transport;

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use futures_util::future::maybe_done;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties, ErrorKind};
use tokio::sync::{Mutex, Notify};
use tokio::time::timeout;

use crate::config::{Config, SecretUrl};
use crate::topology::{Names, Topology};
use crate::wire::parked::MOST_HEADER_BYTES;

pub use error::BrokerError;
pub use transport::{BrokerConnection, connect_to_one_of};

/// Longest wait for the broker to confirm that a connection is closed. Everything that matters was acknowledged before, and
/// dropping the connection closes it too. Shorter than the time that a stopping pod may take beyond its drain.
pub const GOODBYE: Duration = Duration::from_secs(2);

/// Closes a connection; an error or a missing answer does not matter.
pub async fn close(connection: &Connection) {
    let _ = timeout(GOODBYE, connection.close(200, "done".into())).await;
}

/// Hands all calls to the library in order, then waits for all of them.
///
/// The library resolves a publish or an acknowledgement when its thread has written it to the socket. Awaited one by one,
/// each call would cost a system call and two thread switches.
///
/// # Errors
/// The first error in the order of the calls; the remaining calls are dropped.
pub async fn together_in_order<T>(
    calls: impl Iterator<Item = impl Future<Output = lapin::Result<T>>>,
) -> lapin::Result<Vec<T>> {
    let mut calls: Vec<_> = calls.map(|call| Box::pin(maybe_done(call))).collect();
    // The first poll puts a call into the library's queue. The no-op waker: no task need wake when the call is written.
    for call in &mut calls {
        let _ = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    }
    last_first(calls.into_iter().map(|mut call| async move {
        call.as_mut().await;
        // The call is done and its output is taken only here, so there is one.
        call.as_mut().take_output().unwrap_or_else(|| Err(ErrorKind::FutureCompleted.into()))
    }))
    .await
}

/// Waits for the last call, then for the others, which are done by then or soon after: this task is woken once and not by
/// each call.
///
/// # Errors
/// The first error in the order of the calls; the remaining calls are dropped.
pub async fn last_first<T>(
    calls: impl Iterator<Item = impl Future<Output = lapin::Result<T>>>,
) -> lapin::Result<Vec<T>> {
    let mut calls: Vec<_> = calls.collect();
    let Some(last) = calls.pop() else { return Ok(Vec::new()) };
    let last = last.await;
    let mut outcomes = Vec::with_capacity(calls.len() + 1);
    for call in calls {
        outcomes.push(call.await?);
    }
    outcomes.push(last?);
    Ok(outcomes)
}

/// Connection parameters where the URL has none.
const TUNING: [(&str, &str); 2] = [
    // In seconds. With the broker's default, 60, a dead network would be noticed only after two minutes.
    ("heartbeat", "10"),
    // In bytes. The library keeps room for 64 frames per connection; the broker's default, 128 KiB, comes to 56 MiB in a
    // pod. A parked message keeps headers of up to 64 KiB, which must fit into one frame.
    ("frame_max", "81920"),
];
const _: () = assert!(MOST_HEADER_BYTES < 81_920, "the headers of a parked message fit into one frame");

/// How to reach the broker and what must exist there.
#[derive(Debug)]
pub struct Broker {
    nodes: Vec<SecretUrl>,
    next: AtomicUsize,
    /// Timeout of every call.
    pub timeout: Duration,
    pub names: Names,
    /// What [`Broker::declare`] declares.
    pub topology: Topology,
    declare: bool,
    /// Notified when queues that hold wakes were created: orders that were waiting have no wake in them.
    pub created: Notify,
    declaring: Mutex<()>,
}

impl Broker {
    /// The configured broker; nothing is connected yet.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let names = Names::new(&config.prefix);
        Self {
            nodes: config.amqp_nodes.clone(),
            // Each pod starts at a random node: when one node is cut off, not all consumers may be connected to it.
            next: AtomicUsize::new(usize::try_from(RandomState::new().hash_one(()) >> 32).unwrap_or(0)),
            timeout: config.broker_timeout,
            topology: Topology::new(&names, &config.lanes),
            names,
            declare: config.declare_topology,
            created: Notify::new(),
            declaring: Mutex::default(),
        }
    }

    /// Overrides the setting `declare_topology`.
    #[must_use]
    pub fn declaring(self, declare: bool) -> Self {
        Self { declare, ..self }
    }

    /// Connects to the first node that answers; each call starts at the next node.
    ///
    /// # Errors
    /// The last node's error when none answers. A refused login or vhost is returned at once, without trying other nodes.
    pub async fn connect(&self, purpose: &str) -> Result<BrokerConnection, BrokerError> {
        let first = self.next.fetch_add(1, Ordering::Relaxed) % self.nodes.len();
        let mut last = None;
        for n in 0..self.nodes.len() {
            let node = &self.nodes[(first + n) % self.nodes.len()];
            match self.connect_to(node, purpose).await {
                Err(error) if error.is_transient() => last = Some(error),
                answer => return answer,
            }
        }
        // The configuration has at least one node, so the loop has run.
        Err(last.unwrap_or(BrokerError::Timeout { doing: "connecting".into(), after: self.timeout }))
    }

    async fn connect_to(&self, node: &SecretUrl, purpose: &str) -> Result<BrokerConnection, BrokerError> {
        let mut url = node.reveal().clone();
        for (key, value) in TUNING {
            if !url.query_pairs().any(|(said, _)| said == key) {
                url.query_pairs_mut().append_pair(key, value);
            }
        }
        let name = format!("overdue {purpose} (pid {})", std::process::id());
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        // Boxed: the future is large, and every session contains it.
        let connecting = Box::pin(transport::connect(url.as_str(), properties, self.timeout));
        match timeout(self.timeout, connecting).await {
            Ok(Ok(answer)) => answer.map_err(|source| BrokerError::connecting(node, source)),
            Ok(Err(_)) | Err(_) => Err(BrokerError::Silent { node: node.to_string(), after: self.timeout }),
        }
    }

    /// Opens a channel.
    ///
    /// # Errors
    /// When the connection is gone or does not answer in time.
    pub async fn channel(&self, connection: &Connection) -> Result<Channel, BrokerError> {
        self.bounded("opening a channel", connection.create_channel()).await
    }

    /// Declares the topology, unless `declare_topology` is off. Returns whether queues that hold wakes were missing.
    ///
    /// # Errors
    /// As [`declare::declare`] and [`Broker::channel`].
    pub async fn declare(&self, connection: &Connection) -> Result<bool, BrokerError> {
        if !self.declare {
            return Ok(false);
        }
        // One role at a time: if two found the same queue missing, all waiting orders would be announced twice.
        let _turn = self.declaring.lock().await;
        let missing = self.some_wakes_have_no_queue(connection).await?;
        let channel = self.channel(connection).await?;
        declare::declare(&channel, &self.topology, self.timeout).await?;
        self.bounded("closing a channel", channel.close(200, "done".into())).await?;
        if missing {
            self.created.notify_one();
        }
        Ok(missing)
    }

    /// Whether the process queue or a lane's queue is missing.
    async fn some_wakes_have_no_queue(&self, connection: &Connection) -> Result<bool, BrokerError> {
        let channel = self.channel(connection).await?;
        for queue in self.topology.queues.iter().filter(|queue| queue.carries_wakes()) {
            let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::durable() };
            let there = channel.queue_declare(queue.name.as_str().into(), passive, FieldTable::default());
            match self.bounded(&format!("looking for queue {}", queue.name), there).await {
                Ok(_) => {}
                // This answer closes the channel, so it need not be closed here.
                Err(BrokerError::Missing { .. }) => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        self.bounded("closing a channel", channel.close(200, "done".into())).await?;
        Ok(false)
    }

    /// Runs a call with the configured timeout.
    ///
    /// # Errors
    /// The call's error as [`BrokerError::during`] classifies it, or [`BrokerError::Timeout`].
    pub async fn bounded<T>(
        &self,
        doing: &str,
        call: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, BrokerError> {
        match timeout(self.timeout, call).await {
            Ok(answer) => answer.map_err(|source| BrokerError::during(doing, source)),
            Err(_) => Err(BrokerError::Timeout { doing: doing.to_owned(), after: self.timeout }),
        }
    }
}

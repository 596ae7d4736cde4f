//! Connections to RabbitMQ, and what their errors mean.
//!
//! lapin's automatic recovery is not used: after some errors it leaves a consumer that stays silent for ever. A role
//! whose session breaks in any way drops it whole and builds a new one.

pub mod consumer;
pub mod frames;
mod guard;
pub mod publisher;

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::{Channel, Connection, ConnectionProperties, ErrorKind};
use tokio::time::timeout;

use crate::config::{Config, SecretUrl};
use crate::topology::{Names, Topology, declare};

/// What went wrong with the broker. The text names the setting or the remedy.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// No node answered.
    #[error(
        "cannot connect to the broker at {node}: {source}; check amqp_url (AMQP_URL) and that RabbitMQ runs there"
    )]
    Connect {
        /// The node, without its password.
        node: String,
        /// The client's error.
        source: lapin::Error,
    },
    /// User or password.
    #[error(
        "the broker at {node} refused the login ({source}); check user and password in amqp_url (AMQP_URL)"
    )]
    LoginRefused {
        /// The node, without its password.
        node: String,
        /// The broker's answer.
        source: lapin::Error,
    },
    /// The vhost is not there, or the user may not enter it.
    #[error(
        "the broker at {node} refused the vhost ({source}); create it, give the user permissions on it, or name another in amqp_url"
    )]
    VhostRefused {
        /// The node, without its password.
        node: String,
        /// The broker's answer.
        source: lapin::Error,
    },
    /// A missing permission.
    #[error(
        "{doing}: permission denied ({source}); see rabbitmq/README.md for the permissions each user needs, or set declare_topology to false where somebody else declares"
    )]
    Denied {
        /// What was being done.
        doing: String,
        /// The broker's answer.
        source: lapin::Error,
    },
    /// It exists with other arguments.
    #[error(
        "{doing}: it exists with other arguments ({source}); `overdue topology verify` shows every difference and the remedy"
    )]
    Mismatch {
        /// What was being done.
        doing: String,
        /// The broker's answer.
        source: lapin::Error,
    },
    /// A queue or exchange is not there, and this user or setting does not declare it.
    #[error("{doing}: not found ({source}); run `overdue topology declare`")]
    Missing {
        /// What was being done.
        doing: String,
        /// The broker's answer.
        source: lapin::Error,
    },
    /// No answer in time.
    #[error("{doing}: no answer from the broker within {after:?}{}", if *.blocked { "; it blocks publishers: a memory or disk alarm is on" } else { "" })]
    Timeout {
        /// What was being done.
        doing: String,
        /// How long was waited.
        after: Duration,
        /// Whether the broker had said that it blocks this connection.
        blocked: bool,
    },
    /// A publisher confirm was negative.
    #[error("the broker refused a message for {key}; it is published again on a new channel")]
    Nacked {
        /// The routing key.
        key: String,
    },
    /// Nothing is bound for a message that must reach a queue.
    #[error("no queue is bound for {key}; `overdue topology verify` shows what is missing")]
    Unroutable {
        /// The routing key.
        key: String,
    },
    /// The server ended a consumer: its queue was deleted or moved, or it timed out.
    #[error("the broker ended the consumer of {queue}")]
    ConsumerEnded {
        /// The queue.
        queue: String,
    },
    /// Anything else: connection or channel gone.
    #[error("{doing}: {source}")]
    Lost {
        /// What was being done.
        doing: String,
        /// The client's error.
        source: lapin::Error,
    },
}

impl BrokerError {
    /// Sorts an error that came while doing something on a channel.
    #[must_use]
    pub fn during(doing: impl Into<String>, source: lapin::Error) -> Self {
        let doing = doing.into();
        match amqp_kind(&source) {
            Some(AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED)) => Self::Denied { doing, source },
            Some(AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND)) => Self::Missing { doing, source },
            _ => Self::Lost { doing, source },
        }
    }

    /// Sorts an error that came while declaring something.
    #[must_use]
    pub fn while_declaring(doing: impl Into<String>, source: lapin::Error) -> Self {
        match amqp_kind(&source) {
            // The same code also says that an acknowledgement was wrong or late, which has nothing to do with arguments.
            Some(AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED))
                if !source.to_string().contains("delivery") =>
            {
                Self::Mismatch { doing: doing.into(), source }
            }
            _ => Self::during(doing, source),
        }
    }

    fn connecting(node: &SecretUrl, source: lapin::Error) -> Self {
        let node = node.to_string();
        match amqp_kind(&source) {
            Some(AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED)) => Self::LoginRefused { node, source },
            // Also said of a user or vhost that has too many connections, which passes.
            Some(AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED)) if !source.to_string().contains("limit") => {
                Self::VhostRefused { node, source }
            }
            _ => Self::Connect { node, source },
        }
    }

    /// Whether waiting and trying again can help, without anybody changing a setting, a permission or a queue.
    #[must_use]
    pub fn heals(&self) -> bool {
        match self {
            Self::LoginRefused { .. }
            | Self::VhostRefused { .. }
            | Self::Denied { .. }
            | Self::Mismatch { .. } => false,
            Self::Connect { .. }
            | Self::Missing { .. }
            | Self::Timeout { .. }
            | Self::Nacked { .. }
            | Self::Unroutable { .. }
            | Self::ConsumerEnded { .. }
            | Self::Lost { .. } => true,
        }
    }
}

fn amqp_kind(error: &lapin::Error) -> Option<&AMQPErrorKind> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => Some(error.kind()),
        _ => None,
    }
}

/// Longest wait for the broker's goodbye. Everything that matters was acknowledged before, and a connection that cannot be
/// closed in an orderly way is dropped, which closes it too. Shorter than what a stopping pod may take beyond its drain.
const GOODBYE: Duration = Duration::from_secs(2);

/// Closes a connection that is not needed any more.
pub async fn close(connection: &Connection) {
    let _ = timeout(GOODBYE, connection.close(200, "done".into())).await;
}

/// How to reach the broker and what must exist there.
#[derive(Debug)]
pub struct Broker {
    nodes: Vec<SecretUrl>,
    next: AtomicUsize,
    /// Bound of every call.
    pub timeout: Duration,
    /// The names in use.
    pub names: Names,
    /// What [`Broker::declare`] declares.
    pub topology: Topology,
    declare: bool,
}

impl Broker {
    /// The broker that the configuration names; nothing is connected yet.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let names = Names::new(&config.prefix);
        Self {
            nodes: config.amqp_nodes.clone(),
            // Every pod begins with another node: when one is cut off, its consumers must not all be there.
            next: AtomicUsize::new(usize::try_from(RandomState::new().hash_one(()) >> 32).unwrap_or(0)),
            timeout: config.confirm_timeout,
            topology: Topology::new(&names, &config.lanes),
            names,
            declare: config.declare_topology,
        }
    }

    /// The same, whatever the configuration says about declaring.
    #[must_use]
    pub fn declaring(self, declare: bool) -> Self {
        Self { declare, ..self }
    }

    /// Connects to the first node that answers, beginning with another one each time.
    ///
    /// # Errors
    /// The last node's error when none answers; at once when one refuses login or vhost.
    pub async fn connect(&self, purpose: &str) -> Result<Connection, BrokerError> {
        let first = self.next.fetch_add(1, Ordering::Relaxed) % self.nodes.len();
        let mut last = None;
        for n in 0..self.nodes.len() {
            let node = &self.nodes[(first + n) % self.nodes.len()];
            match self.connect_to(node, purpose).await {
                Err(error) if error.heals() => last = Some(error),
                answer => return answer,
            }
        }
        // The configuration has at least one node, so the loop has run.
        Err(last.unwrap_or(BrokerError::Timeout {
            doing: "connecting".into(),
            after: self.timeout,
            blocked: false,
        }))
    }

    async fn connect_to(&self, node: &SecretUrl, purpose: &str) -> Result<Connection, BrokerError> {
        let mut url = node.reveal().clone();
        if !url.query_pairs().any(|(key, _)| key == "heartbeat") {
            // The broker's own 60 s would notice a dead network only after two minutes.
            url.query_pairs_mut().append_pair("heartbeat", "10");
        }
        let name = format!("overdue {purpose} (pid {})", std::process::id());
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        match timeout(self.timeout, guard::connect(url.as_str(), properties)).await {
            Ok(answer) => answer.map_err(|source| BrokerError::connecting(node, source)),
            Err(_) => Err(BrokerError::Timeout {
                doing: format!("connecting to {node}"),
                after: self.timeout,
                blocked: false,
            }),
        }
    }

    /// Opens a channel.
    ///
    /// # Errors
    /// When the connection is gone or does not answer in time.
    pub async fn channel(&self, connection: &Connection) -> Result<Channel, BrokerError> {
        self.bounded("opening a channel", connection.create_channel()).await
    }

    /// Declares the topology, unless the configuration leaves that to somebody else.
    ///
    /// # Errors
    /// See [`declare::declare`].
    pub async fn declare(&self, connection: &Connection) -> Result<(), BrokerError> {
        if !self.declare {
            return Ok(());
        }
        let channel = self.channel(connection).await?;
        declare::declare(&channel, &self.topology, self.timeout).await?;
        self.bounded("closing a channel", channel.close(200, "done".into())).await
    }

    /// Runs a call with the configured bound.
    ///
    /// # Errors
    /// The call's own error, sorted, or [`BrokerError::Timeout`].
    pub async fn bounded<T>(
        &self,
        doing: &str,
        call: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, BrokerError> {
        match timeout(self.timeout, call).await {
            Ok(answer) => answer.map_err(|source| BrokerError::during(doing, source)),
            Err(_) => {
                Err(BrokerError::Timeout { doing: doing.to_owned(), after: self.timeout, blocked: false })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use lapin::protocol::AMQPError;

    use super::*;

    #[test]
    fn a_channel_closed_while_declaring_is_a_mismatch_only_when_the_broker_says_so() {
        let closed = |text: &str| {
            let error = AMQPError::new(AMQPSoftError::PRECONDITIONFAILED.into(), text.into());
            BrokerError::while_declaring("declaring a queue", ErrorKind::ProtocolError(error).into())
        };
        assert!(!closed("PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'q'").heals());
        assert!(closed("PRECONDITION_FAILED - unknown delivery tag 9").heals());
        assert!(closed("PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out").heals());
    }
}

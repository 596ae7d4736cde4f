//! What the broker's and the client's errors mean: what to tell the operator, and whether a retry helps.

use std::time::Duration;

use super::reason::{Reason, connecting, reason, untrusted, words};
use crate::config::SecretUrl;

/// An error of the broker or its client. The text names the setting or the remedy.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// One node could not be reached, or its answer is not AMQP.
    #[error("cannot connect to the broker at {node}: {}; {}", words(.source), connecting(node.starts_with("amqps:"), .source))]
    Connect {
        /// The node, without its password.
        node: String,
        source: lapin::Error,
    },
    /// The connection attempt got no answer in time: the node drops packets, or accepts connections and sends nothing.
    #[error(
        "connecting to {node}: no answer from the broker within {after:?}; the broker hangs, or the port in amqp_url \
         (AMQP_URL) is not AMQP's (5672, or 5671 with amqps://)"
    )]
    Silent {
        /// The node, without its password.
        node: String,
        after: Duration,
    },
    /// The certificate has no trusted issuer, is for another name, or has expired.
    #[error(
        "the certificate of the broker at {node} cannot be trusted ({}); use the host name of the certificate in amqp_url \
         (AMQP_URL), and for a certificate authority of your own set SSL_CERT_FILE to the file with its certificate (PEM)",
        words(.source)
    )]
    Untrusted {
        /// The node, without its password.
        node: String,
        source: lapin::Error,
    },
    /// Wrong user or password.
    #[error(
        "the broker at {node} refused the login ({}); check user and password in amqp_url (AMQP_URL)", words(.source)
    )]
    LoginRefused {
        /// The node, without its password.
        node: String,
        source: lapin::Error,
    },
    /// The vhost does not exist, or the user has no permissions on it.
    #[error(
        "the broker at {node} refused the vhost ({}); create it, give the user permissions on it, or name another in \
         amqp_url (AMQP_URL)", words(.source)
    )]
    VhostRefused {
        /// The node, without its password.
        node: String,
        source: lapin::Error,
    },
    /// The connection or channel limit of the user, vhost or node is reached.
    #[error(
        "{doing}: the broker allows no more connections or channels ({}); raise that limit, or close connections that are \
         not needed (a pod has up to nine)", words(.source)
    )]
    SessionLimit { doing: String, source: lapin::Error },
    /// The queue limit of the vhost or the broker is reached.
    #[error(
        "{doing}: the broker allows no more queues ({}); raise that limit (`rabbitmqctl set_vhost_limits`), remove queues, \
         or configure fewer lanes: a shop has one queue per lane and three more", words(.source)
    )]
    QueueLimit { doing: String, source: lapin::Error },
    /// The user lacks a permission on a queue or exchange.
    #[error("{doing}: permission denied ({}); see rabbitmq/README.md for the permissions each user needs{}", words(.source),
        if *.declaring { ", or set declare_topology to false where another user declares the topology" } else { "" })]
    Denied {
        doing: String,
        /// Whether the refused operation was a declaration, which another user can do instead.
        declaring: bool,
        source: lapin::Error,
    },
    /// A queue or exchange exists with another type or other arguments.
    #[error(
        "{doing}: it exists with other arguments ({}); `overdue topology verify` shows every difference and the remedy",
        words(.source)
    )]
    Mismatch { doing: String, source: lapin::Error },
    /// A queue or exchange does not exist: it was deleted, or neither this user nor this setting declares it.
    #[error("{doing}: not found ({}); run `overdue topology declare`", words(.source))]
    Missing { doing: String, source: lapin::Error },
    #[error("{doing}: no answer from the broker within {after:?}")]
    Timeout { doing: String, after: Duration },
    /// A publisher confirm was negative.
    #[error("the broker refused a message for {key}; it is published again on a new channel")]
    Nacked {
        /// The routing key.
        key: String,
    },
    /// No queue is bound for a message that must reach one.
    #[error("no queue is bound for {key}; `overdue topology verify` shows what is missing")]
    Unroutable {
        /// The routing key.
        key: String,
    },
    /// The broker ended a consumer: the queue was deleted or moved, or the consumer timed out.
    #[error("the broker ended the consumer of {queue}")]
    ConsumerEnded { queue: String },
    /// Anything else: connection or channel gone.
    #[error("{doing}: {}", words(.source))]
    Lost { doing: String, source: lapin::Error },
}

impl BrokerError {
    /// Classifies an error of an operation on a connection or channel.
    #[must_use]
    pub fn during(doing: impl Into<String>, source: lapin::Error) -> Self {
        Self::sorted(doing.into(), source, false)
    }

    /// Classifies an error of a declaration.
    #[must_use]
    pub fn while_declaring(doing: impl Into<String>, source: lapin::Error) -> Self {
        Self::sorted(doing.into(), source, true)
    }

    fn sorted(doing: String, source: lapin::Error, declaring: bool) -> Self {
        match reason(&source) {
            Reason::Permission => Self::Denied { doing, declaring, source },
            Reason::Missing => Self::Missing { doing, source },
            Reason::Mismatch => Self::Mismatch { doing, source },
            Reason::QueueLimit => Self::QueueLimit { doing, source },
            Reason::SessionLimit => Self::SessionLimit { doing, source },
            Reason::Login | Reason::Vhost | Reason::Other => Self::Lost { doing, source },
        }
    }

    pub(super) fn connecting(node: &SecretUrl, source: lapin::Error) -> Self {
        let node = node.to_string();
        match reason(&source) {
            Reason::Login | Reason::Permission => Self::LoginRefused { node, source },
            Reason::Vhost => Self::VhostRefused { node, source },
            Reason::SessionLimit => {
                Self::SessionLimit { doing: format!("connecting to the broker at {node}"), source }
            }
            _ if untrusted(&source) => Self::Untrusted { node, source },
            _ => Self::Connect { node, source },
        }
    }

    /// Whether a retry can succeed without a change of a setting, a permission or a queue.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::LoginRefused { .. }
            | Self::VhostRefused { .. }
            | Self::Denied { .. }
            | Self::QueueLimit { .. }
            | Self::Mismatch { .. } => false,
            // Another node's certificate may be valid, and certificates are renewed without a change on our side.
            Self::Untrusted { .. }
            | Self::Connect { .. }
            | Self::Silent { .. }
            | Self::SessionLimit { .. }
            | Self::Missing { .. }
            | Self::Timeout { .. }
            | Self::Nacked { .. }
            | Self::Unroutable { .. }
            | Self::ConsumerEnded { .. }
            | Self::Lost { .. } => true,
        }
    }
}

//! What the broker's and the client's errors mean: what to tell the operator, and whether waiting helps.

use std::time::Duration;

use super::reason::{Reason, connecting, reason, untrusted, words};
use crate::config::SecretUrl;

/// What went wrong with the broker. The text names the setting or the remedy.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// No node answered.
    #[error("cannot connect to the broker at {node}: {}; {}", words(.source), connecting(node.starts_with("amqps:"), .source))]
    Connect {
        /// The node, without its password.
        node: String,
        /// The client's error.
        source: lapin::Error,
    },
    /// Something accepts connections there, and does not speak.
    #[error(
        "connecting to {node}: no answer from the broker within {after:?}; it hangs, or amqp_url (AMQP_URL) names another \
         port than AMQP's, 5672, or 5671 with amqps://"
    )]
    Silent {
        /// The node, without its password.
        node: String,
        /// How long was waited.
        after: Duration,
    },
    /// Its certificate is not vouched for, is for another name, or has expired.
    #[error(
        "the broker at {node} shows a certificate that cannot be trusted ({}); name it as its certificate does in \
         amqp_url (AMQP_URL), and for a certificate authority of your own set SSL_CERT_FILE to the file with its \
         certificate (PEM)", words(.source)
    )]
    Untrusted {
        /// The node, without its password.
        node: String,
        /// The client's error.
        source: lapin::Error,
    },
    /// User or password.
    #[error(
        "the broker at {node} refused the login ({}); check user and password in amqp_url (AMQP_URL)", words(.source)
    )]
    LoginRefused {
        /// The node, without its password.
        node: String,
        /// The broker's answer.
        source: lapin::Error,
    },
    /// The vhost is not there, or the user may not enter it.
    #[error(
        "the broker at {node} refused the vhost ({}); create it, give the user permissions on it, or name another in \
         amqp_url (AMQP_URL)", words(.source)
    )]
    VhostRefused {
        /// The node, without its password.
        node: String,
        /// The broker's answer.
        source: lapin::Error,
    },
    /// As many connections or channels as user, vhost or node may have.
    #[error(
        "{doing}: the broker allows no more ({}); raise that limit, or end connections that are not needed (a pod has \
         up to nine)", words(.source)
    )]
    SessionLimit {
        /// What was being done.
        doing: String,
        /// The broker's answer.
        source: lapin::Error,
    },
    /// As many queues as the vhost or the broker may have.
    #[error(
        "{doing}: the broker allows no more queues ({}); raise that limit (`rabbitmqctl set_vhost_limits`), remove queues, \
         or name fewer lanes: there is a queue for each, and three more", words(.source)
    )]
    QueueLimit {
        /// What was being done.
        doing: String,
        /// The broker's answer.
        source: lapin::Error,
    },
    /// A missing permission.
    #[error("{doing}: permission denied ({}); see rabbitmq/README.md for the permissions each user needs{}", words(.source),
        if *.declaring { ", or set declare_topology to false where somebody else declares" } else { "" })]
    Denied {
        /// What was being done.
        doing: String,
        /// Whether it was to declare something, which can be left to somebody else.
        declaring: bool,
        /// The broker's answer.
        source: lapin::Error,
    },
    /// It exists with other arguments.
    #[error(
        "{doing}: it exists with other arguments ({}); `overdue topology verify` shows every difference and the remedy",
        words(.source)
    )]
    Mismatch {
        /// What was being done.
        doing: String,
        /// The broker's answer.
        source: lapin::Error,
    },
    /// A queue or exchange is not there, and this user or setting does not declare it.
    #[error("{doing}: not found ({}); run `overdue topology declare`", words(.source))]
    Missing {
        /// What was being done.
        doing: String,
        /// The broker's answer.
        source: lapin::Error,
    },
    /// No answer in time.
    #[error("{doing}: no answer from the broker within {after:?}")]
    Timeout {
        /// What was being done.
        doing: String,
        /// How long was waited.
        after: Duration,
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
    #[error("{doing}: {}", words(.source))]
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
        Self::sorted(doing.into(), source, false)
    }

    /// Sorts an error that came while declaring something.
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

    /// Whether waiting and trying again can help, without anybody changing a setting, a permission or a queue.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::LoginRefused { .. }
            | Self::VhostRefused { .. }
            | Self::Denied { .. }
            | Self::QueueLimit { .. }
            | Self::Mismatch { .. } => false,
            // Another node's may be fine, and a certificate is renewed without us.
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

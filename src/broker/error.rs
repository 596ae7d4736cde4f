//! What the broker's and the client's errors mean: what to tell the operator, and whether waiting helps.

use std::time::Duration;

use lapin::ErrorKind;
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};

use crate::config::SecretUrl;

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
    /// Its certificate is not vouched for, is for another name, or has expired.
    #[error(
        "the broker at {node} shows a certificate that cannot be trusted ({source}); name it as its certificate does in amqp_url (AMQP_URL), and for a certificate authority of your own set SSL_CERT_FILE to the file with its certificate (PEM)"
    )]
    Untrusted {
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

    pub(super) fn connecting(node: &SecretUrl, source: lapin::Error) -> Self {
        let node = node.to_string();
        match amqp_kind(&source) {
            Some(AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED)) => Self::LoginRefused { node, source },
            // Also said of a user or vhost that has too many connections, which passes.
            Some(AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED)) if !source.to_string().contains("limit") => {
                Self::VhostRefused { node, source }
            }
            // From the TLS library, as an I/O error.
            None if source.to_string().contains("certificate") => Self::Untrusted { node, source },
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
            // Another node's may be fine, and a certificate is renewed without us.
            Self::Untrusted { .. }
            | Self::Connect { .. }
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

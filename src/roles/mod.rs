//! The roles that a pod may play, and how a role fails.

pub mod backoff;
pub mod close;
pub mod intake;
pub mod relay;
pub mod shared;
pub mod sweep;
pub mod watch;

use std::fmt;
use std::str::FromStr;

use crate::broker::BrokerError;
use crate::database::DatabaseError;

/// A part of the work that a pod may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Publishes the outbox; in one pod at a time.
    Relay,
    /// Puts the wakes of order-created messages into lanes.
    Intake,
    /// Takes wakes and closes orders.
    Close,
    /// Closes what no wake closed.
    Sweep,
    /// Sends probes through the lanes and checks the broker; in one pod at a time.
    Watch,
}

impl Role {
    /// Every role, in the order in which an order meets them.
    pub const ALL: [Self; 5] = [Self::Relay, Self::Intake, Self::Close, Self::Sweep, Self::Watch];
}

impl FromStr for Role {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|role| role.to_string() == name);
        known.ok_or_else(|| "the roles are relay, intake, close, sweep and watch".to_owned())
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Relay => "relay",
            Self::Intake => "intake",
            Self::Close => "close",
            Self::Sweep => "sweep",
            Self::Watch => "watch",
        })
    }
}

/// Why a role's session ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum RoleError {
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// During shutdown, in-flight work was not finished in time; its messages were requeued.
    #[error("requeued {orders} unfinished order{}", if *.orders == 1 { "" } else { "s" })]
    Unfinished { orders: usize },
    /// A task panicked, which is a defect of Overdue.
    #[error("a task ended: {0}")]
    Task(String),
}

impl RoleError {
    /// Whether a new session may succeed without an operator changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Broker(error) => error.is_transient(),
            Self::Database(error) => error.is_transient(),
            Self::Task(_) | Self::Unfinished { .. } => true,
        }
    }
}

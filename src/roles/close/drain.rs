//! The stages of a consumer's shutdown: quieting, finishing, handing over, done. Pure.

use std::time::Duration;

use tokio::time::Instant;

use crate::broker::consumer::{QUIET, QUIET_AT_LAST};

/// During shutdown a pod closes orders for this long. Then it publishes the remaining wakes for other pods, and acknowledges.
/// A requeued message would be redelivered, which brokers count against it.
const HAND_OVER: Duration = Duration::from_secs(2);

const _: () = assert!(QUIET_AT_LAST.as_millis() < HAND_OVER.as_millis());

/// How far the shutdown has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drain {
    /// No shutdown has been requested.
    Taking,
    /// Every delivery is accepted until no more come; then the consumer is cancelled. See [`QUIET`].
    Quieting {
        /// When the consumer is cancelled, unless a delivery comes before.
        cancel_at: Instant,
        /// When the consumer is cancelled at the latest.
        latest: Instant,
        /// When what is left goes to other pods.
        hand_over_at: Instant,
    },
    /// What is in flight is being closed.
    Finishing {
        /// When what is left goes to other pods.
        hand_over_at: Instant,
    },
    /// Every wake whose order is not being closed is published again for other pods.
    HandingOver,
    /// Everything that was delivered is done.
    Done,
}

/// What to do at a moment of the drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Cancel the consumer.
    Cancel,
    /// Hand waiting wakes over to other pods.
    HandOver,
}

impl Drain {
    /// Begins the drain, unless it has begun.
    pub fn begin(&mut self, now: Instant) {
        if *self == Self::Taking {
            *self = Self::Quieting {
                cancel_at: now + QUIET,
                latest: now + QUIET_AT_LAST,
                hand_over_at: now + HAND_OVER,
            };
        }
    }

    /// Deliveries have come. `all`: the prefetch is used up, so the broker sends no more.
    pub fn delivered(&mut self, now: Instant, all: bool) {
        if let Self::Quieting { cancel_at, latest, .. } = self {
            *cancel_at = if all { now } else { (now + QUIET).min(*latest) };
        }
    }

    /// Takes the next step, if its moment has come.
    pub fn step(&mut self, now: Instant) -> Option<Step> {
        match *self {
            Self::Quieting { cancel_at, hand_over_at, .. } if cancel_at <= now => {
                *self = Self::Finishing { hand_over_at };
                Some(Step::Cancel)
            }
            Self::Finishing { hand_over_at } if hand_over_at <= now => {
                *self = Self::HandingOver;
                Some(Step::HandOver)
            }
            _ => None,
        }
    }

    /// When the next step is due.
    pub fn next_moment(self) -> Option<Instant> {
        match self {
            Self::Quieting { cancel_at, .. } => Some(cancel_at),
            Self::Finishing { hand_over_at } => Some(hand_over_at),
            Self::Taking | Self::HandingOver | Self::Done => None,
        }
    }

    pub fn is_stopping(self) -> bool {
        self != Self::Taking
    }

    /// Whether wakes may still be held, or closed later.
    pub fn may_wait(self) -> bool {
        !matches!(self, Self::HandingOver | Self::Done)
    }

    /// Whether the consumer has been cancelled.
    pub fn is_cancelled(self) -> bool {
        !matches!(self, Self::Taking | Self::Quieting { .. })
    }
}

//! How a consumer stops: it quiets, finishes, hands over, and is done. Pure.

use std::time::Duration;

use tokio::time::Instant;

use crate::broker::consumer::{QUIET, QUIET_AT_LAST};

/// A pod that was asked to stop closes orders for this long; then it publishes what is left for the others, and acknowledges.
/// Given back instead, messages would come again as redeliveries, which brokers count against them.
const HAND_OVER: Duration = Duration::from_secs(2);

const _: () = assert!(QUIET_AT_LAST.as_millis() < HAND_OVER.as_millis());

/// How far stopping has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drain {
    /// Nobody has asked to stop.
    Taking,
    /// Every delivery is accepted until no more come; then the consumer is cancelled. See [`QUIET`].
    Quieting {
        /// When it is cancelled, if nothing comes before.
        cancel_at: Instant,
        /// When it is cancelled at the latest.
        latest: Instant,
        /// When what is left goes to other pods.
        hand_over_at: Instant,
    },
    /// What is in flight is being closed.
    Finishing {
        /// When what is left goes to other pods.
        hand_over_at: Instant,
    },
    /// Whatever is not in the database's hands is published again for other pods.
    HandingOver,
    /// Everything that was delivered is done.
    Done,
}

/// What is to be done when a moment of the drain has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Ask for no more messages.
    Cancel,
    /// Give what waits to other pods.
    HandOver,
}

impl Drain {
    /// Somebody has asked to stop.
    pub fn begin(&mut self, now: Instant) {
        if *self == Self::Taking {
            *self = Self::Quieting {
                cancel_at: now + QUIET,
                latest: now + QUIET_AT_LAST,
                hand_over_at: now + HAND_OVER,
            };
        }
    }

    /// Deliveries have come; `all` that the broker sends ahead are here.
    pub fn delivered(&mut self, now: Instant, all: bool) {
        if let Self::Quieting { cancel_at, latest, .. } = self {
            *cancel_at = if all { now } else { (now + QUIET).min(*latest) };
        }
    }

    /// Goes one step further, if its moment has come.
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

    /// When there is a next step.
    pub fn next_moment(self) -> Option<Instant> {
        match self {
            Self::Quieting { cancel_at, .. } => Some(cancel_at),
            Self::Finishing { hand_over_at } => Some(hand_over_at),
            Self::Taking | Self::HandingOver | Self::Done => None,
        }
    }

    /// Whether somebody has asked to stop.
    pub fn is_stopping(self) -> bool {
        self != Self::Taking
    }

    /// Whether wakes may still be held, or closed later.
    pub fn may_wait(self) -> bool {
        !matches!(self, Self::HandingOver | Self::Done)
    }

    /// Whether the broker has been asked for no more messages.
    pub fn is_cancelled(self) -> bool {
        !matches!(self, Self::Taking | Self::Quieting { .. })
    }
}

//! The delay lanes: which one a wake goes into, for how long, and with which others it shares a message.

pub mod lane;
pub mod schedule;

pub use lane::{Hop, LONGEST_HOLD, Lane, LaneError, Lanes};
pub use schedule::GATHER;

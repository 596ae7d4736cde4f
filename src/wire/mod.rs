//! Bytes and values: what messages look like, in both directions. Pure, and what the fuzz targets feed.

pub mod event;
pub mod headers;
pub mod keys;
pub mod malformed;
pub mod message;
pub mod outgoing;
pub mod parked;
pub mod wake;

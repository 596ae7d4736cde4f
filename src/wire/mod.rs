//! Converts messages between bytes and values, in both directions. Pure; the fuzz targets feed this module.

pub mod dialects;
pub mod envelope;
pub mod event;
pub mod headers;
pub mod keys;
pub mod malformed;
pub mod message;
pub mod outgoing;
pub mod parked;
pub mod wake;

//! How client libraries and frameworks say what the contract means: one module a dialect.
//!
//! A dialect is read where its meaning is certain. Everything else is refused with a reason that names what was sent, and
//! what to send instead.

pub mod content;
pub mod delay;
pub mod frameworks;
pub mod ids;
pub mod java;
pub mod json;
pub mod times;

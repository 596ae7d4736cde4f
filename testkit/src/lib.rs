//! The world around Overdue, as tests, trials and the demo need it: a shop, a subscriber, pods, and what stands between
//! them and the servers. The kit shares nothing with the service but its contracts.

// An error here ends the test, and names what was being done.
#![allow(clippy::missing_errors_doc)]

pub mod breaker;
pub mod broker;
pub mod deployment;
pub mod log;
pub mod machine;
pub mod management;
pub mod pod;
pub mod process;
pub mod random;
pub mod shop;
pub mod subscriber;

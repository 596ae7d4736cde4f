//! The world around Overdue, as tests, trials and the demo need it. Shares nothing with the service but its contracts.

pub mod breaker;
pub mod management;
pub mod random;

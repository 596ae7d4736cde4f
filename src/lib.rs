//! Overdue closes unpaid orders on time.
//!
//! The modules below stand in the order in which an order meets them. A wake-up is a hint; the database decides: see
//! `close.sql`, the one statement that closes orders. `ARCHITECTURE.md` has the picture.

// Into the lanes.
pub mod announce;
pub mod event;
pub mod intake;
pub mod lane;
pub mod message;
pub mod outbox;
pub mod relay;
pub mod schedule;
pub mod wake;

// Out of the lanes.
pub mod close;
pub mod collect;
pub mod hand;
pub mod park;
pub mod parked;
pub mod settle;
pub mod sweep;

// Whether the lanes deliver.
pub mod probe;
pub mod watch;

// What they stand on.
pub mod backoff;
pub mod broker;
pub mod clock;
pub mod config;
pub mod database;
pub mod finding;
pub mod leader;
pub mod pod;
pub mod role;
pub mod settings;
pub mod shop;
pub mod stats;
pub mod topology;
pub mod verify;

pub mod bench;
pub mod cli;

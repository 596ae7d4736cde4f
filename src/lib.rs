//! Overdue closes unpaid orders on time.
//!
//! The modules are listed by floor, top to bottom: an import goes down, never up, and a test enforces that. A wake is only a
//! hint, and the database decides: see `closing/close.sql`, the one statement that closes orders. `ARCHITECTURE.md` has the
//! picture.

pub mod cli;

pub mod pod;

pub mod bench;
pub mod roles;

pub mod closing;

pub mod orders;
pub mod outbox;
pub mod parked;
pub mod probes;
pub mod verify;

pub mod broker;
pub mod database;

pub mod config;
pub mod topology;

pub mod lanes;

pub mod wire;

pub mod clock;
pub mod error_text;
pub mod finding;
pub mod stats;

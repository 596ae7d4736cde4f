//! The advisory locks that pods and `migrate` take. SQL gets the keys as parameters. One more is taken by `overdue_give_back`
//! (migrations/functions.sql), whose key is the number below alone, with the table of the products.
//!
//! PostgreSQL's keys are pairs of 32 bits. The first half is one of the numbers below: "OVER" in ASCII and what the lock is for, so
//! that no lock of the shop's own programs is meant. The second half names the shop: mostly its outbox table, because a database
//! may hold several shops, each in a schema of its own. The numbers never change: pods of two versions run side by side.

const OVER: i32 = 0x4F56_4552;

/// Work that one pod at a time does. The second half is the outbox table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleKey {
    /// The relay.
    Relay = 1,
    /// The sweep.
    Sweep = 2,
    /// The watch.
    Watch = 3,
}

impl RoleKey {
    /// First half of the lock's key.
    #[must_use]
    pub const fn class(self) -> i32 {
        OVER + self as i32
    }
}

/// Migrating a schema. The second half is the hash of its name, because it has no outbox table before its first migration.
pub const MIGRATION: i32 = OVER + 4;

/// The slots of large closing batches, of all pods: slot n has the number n more than this. The second half is the outbox table.
pub const CLOSING_SLOTS: i32 = OVER + 100;

/// The first of these slots: where it is taken, a large batch is being closed.
pub const FIRST_CLOSING_SLOT: i32 = CLOSING_SLOTS + 1;

const _: () = assert!(RoleKey::Watch.class() < MIGRATION && MIGRATION < CLOSING_SLOTS);

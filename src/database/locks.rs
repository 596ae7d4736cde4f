//! The advisory locks that pods and `migrate` take. SQL gets the keys as parameters.
//!
//! A key is a pair of 32-bit numbers. The first half is one of the numbers below: "OVER" in ASCII plus the purpose of the lock, so
//! that it does not collide with locks of the shop's own programs. The second half names the shop, mostly by its outbox table,
//! because a database may hold several shops, each in a schema of its own. The numbers never change: pods of two versions run
//! side by side.

const OVER: i32 = 0x4F56_4552;

// Pods of earlier versions lead by the numbers 1 to 3.

/// Migrating a schema. The second half is the hash of its name, because it has no outbox table before its first migration.
pub const MIGRATION: i32 = OVER + 4;

/// The slots of large closing batches, shared by all pods: slot n has this number plus n. The second half is the outbox table.
pub const CLOSING_SLOTS: i32 = OVER + 100;

/// The first of these slots. While it is taken, a large batch is being closed.
pub const FIRST_CLOSING_SLOT: i32 = CLOSING_SLOTS + 1;

const _: () = assert!(MIGRATION < CLOSING_SLOTS);

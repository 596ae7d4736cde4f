//! Names of the headers that Overdue writes.

/// Stands for properties that cannot be read: why.
pub const UNREADABLE: &str = "overdue-unreadable";
/// The bytes of properties that could not be read, at most 32 KiB of them.
pub const RAW_PROPERTIES: &str = "overdue-raw-properties";

/// Why a message was parked, for a person to read.
pub const REASON: &str = "overdue-reason";
/// When it was parked, RFC 3339.
pub const PARKED_AT: &str = "overdue-parked-at";
/// The routing key under which a retry publishes it again.
pub const RETRY_KEY: &str = "overdue-retry-key";
/// The expiration it had. As a property it would make the parked message expire.
pub const EXPIRATION: &str = "overdue-expiration";
/// The user id it had. As a property the broker would hold it against our own user, and refuse it.
pub const USER_ID: &str = "overdue-user-id";

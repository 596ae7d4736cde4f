//! Names of the headers that Overdue writes, and of those of others that it reads.

/// The delay in milliseconds, for users of the delayed-message plugin.
pub const X_DELAY: &str = "x-delay";
/// How kombu compressed the body.
pub const COMPRESSION: &str = "compression";

/// Replaces properties that cannot be read, and says why.
pub const UNREADABLE: &str = "overdue-unreadable";
/// The raw bytes of properties that cannot be read, at most 32 KiB of them.
pub const RAW_PROPERTIES: &str = "overdue-raw-properties";

/// Why a message was parked, for a person to read.
pub const REASON: &str = "overdue-reason";
/// When it was parked, RFC 3339.
pub const PARKED_AT: &str = "overdue-parked-at";
/// The routing key under which a retry publishes the message again.
pub const RETRY_KEY: &str = "overdue-retry-key";
/// The message's original expiration. As a property it would make the parked message expire.
pub const EXPIRATION: &str = "overdue-expiration";
/// The message's original user id. As a property the broker would compare it with Overdue's user, and refuse the message.
pub const USER_ID: &str = "overdue-user-id";

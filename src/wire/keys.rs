//! Routing keys on the exchange of Overdue's own messages.

/// Routing key of a service's order-created message.
pub const KEY_DELAY: &str = "order.delay";
/// Routing key of a wake that is (nearly) due.
pub const KEY_PROCESS: &str = "order.process";
/// Routing key of a message that needs a person.
pub const KEY_PARKED: &str = "order.parked";

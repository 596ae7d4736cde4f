//! A message to publish.

use lapin::BasicProperties;

#[derive(Clone, Debug, PartialEq)]
pub struct Outgoing {
    /// Routing key on the publisher's exchange.
    pub key: String,
    pub body: Vec<u8>,
    /// Without the delivery mode: the publisher makes every message persistent.
    pub properties: BasicProperties,
    /// Whether the message must reach a queue. Overdue's own messages must; an event goes to its subscribers, if any.
    pub mandatory: bool,
}

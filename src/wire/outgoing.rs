//! A message on its way out.

use lapin::BasicProperties;

/// One message to publish.
#[derive(Clone, Debug, PartialEq)]
pub struct Outgoing {
    /// Routing key on the publisher's exchange.
    pub key: String,
    /// Body.
    pub body: Vec<u8>,
    /// Properties; the publisher makes every message persistent.
    pub properties: BasicProperties,
    /// Whether the message must reach a queue. Our own wakes must; an event goes to whoever has subscribed, if any.
    pub mandatory: bool,
}

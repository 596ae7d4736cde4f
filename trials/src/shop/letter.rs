//! Messages that nobody can understand: what was sent, and what a person finds of it when it is parked.

use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable};

/// What must be the same before and after.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Letter {
    /// The body.
    pub body: Vec<u8>,
    /// The property of this name.
    pub message_id: String,
    /// A header of the sender's own.
    pub sender: String,
}

/// The sender's header.
const SENDER: &str = "sent-by";
/// The header in which a person is told why it was parked.
const REASON: &str = "overdue-reason";

/// A letter as it was found in the parked queue.
#[derive(Clone, Debug)]
pub struct Parked {
    /// The letter.
    pub letter: Letter,
    /// Why it was parked, as it says.
    pub reason: String,
}

impl Letter {
    /// One of a kind.
    pub fn new(body: Vec<u8>) -> Self {
        let once = rand::random::<u64>();
        Self { body, message_id: format!("letter-{once}"), sender: format!("shop-{once}") }
    }

    /// What to publish it with.
    pub fn properties(&self) -> BasicProperties {
        let mut headers = FieldTable::default();
        headers.insert(SENDER.into(), AMQPValue::LongString(self.sender.as_str().into()));
        BasicProperties::default().with_message_id(self.message_id.as_str().into()).with_headers(headers)
    }
}

impl From<Delivery> for Parked {
    fn from(delivery: Delivery) -> Self {
        let headers = delivery.properties.headers().clone().unwrap_or_default();
        let header = |name: &str| match headers.inner().get(name) {
            Some(AMQPValue::LongString(text)) => text.to_string(),
            _ => String::new(),
        };
        let message_id = delivery.properties.message_id().as_ref().map(ToString::to_string);
        let letter = Letter {
            message_id: message_id.unwrap_or_default(),
            sender: header(SENDER),
            body: delivery.data,
        };
        Self { letter, reason: header(REASON) }
    }
}

//! The events that tell the rest of the shop what happened: CloudEvents 1.0, structured JSON.

use lapin::BasicProperties;
use serde::Serialize;

use super::outgoing::Outgoing;
use crate::clock::DbTime;

/// The source of a shop's events.
#[must_use]
pub fn source(shop: &str) -> String {
    if shop.is_empty() { "/overdue".to_owned() } else { format!("/overdue/{shop}") }
}

/// One order's part of an event that the outbox recorded.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// `order.closed` or a sibling: the CloudEvents type and the routing key.
    pub kind: &'a str,
    /// When it happened: the start of the transaction that did it.
    pub at: DbTime,
    pub order_id: i64,
    /// The buyer.
    pub user_id: i64,
    /// The deadline that had passed.
    pub payment_deadline: DbTime,
}

#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: &'a str,
    source: &'a str,
    r#type: &'a str,
    subject: String,
    time: &'a str,
    datacontenttype: &'static str,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    order_id: i64,
    user_id: i64,
    /// The numbers as strings: JavaScript and others read JSON's numbers as floating-point ones, which are exact below 2⁵³ only.
    order_id_str: String,
    user_id_str: String,
    payment_deadline: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    closed_at: Option<&'a str>,
}

impl Event<'_> {
    /// The event's id: the same for every redelivery, and unique, as an order has one event of a kind at one moment.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}:{}:{}", self.kind, self.order_id, self.at.0)
    }

    /// The message to publish.
    #[must_use]
    pub fn message(&self, source: &str) -> Outgoing {
        let (id, time) = (self.id(), self.at.to_string());
        let event = CloudEvent {
            specversion: "1.0",
            id: &id,
            source,
            r#type: self.kind,
            subject: self.order_id.to_string(),
            time: &time,
            datacontenttype: "application/json",
            data: Data {
                order_id: self.order_id,
                user_id: self.user_id,
                order_id_str: self.order_id.to_string(),
                user_id_str: self.user_id.to_string(),
                payment_deadline: self.payment_deadline.to_string(),
                closed_at: (self.kind == "order.closed").then_some(&time),
            },
        };
        // Strings and numbers always have a JSON form.
        let body = serde_json::to_vec(&event).unwrap_or_default();
        let properties = BasicProperties::default()
            .with_content_type("application/cloudevents+json".into())
            .with_message_id(id.as_str().into())
            .with_type(self.kind.into())
            .with_timestamp(u64::try_from(self.at.0 / 1_000_000).unwrap_or(0));
        // Not mandatory: an event without a subscriber is discarded by the broker, and that is not an error.
        Outgoing { key: self.kind.to_owned(), body, properties, mandatory: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_cloud_event_with_a_stable_id() {
        let at = DbTime(1_767_225_600_250_000);
        let payment_deadline = DbTime(1_767_225_600_000_000);
        let event = Event { kind: "order.closed", at, order_id: 7, user_id: 3, payment_deadline };
        let message = event.message(&source("berlin"));
        let body: serde_json::Value = serde_json::from_slice(&message.body).expect("JSON");
        assert_eq!(
            body,
            serde_json::json!({
                "specversion": "1.0", "id": "order.closed:7:1767225600250000",
                "source": "/overdue/berlin",
                "type": "order.closed", "subject": "7", "time": "2026-01-01T00:00:00.25Z",
                "datacontenttype": "application/json",
                "data": {"order_id": 7, "user_id": 3, "order_id_str": "7", "user_id_str": "3", "payment_deadline": "2026-01-01T00:00:00Z",
                         "closed_at": "2026-01-01T00:00:00.25Z"},
            })
        );
        assert_eq!(source(""), "/overdue");
        let message_id = message.properties.message_id().as_ref().map(|id| id.to_string());
        assert_eq!(message_id.as_deref(), body["id"].as_str());
    }
}

//! Outside services: they know the exchange, one routing key and the body forms, and may publish only there.

use std::sync::Arc;
use std::time::Duration;

use lapin::BasicProperties;
use overdue_testkit::broker::{Broker, ORDER_CREATED, PLUMBING};
use overdue_testkit::shop::Placed;
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;
use tokio::time::sleep;

use crate::Result;
use crate::script::Form;

const LONG_AGO: &str = "2024-02-29T12:00:00Z";

/// Publishes order-created messages, valid and malformed ones.
#[derive(Clone, Debug)]
pub struct Services {
    pub broker: Arc<Broker>,
}

impl Services {
    /// Announces an order with its deadline.
    pub async fn announce(&self, form: Form, placed: &Placed) -> Result<()> {
        let deadline = placed.payment_deadline.format(&Rfc3339)?;
        // The forms without a deadline give the delay in milliseconds.
        self.publish(message(form, placed.order_id, &deadline, placed.left.as_millis())).await
    }

    /// Claims that an order is due, whatever its deadline.
    pub async fn forge(&self, form: Form, order_id: i64) -> Result<()> {
        self.publish(message(form, order_id, LONG_AGO, 0)).await
    }

    /// Sends messages that cannot be understood, spread over the shop's busy time. Returns how many.
    pub async fn send_malformed(&self) -> Result<u64> {
        let messages = malformed();
        let count = messages.len() as u64;
        for message in messages {
            sleep(Duration::from_millis(1_200)).await;
            self.publish(message).await?;
        }
        Ok(count)
    }

    async fn publish(&self, (body, properties): Message) -> Result<()> {
        Ok(self.broker.publish(PLUMBING, ORDER_CREATED, &body, properties).await?)
    }
}

type Message = (Vec<u8>, BasicProperties);

fn message(form: Form, order_id: i64, deadline: &str, delay_ms: u128) -> Message {
    let delay = || json_message().with_expiration(delay_ms.to_string().into());
    let order = json!({"order_id": order_id, "payment_deadline": deadline});
    let (body, properties): (Value, _) = match form {
        Form::Deadline => (order, json_message()),
        Form::Delay => (json!({"order_id": order_id}), delay()),
        Form::Number => (json!(order_id), delay().with_content_type("text/plain".into())),
        Form::CloudEvent => {
            let event = json!({
                "specversion": "1.0", "type": "shop.order.created", "source": "/demo/shop",
                "id": format!("created-{order_id}"), "datacontenttype": "application/json", "data": order,
            });
            (event, json_message().with_content_type("application/cloudevents+json".into()))
        }
    };
    (body.to_string().into_bytes(), properties)
}

/// One of each kind of mistake that services make.
fn malformed() -> Vec<Message> {
    let minute = || json_message().with_expiration("60000".into());
    let messages: [(&str, BasicProperties); 12] = [
        (r#"{"order_id": 17, "payment_dead"#, json_message()),
        ("", minute()),
        ("order 17 please", minute()),
        ("[17, 18]", minute()),
        (r#"{"orderId": 17}"#, minute()),
        (r#"{"order_id": -17}"#, minute()),
        (r#"{"order_id": "seventeen"}"#, minute()),
        (r#"{"order_id": 17}"#, json_message()),
        (r#"{"order_id": 17, "payment_deadline": "in a quarter of an hour"}"#, json_message()),
        (r#"{"order_id": 17, "payment_deadline": "2924-02-29T12:00:00Z"}"#, json_message()),
        ("\u{ac}\u{ed}\u{0}\u{5}", minute().with_content_type("application/x-java-serialized-object".into())),
        ("17", minute().with_content_encoding("gzip".into())),
    ];
    messages.into_iter().map(|(body, properties)| (body.as_bytes().to_vec(), properties)).collect()
}

fn json_message() -> BasicProperties {
    BasicProperties::default().with_content_type("application/json".into())
}

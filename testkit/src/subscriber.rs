//! A subscriber of the events: another part of the shop that hears each event at least once, and connects again when it
//! must.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::StreamExt;
use lapin::BasicProperties;
use lapin::options::{BasicAckOptions, BasicConsumeOptions};
use lapin::types::FieldTable;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use crate::broker::{Broker, EVENTS};

/// An event as it was heard first.
#[derive(Clone, Debug)]
pub struct Heard {
    /// `order.closed` or a sibling.
    pub kind: String,
    /// The order.
    pub order_id: i64,
    /// The whole event.
    pub body: Value,
    /// How often it came.
    pub times: u32,
}

/// What was heard.
#[derive(Clone, Debug, Default)]
pub struct News {
    /// By the event's id.
    pub events: HashMap<String, Heard>,
    /// The ids in the order in which they came, repetitions included.
    pub order: Vec<String>,
    /// Events that contradict themselves or each other.
    pub wrong: Vec<String>,
    /// Events of orders up to this one were handed over; they may come again, and are then not noted.
    forgotten: i64,
    /// The last marker that came; see [`Subscriber::catch_up`].
    marker: u64,
}

/// Listens until it is dropped.
#[derive(Debug)]
pub struct Subscriber {
    news: Arc<watch::Sender<News>>,
    listening: AbortHandle,
    broker: Arc<Broker>,
    queue: String,
}

/// Before the number of a marker.
const MARKER: &str = "marker-";

impl Subscriber {
    /// Listens with a queue of its own to events of these kinds. Overdue need not know of it.
    pub async fn listen(broker: Arc<Broker>, queue: &str, kinds: &[&str]) -> Result<Self> {
        broker.subscribe(queue, EVENTS, kinds, &[]).await?;
        let news = Arc::new(watch::Sender::new(News::default()));
        let listening = tokio::spawn({
            let (broker, news, queue) = (Arc::clone(&broker), Arc::clone(&news), broker.name(queue));
            async move {
                loop {
                    // Whatever ended it: the queue keeps what is not acknowledged.
                    let _ = take(&broker, &queue, &news).await;
                    sleep(Duration::from_millis(100)).await;
                }
            }
        });
        let queue = broker.name(queue);
        Ok(Self { news, listening: listening.abort_handle(), broker, queue })
    }

    /// What was heard so far.
    #[must_use]
    pub fn news(&self) -> News {
        self.read(News::clone)
    }

    /// A look at what was heard so far.
    pub fn read<T>(&self, look: impl FnOnce(&News) -> T) -> T {
        look(&self.news.borrow())
    }

    /// How many closings were heard of.
    #[must_use]
    pub fn closed(&self) -> usize {
        self.news.borrow().events.values().filter(|heard| heard.kind == "order.closed").count()
    }

    /// Waits until what was heard is enough.
    pub async fn wait_for(&self, patience: Duration, enough: impl FnMut(&News) -> bool) -> Result<()> {
        let mut news = self.news.subscribe();
        timeout(patience, news.wait_for(enough)).await.context("it was not heard")??;
        Ok(())
    }

    /// Waits until all is heard that was published before: a message behind it, in the same queue, has come.
    pub async fn catch_up(&self, patience: Duration) -> Result<()> {
        let marker = self.news.borrow().marker + 1;
        let properties = BasicProperties::default().with_message_id(format!("{MARKER}{marker}").into());
        self.broker.publish("", &self.queue, b"{}", properties).await?;
        self.wait_for(patience, |news| news.marker >= marker).await
    }

    /// Hands over what was heard of orders up to this one, and remembers it no longer.
    #[must_use]
    pub fn forget(&self, newest: i64) -> News {
        let mut old = News::default();
        self.news.send_modify(|news| {
            news.forgotten = newest;
            news.order.clear();
            old.events = news.events.extract_if(|_, heard| heard.order_id <= newest).collect();
            old.wrong = std::mem::take(&mut news.wrong);
        });
        old
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// The connection is of its own: one that is blocked for publishing, as by an alarm, must not keep it from hearing.
async fn take(broker: &Broker, queue: &str, news: &watch::Sender<News>) -> Result<()> {
    let connection = broker.connect().await?;
    let channel = connection.create_channel().await?;
    let options = BasicConsumeOptions::default();
    let mut consumer = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await?;
    while let Some(delivery) = consumer.next().await {
        let delivery = delivery?;
        let message_id = delivery.properties.message_id().as_ref().map(ToString::to_string);
        news.send_modify(|news| {
            if let Err(error) = news.note(&delivery.data, message_id.as_deref()) {
                news.wrong.push(format!("{error:#}: {}", String::from_utf8_lossy(&delivery.data)));
            }
        });
        delivery.acker.ack(BasicAckOptions::default()).await?;
    }
    anyhow::bail!("the broker ended the consumer")
}

impl News {
    /// Orders of which an event of this kind was heard.
    pub fn orders<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = i64> + 'a {
        self.events.values().filter(move |heard| heard.kind == kind).map(|heard| heard.order_id)
    }

    fn note(&mut self, body: &[u8], message_id: Option<&str>) -> Result<()> {
        if let Some(marker) = message_id.and_then(|id| id.strip_prefix(MARKER)) {
            self.marker = marker.parse()?;
            return Ok(());
        }
        let body: Value = serde_json::from_slice(body)?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let id = text(&body["id"]).context("no id")?;
        ensure!(message_id == Some(&id), "message_id is {message_id:?}, and the id {id}");
        let kind = text(&body["type"]).context("no type")?;
        let order_id = body["data"]["order_id"].as_i64().context("no order_id")?;
        if order_id <= self.forgotten {
            return Ok(());
        }
        self.order.push(id.clone());
        let now = Heard { kind, order_id, body, times: 0 };
        let heard = self.events.entry(id).or_insert_with(|| now.clone());
        heard.times += 1;
        ensure!(same(&heard.body, &now.body), "it came before with another body: {}", heard.body);
        Ok(())
    }
}

/// Whether two bodies of one event say the same. While pods are upgraded, two builds may publish it, and one may say more.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            one.iter().all(|(name, value)| other.get(name).is_none_or(|other| same(value, other)))
        }
        _ => one == other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_field_more_is_the_same_event_and_another_value_is_not() {
        let event = json!({"id": "e", "data": {"order_id": 7}});
        assert!(same(&event, &json!({"id": "e", "data": {"order_id": 7, "order_id_str": "7"}})));
        assert!(!same(&event, &json!({"id": "e", "data": {"order_id": 8}})));
    }
}

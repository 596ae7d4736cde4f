//! A subscriber of the events: another part of the shop that hears each event at least once, and connects again when it must.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions};
use lapin::types::FieldTable;
use serde_json::Value;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use super::announcer::connect;
use crate::pods::Place;

/// The queue that it consumes.
pub const QUEUE: &str = "trial.events";

/// An event as it was heard.
#[derive(Clone, Debug)]
pub struct Heard {
    /// `order.closed` or a sibling.
    pub kind: String,
    /// The order.
    pub order_id: i64,
    /// When, as the event says it; events without it have happened at another status than CLOSED.
    pub closed_at: Option<String>,
    /// How often it came.
    pub times: u32,
}

/// Event id → what was heard, and what was wrong with events.
#[derive(Clone, Debug, Default)]
pub struct News {
    /// By the event's id.
    pub events: HashMap<String, Heard>,
    /// Events that contradict themselves or each other.
    pub wrong: Vec<String>,
    /// Events of orders up to this one were handed over; they may come again, and are then not noted.
    forgotten: i64,
}

/// Listens until it is dropped.
#[derive(Debug)]
pub struct Subscriber {
    news: Arc<Mutex<News>>,
    listening: AbortHandle,
}

impl Subscriber {
    /// Listens to [`QUEUE`], which exists already.
    pub fn listen(place: Place) -> Self {
        let news = Arc::<Mutex<News>>::default();
        let listening = tokio::spawn({
            let news = Arc::clone(&news);
            async move {
                loop {
                    // Whatever ended it: the queue keeps what is not acknowledged.
                    let _ = take(&place, &news).await;
                    sleep(Duration::from_millis(100)).await;
                }
            }
        });
        Self { news, listening: listening.abort_handle() }
    }

    /// What was heard so far.
    pub fn news(&self) -> News {
        self.news.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many closings were heard of.
    pub fn closed(&self) -> usize {
        let news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        news.events.values().filter(|heard| heard.kind == "order.closed").count()
    }

    /// Hands over what was heard of orders up to this one, and remembers it no longer.
    pub fn forget(&self, newest: i64) -> News {
        let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        news.forgotten = newest;
        let events = news.events.extract_if(|_, heard| heard.order_id <= newest).collect();
        News { events, wrong: std::mem::take(&mut news.wrong), forgotten: newest }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn take(place: &Place, news: &Mutex<News>) -> Result<()> {
    let connection = connect(place).await?;
    let channel = connection.create_channel().await?;
    let (queue, options) = (place.name(QUEUE), BasicConsumeOptions::default());
    let mut consumer = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await?;
    while let Some(delivery) = consumer.next().await {
        let delivery = delivery?;
        let message_id = delivery.properties.message_id().as_ref().map(ToString::to_string);
        {
            let mut news = news.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = note(&mut news, &delivery.data, message_id) {
                news.wrong.push(format!("{error:#}: {}", String::from_utf8_lossy(&delivery.data)));
            }
        }
        delivery.acker.ack(BasicAckOptions::default()).await?;
    }
    anyhow::bail!("the consumer was ended")
}

fn note(news: &mut News, body: &[u8], message_id: Option<String>) -> Result<()> {
    let event: Value = serde_json::from_slice(body)?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let id = text(&event["id"]).context("no id")?;
    anyhow::ensure!(message_id.as_deref() == Some(&id), "message_id is {message_id:?}, and the id {id}");
    let heard = Heard {
        kind: text(&event["type"]).context("no type")?,
        order_id: event["data"]["order_id"].as_i64().context("no order_id")?,
        closed_at: text(&event["data"]["closed_at"]),
        times: 1,
    };
    if heard.order_id <= news.forgotten {
        return Ok(());
    }
    match news.events.get_mut(&id) {
        Some(before) => {
            anyhow::ensure!(
                before.order_id == heard.order_id && before.kind == heard.kind,
                "the id was another's"
            );
            before.times += 1;
        }
        None => drop(news.events.insert(id, heard)),
    }
    Ok(())
}

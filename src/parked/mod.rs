//! The parked queue for a person: look, retry, discard.

mod cursor;
mod text;

use lapin::BasicProperties;
use lapin::message::Delivery;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::broker::{Broker, BrokerError};
use crate::wire::envelope::envelope;
use crate::wire::headers::{EXPIRATION, PARKED_AT, REASON, RETRY_KEY};
use crate::wire::keys::{KEY_DELAY, KEY_PROCESS};
use crate::wire::message::{self, Reading};
use crate::wire::outgoing::Outgoing;
use crate::wire::parked::{foreign_headers, keepable};
use cursor::Cursor;

/// A parked message as a person sees it.
#[derive(Clone, Debug, Serialize)]
pub struct Parked {
    /// Derived from the message's content, so it is the same at each look.
    pub id: String,
    pub reason: String,
    /// RFC 3339; empty when the broker parked it.
    pub parked_at: String,
    /// The routing key under which a retry publishes it.
    pub retry_key: String,
    /// The orders that its body names, if it can be read.
    pub order_ids: Vec<i64>,
    /// Size of the body in bytes.
    pub bytes: usize,
    /// The body as text; what is not UTF-8 is shown as �.
    pub body: String,
    /// Properties and headers, as text.
    pub properties: Vec<(String, String)>,
}

/// Which parked messages to act on.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Only these messages; any, when empty.
    pub ids: Vec<String>,
    /// Only messages that name this order.
    pub order_id: Option<i64>,
    /// Only messages whose reason contains this.
    pub reason: Option<String>,
}

/// What to do with the selected messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Leave it where it is.
    Look,
    /// Publish it again, and take it out of the parked queue once the broker has confirmed that.
    Retry,
    /// Take it out of the parked queue for good.
    Discard,
}

impl Selection {
    /// Whether a message is selected.
    #[must_use]
    pub fn includes(&self, parked: &Parked) -> bool {
        (self.ids.is_empty() || self.ids.contains(&parked.id))
            && self.order_id.is_none_or(|id| parked.order_ids.contains(&id))
            && self.reason.as_ref().is_none_or(|reason| parked.reason.contains(reason.as_str()))
    }
}

/// Goes through the messages that are parked now, and applies `action` to the selected ones, at most `most` of them.
///
/// Returns the selected messages. If a retry is interrupted, every message is still parked or has been published again; at
/// most a few hundred are both, which is harmless.
///
/// # Errors
/// When the broker cannot be reached, refuses an operation, or does not answer in time.
pub async fn go_through(
    broker: &Broker,
    selection: &Selection,
    action: Action,
    most: usize,
    mut progress: impl FnMut(u64, u64),
) -> Result<Vec<Parked>, BrokerError> {
    let mut cursor = Cursor::open(broker, action).await?;
    let there = cursor.there;
    let mut meant = Vec::new();
    for n in 0..there {
        let Some(Delivery { data, properties, delivery_tag, .. }) = cursor.next().await? else {
            break;
        };
        let mut parked = describe(&data, &properties);
        if selection.includes(&parked) {
            match action {
                Action::Look => {}
                Action::Discard => cursor.take_out(delivery_tag).await?,
                Action::Retry => cursor.retry(as_it_was(data, &properties), delivery_tag).await?,
            }
            if action != Action::Look {
                // There may be very many of them, and the caller of a retry or discard does not read these.
                (parked.body, parked.properties) = Default::default();
            }
            meant.push(parked);
        }
        progress(n + 1, there);
        if meant.len() == most {
            break;
        }
    }
    cursor.close().await?;
    Ok(meant)
}

/// A message of the parked queue as a person sees it.
#[must_use]
pub fn describe(data: &[u8], properties: &BasicProperties) -> Parked {
    let header = |name: &str| text_header(properties, name);
    let reason = header(REASON).unwrap_or_else(|| text::of_broker(properties));
    let parked_at = header(PARKED_AT).unwrap_or_default();
    let digest = Sha256::new().chain_update(data).chain_update(&reason).chain_update(&parked_at).finalize();
    let id = digest.iter().take(6).fold(String::new(), |id, byte| format!("{id}{byte:02x}"));
    let now = time::OffsetDateTime::now_utc().into();
    let reading =
        Reading { now, max_window: std::time::Duration::MAX, delay_is_over: true, from_service: false };
    let wakes = message::read(data, envelope(properties), reading).unwrap_or_default();
    Parked {
        id,
        reason,
        parked_at,
        retry_key: retry_key(properties).to_owned(),
        order_ids: wakes.iter().map(|wake| wake.order_id).collect(),
        bytes: data.len(),
        body: String::from_utf8_lossy(data).into_owned(),
        properties: shown(properties),
    }
}

fn shown(properties: &BasicProperties) -> Vec<(String, String)> {
    let texts = [
        ("content_type", properties.content_type()),
        ("content_encoding", properties.content_encoding()),
        ("type", properties.kind()),
        ("message_id", properties.message_id()),
        ("correlation_id", properties.correlation_id()),
        ("reply_to", properties.reply_to()),
        ("app_id", properties.app_id()),
    ];
    let set =
        texts.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.as_ref()?.to_string())));
    let headers = properties.headers().iter().flat_map(|table| table.inner());
    set.chain(headers.map(|(name, value)| (format!("header {name}"), text::value(value)))).collect()
}

fn text_header(properties: &BasicProperties, name: &str) -> Option<String> {
    properties.headers().as_ref()?.inner().get(name).map(text::value)
}

/// The key under which a retry publishes the message. Only the keys of our two ways in are allowed: any other key that the
/// header has would lead nowhere, or publish an event that never happened.
fn retry_key(properties: &BasicProperties) -> &'static str {
    match text_header(properties, RETRY_KEY) {
        Some(key) if key == KEY_DELAY => KEY_DELAY,
        _ => KEY_PROCESS,
    }
}

/// The message of the parked queue as it was before it was parked.
#[must_use]
pub fn as_it_was(body: Vec<u8>, parked: &BasicProperties) -> Outgoing {
    let key = retry_key(parked);
    let mut properties = keepable(parked).with_headers(foreign_headers(parked));
    if let Some(expiration) = text_header(parked, EXPIRATION)
        // Only a number may be restored: the broker closes the channel over anything else.
        && key == KEY_DELAY
        && expiration.parse::<u32>().is_ok()
    {
        properties = properties.with_expiration(expiration.into());
    }
    Outgoing { key: key.to_owned(), body, properties, mandatory: true }
}

//! Parks a message: keeps its body and properties, adds the reason, and leaves it to a person.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};

use super::headers::{EXPIRATION, PARKED_AT, REASON, RETRY_KEY, UNREADABLE, USER_ID};
use super::keys::KEY_PARKED;
use super::outgoing::Outgoing;
use crate::clock::DbTime;

/// Headers must fit into one frame (80 KiB, see `broker`); a sender's own headers beyond this size are left out.
pub const MOST_HEADER_BYTES: usize = 64 * 1024;

/// Most characters of a reason: a person reads it, and a database error may carry a whole row.
const MOST_REASON: usize = 1_000;

/// The message for the parked queue.
#[must_use]
pub fn parked(
    body: Vec<u8>,
    original: &BasicProperties,
    reason: &str,
    retry_key: &str,
    now: DbTime,
) -> Outgoing {
    let mut headers = foreign_headers(original);
    let mut header = |name: &str, value: &str| {
        headers.insert(name.into(), AMQPValue::LongString(LongString::from(value)));
    };
    header(REASON, &reason.chars().take(MOST_REASON).collect::<String>());
    header(PARKED_AT, &now.to_string());
    header(RETRY_KEY, retry_key);
    if let Some(expiration) = original.expiration() {
        header(EXPIRATION, expiration.as_str());
    }
    if let Some(user) = original.user_id() {
        header(USER_ID, user.as_str());
    }
    let properties = keepable(original).with_headers(headers);
    Outgoing { key: KEY_PARKED.to_owned(), body, properties, mandatory: true }
}

/// The headers without those that parking adds and those by which a broker routes or counts. The raw bytes of unreadable
/// properties stay, because they exist nowhere else.
///
/// x-death, published again, makes a 3.10 broker see a cycle and drop the message; CC and BCC would send copies.
#[must_use]
pub fn foreign_headers(original: &BasicProperties) -> FieldTable {
    let brokers = |name: &str| {
        let known = ["CC", "BCC", "x-death", "x-delivery-count", "x-acquired-count"];
        known.contains(&name)
            || name.starts_with("x-first-death-")
            || name.starts_with("x-last-death-")
            || [REASON, PARKED_AT, RETRY_KEY, EXPIRATION, USER_ID, UNREADABLE].contains(&name)
    };
    let Some(headers) = original.headers() else {
        return FieldTable::default();
    };
    if table_size(headers) > MOST_HEADER_BYTES {
        return FieldTable::default();
    }
    let kept = headers.inner().iter().filter(|(name, _)| !brokers(name.as_str()));
    kept.map(|(name, value)| (name.clone(), value.clone()))
        .collect::<std::collections::BTreeMap<_, _>>()
        .into()
}

/// The bytes that headers take in a frame.
fn table_size(table: &FieldTable) -> usize {
    let sizes = table.inner().iter().map(|(name, value)| 1 + name.as_str().len() + value_size(value));
    4 + sizes.sum::<usize>()
}

fn value_size(value: &AMQPValue) -> usize {
    1 + match value {
        AMQPValue::Void => 0,
        AMQPValue::LongString(text) => 4 + text.as_bytes().len(),
        AMQPValue::ByteArray(bytes) => 4 + bytes.as_slice().len(),
        AMQPValue::ShortString(text) => 1 + text.as_str().len(),
        AMQPValue::FieldArray(list) => 4 + list.as_slice().iter().map(value_size).sum::<usize>(),
        AMQPValue::FieldTable(table) => table_size(table),
        // Numbers and times take at most eight bytes.
        _ => 8,
    }
}

/// The original's properties except headers, expiration, user id and delivery mode.
#[must_use]
pub fn keepable(original: &BasicProperties) -> BasicProperties {
    type Set = fn(BasicProperties, ShortString) -> BasicProperties;
    let texts: [(&Option<ShortString>, Set); 8] = [
        (original.content_type(), BasicProperties::with_content_type),
        (original.content_encoding(), BasicProperties::with_content_encoding),
        (original.correlation_id(), BasicProperties::with_correlation_id),
        (original.reply_to(), BasicProperties::with_reply_to),
        (original.message_id(), BasicProperties::with_message_id),
        (original.kind(), BasicProperties::with_type),
        (original.app_id(), BasicProperties::with_app_id),
        (original.cluster_id(), BasicProperties::with_cluster_id),
    ];
    let mut kept = BasicProperties::default();
    for (value, set) in texts {
        if let Some(value) = value {
            kept = set(kept, value.clone());
        }
    }
    if let Some(timestamp) = original.timestamp() {
        kept = kept.with_timestamp(*timestamp);
    }
    if let Some(priority) = original.priority() {
        kept = kept.with_priority(*priority);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_make_a_parked_message_expire_bounce_or_cycle_becomes_a_header_or_goes() {
        let mut headers = FieldTable::default();
        headers.insert("tenant".into(), AMQPValue::LongString("berlin".into()));
        headers.insert("x-death".into(), AMQPValue::LongString("…".into()));
        headers.insert("BCC".into(), AMQPValue::LongString("elsewhere".into()));
        let original = BasicProperties::default()
            .with_expiration("5000".into())
            .with_user_id("shop".into())
            .with_message_id("m1".into())
            .with_headers(headers);
        let parked = parked(b"{}".to_vec(), &original, "broken", "order.delay", DbTime(0));
        assert_eq!(parked.key, "order.parked");
        assert!(parked.properties.expiration().is_none() && parked.properties.user_id().is_none());
        assert_eq!(parked.properties.message_id().as_ref().map(ShortString::as_str), Some("m1"));
        let headers = parked.properties.headers().clone().unwrap_or_default();
        let names: Vec<_> = headers.inner().keys().map(ShortString::as_str).collect();
        assert_eq!(
            names,
            [
                "overdue-expiration",
                "overdue-parked-at",
                "overdue-reason",
                "overdue-retry-key",
                "overdue-user-id",
                "tenant"
            ]
        );
    }

    #[test]
    fn headers_too_large_for_a_frame_do_not_keep_a_message_from_being_parked() {
        let mut headers = FieldTable::default();
        headers.insert("huge".into(), AMQPValue::LongString("x".repeat(MOST_HEADER_BYTES).into()));
        let parked =
            parked(Vec::new(), &BasicProperties::default().with_headers(headers), "r", "k", DbTime(0));
        assert!(!parked.properties.headers().clone().unwrap_or_default().contains_key("huge"));
    }
}

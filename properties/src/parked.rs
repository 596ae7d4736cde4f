//! Parking a message and sending it again: nothing of it is lost but what would move it elsewhere.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString as Text};
use overdue::parked::{as_it_was, describe};
use overdue::wire::headers;
use overdue::wire::keys::{KEY_DELAY, KEY_PROCESS};
use overdue::wire::parked::parked;

use super::frames;
use super::message::NOW;

/// Well below the 128 KiB that a frame may have.
const MOST_HEADERS: usize = 80 * 1024;

/// `input`: how many bytes of flags and properties follow (two bytes), these, and the body. The first bit says through
/// which queue the message came.
pub fn holds(input: &[u8]) {
    let Some(([high, low], rest)) = input.split_first_chunk() else { return };
    let key = if high & 0x80 == 0 { KEY_DELAY } else { KEY_PROCESS };
    let length = usize::from(u16::from_be_bytes([high & 0x7F, *low]));
    let (properties, body) = rest.split_at(length.min(rest.len()));
    let original = frames::properties(properties);
    // A reason may quote what the sender wrote.
    let reason = String::from_utf8_lossy(body);

    // Whatever somebody wrote into the parked queue can be looked at, and a retry leads to one of our own doors.
    let forged = as_it_was(body.to_vec(), &original);
    assert!([KEY_DELAY, KEY_PROCESS].contains(&forged.key.as_str()) && forged.mandatory);
    let _ = describe(body, &original);

    let away = parked(body.to_vec(), &original, &reason, key, NOW);
    assert_eq!((away.body.as_slice(), away.mandatory), (body, true));
    assert!(away.properties.expiration().is_none() && away.properties.user_id().is_none());
    let _ = wire(&away.properties);
    let seen = describe(body, &away.properties);
    assert_eq!(seen.retry_key, key);
    assert_eq!(seen.reason, reason.chars().take(1_000).collect::<String>());

    let again = as_it_was(away.body, &away.properties);
    assert_eq!((again.key.as_str(), again.body.as_slice()), (key, body));
    let expected = expected(&original, key);
    assert_eq!(
        wire(&again.properties),
        wire(&expected),
        "properties are kept: {:?} {expected:?}",
        again.properties
    );
    // Parking it once more adds nothing and takes nothing away.
    let once_more =
        as_it_was(body.to_vec(), &parked(body.to_vec(), &again.properties, "again", key, NOW).properties);
    assert_eq!(wire(&once_more.properties), wire(&again.properties));
}

/// As they go over the wire; there NaN is what it is.
fn wire(properties: &BasicProperties) -> Vec<u8> {
    let mut bytes = vec![0; MOST_HEADERS];
    let cursor = std::io::Cursor::new(bytes.as_mut_slice());
    let written =
        lapin::protocol::basic::gen_properties(properties)(cursor.into()).expect("they fit a frame");
    let length = usize::try_from(written.position).expect("a length");
    bytes.truncate(length);
    bytes
}

/// What comes back: everything but what routes, expires or counts.
fn expected(original: &BasicProperties, key: &str) -> BasicProperties {
    let gone = |name: &str| {
        ["CC", "BCC", "x-death", "x-delivery-count", "x-acquired-count", "overdue-unreadable"].contains(&name)
            || [
                headers::REASON,
                headers::PARKED_AT,
                headers::RETRY_KEY,
                headers::EXPIRATION,
                headers::USER_ID,
            ]
            .contains(&name)
            || name.starts_with("x-first-death-")
            || name.starts_with("x-last-death-")
    };
    let headers = original.headers().iter().flat_map(|headers| headers.inner());
    let kept: std::collections::BTreeMap<_, AMQPValue> = headers
        .filter(|(name, _)| !gone(name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let mut expected = BasicProperties::default().with_headers(FieldTable::from(kept));
    let mut text = |value: &Option<Text>, set: fn(BasicProperties, Text) -> BasicProperties| {
        if let Some(value) = value {
            expected = set(std::mem::take(&mut expected), value.clone());
        }
    };
    text(original.content_type(), BasicProperties::with_content_type);
    text(original.content_encoding(), BasicProperties::with_content_encoding);
    text(original.correlation_id(), BasicProperties::with_correlation_id);
    text(original.reply_to(), BasicProperties::with_reply_to);
    text(original.message_id(), BasicProperties::with_message_id);
    text(original.kind(), BasicProperties::with_type);
    text(original.app_id(), BasicProperties::with_app_id);
    text(original.cluster_id(), BasicProperties::with_cluster_id);
    if key == KEY_DELAY && original.expiration().as_ref().is_some_and(|e| e.as_str().parse::<u32>().is_ok()) {
        text(original.expiration(), BasicProperties::with_expiration);
    }
    if let Some(timestamp) = original.timestamp() {
        expected = expected.with_timestamp(*timestamp);
    }
    if let Some(priority) = original.priority() {
        expected = expected.with_priority(*priority);
    }
    expected
}

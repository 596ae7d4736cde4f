//! Java's own serialization, which Spring AMQP uses without a message converter: `Long`, `Integer` and `String`.
//!
//! The bytes before the value are the same in every message, so they are compared: nothing is deserialized.

use serde_json::Value;

use super::json;
use crate::wire::malformed::{Malformed, shorten};

/// Begins everything that `ObjectOutputStream` writes; no JSON begins so.
const MAGIC: &[u8] = b"\xac\xed\x00\x05";
const LONG: &[u8] =
    b"\xac\xed\x00\x05sr\x00\x0ejava.lang.Long\x3b\x8b\xe4\x90\xcc\x8f\x23\xdf\x02\x00\x01J\x00\x05value\
    xr\x00\x10java.lang.Number\x86\xac\x95\x1d\x0b\x94\xe0\x8b\x02\x00\x00xp";
const INTEGER: &[u8] =
    b"\xac\xed\x00\x05sr\x00\x11java.lang.Integer\x12\xe2\xa0\xa4\xf7\x81\x87\x38\x02\x00\x01I\x00\x05value\
    xr\x00\x10java.lang.Number\x86\xac\x95\x1d\x0b\x94\xe0\x8b\x02\x00\x00xp";
const STRING: &[u8] = b"\xac\xed\x00\x05t";

/// Whether these are bytes of Java's serialization.
#[must_use]
pub fn is_java(body: &[u8]) -> bool {
    body.starts_with(MAGIC)
}

/// The number, or the JSON that the string holds.
///
/// # Errors
/// For every other object, with its class, and for a string that is not JSON.
pub fn value(body: &[u8]) -> Result<Value, Malformed> {
    if let Some(long) = body.strip_prefix(LONG).and_then(|value| value.try_into().ok()) {
        return Ok(i64::from_be_bytes(long).into());
    }
    if let Some(integer) = body.strip_prefix(INTEGER).and_then(|value| value.try_into().ok()) {
        return Ok(i32::from_be_bytes(integer).into());
    }
    if let Some((length, text)) = body.strip_prefix(STRING).and_then(|string| string.split_first_chunk())
        && usize::from(u16::from_be_bytes(*length)) == text.len()
    {
        return json::value(&standard(text));
    }
    Err(Malformed::Java(class(body).map_or_else(|| "unknown".to_owned(), shorten)))
}

/// Java writes U+0000 as two bytes, and a character beyond U+FFFF as two halves of three bytes each.
fn standard(mut text: &[u8]) -> Vec<u8> {
    let mut standard = Vec::with_capacity(text.len());
    while let [first, rest @ ..] = text {
        text = match text {
            [0xc0, 0x80, rest @ ..] => {
                standard.push(0);
                rest
            }
            [0xed, high @ 0xa0..=0xaf, high_end, 0xed, low @ 0xb0..=0xbf, low_end, rest @ ..] => {
                let half = |begin: u8, end: u8| u32::from(begin & 0x0f) << 6 | u32::from(end & 0x3f);
                let code = 0x10000 + (half(*high, *high_end) << 10) + (half(*low, *low_end) & 0x3ff);
                standard.extend(char::from_u32(code).unwrap_or('\u{fffd}').to_string().as_bytes());
                rest
            }
            _ => {
                standard.push(*first);
                rest
            }
        };
    }
    standard
}

/// The class of an object, an array or an enum.
fn class(body: &[u8]) -> Option<&str> {
    let description = body.strip_prefix(MAGIC)?.strip_prefix(b"s").or_else(|| body[4..].strip_prefix(b"u"));
    let described = description.or_else(|| body[4..].strip_prefix(b"~"))?.strip_prefix(b"r")?;
    let (length, name) = described.split_first_chunk()?;
    let name = std::str::from_utf8(name.get(..usize::from(u16::from_be_bytes(*length)))?).ok()?;
    Some(name).filter(|name| name.chars().all(|c| c.is_ascii_graphic()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn string(text: &str) -> Vec<u8> {
        let length = u16::try_from(text.len()).expect("short").to_be_bytes();
        [STRING, &length, text.as_bytes()].concat()
    }

    #[test]
    fn other_objects_are_refused_by_their_class() {
        let map = b"\xac\xed\x00\x05sr\x00\x11java.util.HashMap\x05\x07\xda\xc1\xc3\x16\x60\xd1";
        assert_eq!(value(map), Err(Malformed::Java("java.util.HashMap".to_owned())));
        for cut in [&LONG[..20], LONG, &[LONG, b"1234567"].concat(), &[LONG, b"123456789"].concat(), MAGIC] {
            assert!(matches!(value(cut), Err(Malformed::Java(_))), "{} bytes", cut.len());
        }
        assert!(matches!(value(&string("soon")), Err(Malformed::NotJson(_))));
        assert_eq!(value(&string(r#"{"order_id":7}"#)), Ok(json!({"order_id": 7})));
        // `ObjectOutputStream` writes an emoji as two halves of three bytes each.
        let halves = [STRING, b"\0\x08\"\xed\xa0\xbd\xed\xb8\x80\""].concat();
        assert_eq!(value(&halves), Ok(json!("\u{1f600}")));
    }

    proptest! {
        #[test]
        fn numbers_and_strings_are_read_and_no_bytes_make_it_panic(
            long in any::<i64>(), integer in any::<i32>(), rest in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            prop_assert_eq!(value(&[LONG, &long.to_be_bytes()].concat()), Ok(json!(long)));
            prop_assert_eq!(value(&[INTEGER, &integer.to_be_bytes()].concat()), Ok(json!(integer)));
            prop_assert_eq!(value(&string(&long.to_string())), Ok(json!(long)));
            let _ = value(&[MAGIC, &rest].concat());
            let _ = value(&[MAGIC, b"sr", &rest].concat());
        }
    }
}

//! JSON as it arrives: with a byte-order mark, and with a reason that names the byte that is none of it.

use serde_json::Value;

use super::frameworks;
use crate::wire::malformed::{Malformed, shorten};

/// # Errors
/// When the body is not JSON: says what it is instead, or names the byte at which it cannot be read.
pub fn value(body: &[u8]) -> Result<Value, Malformed> {
    let text = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    serde_json::from_slice(text).map_err(|error| not_json(text, &error))
}

fn not_json(text: &[u8], error: &serde_json::Error) -> Malformed {
    if text.is_empty() {
        return Malformed::NotJson("it is empty".to_owned());
    }
    if let Some(charset) = charset(text) {
        return Malformed::Charset(charset.to_owned());
    }
    if let Some(compression) = compression(text) {
        return Malformed::Compressed(compression);
    }
    if let Some(foreign) = frameworks::of_bytes(text) {
        return foreign;
    }
    let start =
        text.split_inclusive(|byte| *byte == b'\n').take(error.line().saturating_sub(1)).map(<[u8]>::len);
    let at = start.sum::<usize>() + error.column().saturating_sub(1);
    // The library's text of a type error quotes the value, however long it is.
    let said = shorten(&error.to_string());
    match text.get(at).filter(|byte| !error.is_eof() && !(b' '..=b'~').contains(*byte)) {
        Some(byte) => Malformed::NotJson(format!("{said}: the byte 0x{byte:02x}")),
        None => Malformed::NotJson(said),
    }
}

/// A charset with several bytes for each letter, by its byte-order mark or its zero bytes.
fn charset(text: &[u8]) -> Option<&'static str> {
    match text {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => Some("UTF-32"),
        // A binary number or length has zero bytes, too.
        [0, 0, 0, letter, ..]
            if begins_json(*letter) && in_fours(text, |four| matches!(four, [0, 0, 0, _])) =>
        {
            Some("UTF-32")
        }
        [letter, 0, 0, 0, ..]
            if begins_json(*letter) && in_fours(text, |four| matches!(four, [_, 0, 0, 0])) =>
        {
            Some("UTF-32")
        }
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, 1..=255, 0, 1..=255, ..] | [1..=255, 0, 1..=255, 0, ..] => {
            Some("UTF-16")
        }
        _ => None,
    }
}

fn begins_json(letter: u8) -> bool {
    matches!(letter, b' ' | b'\t' | b'\r' | b'\n' | b'{' | b'[' | b'"' | b'-' | b'0'..=b'9')
}

/// Whether the bytes are letters of four bytes each, of which the first two have this form.
fn in_fours(text: &[u8], form: impl Fn(&[u8; 4]) -> bool) -> bool {
    let (fours, rest) = text.as_chunks::<4>();
    rest.is_empty() && fours.iter().take(2).all(form)
}

/// A compression, by the first bytes of its format.
fn compression(text: &[u8]) -> Option<&'static str> {
    match text {
        [0x1f, 0x8b, ..] => Some("gzip"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("zstd"),
        [b'B', b'Z', b'h', ..] => Some("bz2"),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => Some("xz"),
        [0x78, 0x01 | 0x5e | 0x9c | 0xda, ..] => Some("zlib"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_byte_order_mark_is_skipped_and_what_is_not_json_is_named() {
        assert_eq!(value(b"\xef\xbb\xbf{\"order_id\":7}"), Ok(json!({"order_id": 7})));
        for (body, expected) in [
            (&b""[..], "it is empty"),
            (b"7\0", "0x00"),
            (b"{\"order_id\":7}\0", "0x00"),
            (b"{\n\"order_id\":\x01", "0x01"),
            (b"\xff\xfe7\0", "UTF-16"),
            (b"\x007\x008", "UTF-16"),
            (b"7\08\0", "UTF-16"),
            (b"{\0\0\0}\0\0\0", "UTF-32"),
            (b"\0\0\x007", "UTF-32"),
            (b"\x07\0\0\0\0\0\0\0", "0x07"),
            (b"\0\0\0\x0e{\"order_id\":7}", "0x00"),
            (b"\x20\0\0\0\x10order_id\0\x07\0\0\0", "0x00"),
            (b"\x1f\x8b\x08\0", "compressed (gzip)"),
            (b"\x80\x04\x4b\x07\x2e", "a Python pickle"),
            (b"O:8:\"stdClass\":1:{s:8:\"order_id\";i:7;}", "PHP"),
            (b"<order/>", "XML"),
        ] {
            let reason = value(body).expect_err("refused").to_string();
            assert!(reason.contains(expected), "{body:?} said: {reason}");
        }
    }

    proptest! {
        #[test]
        fn every_byte_that_is_no_json_is_refused_with_a_reason(
            before in "[ \n]{0,4}", bytes in prop::collection::vec(any::<u8>(), 0..12),
        ) {
            let body = [before.as_bytes(), &bytes].concat();
            if let Err(malformed) = value(&body) {
                let reason = malformed.to_string();
                prop_assert!(!reason.is_empty() && reason.len() < 300, "{}", reason);
            }
        }
    }
}

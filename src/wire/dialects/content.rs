//! Content types, and content encodings, which many clients use for the charset (rabbot, pika, winston, Spring AMQP, kombu).

use crate::wire::envelope::Envelope;
use crate::wire::malformed::{Malformed, shorten};

/// The content type of Java's own serialization.
pub const JAVA: &str = "application/x-java-serialized-object";

/// Charsets that write the contract's JSON as UTF-8 does, and names that say that nothing was done to the body.
const PLAIN: [&str; 12] = [
    "",
    "identity",
    "none",
    "utf-8",
    "utf8",
    "us-ascii",
    "ascii",
    "iso-8859-1",
    "latin1",
    "7bit",
    "8bit",
    "binary",
];

/// Compressions, as `content_encoding` or kombu's header `compression` names them, without `application/` and `x-`.
const COMPRESSIONS: [&str; 13] = [
    "gzip", "gz", "deflate", "zlib", "br", "brotli", "zstd", "compress", "lz4", "snappy", "bz2", "lzma", "xz",
];

/// # Errors
/// A declared compression, charset or type in which the body cannot be JSON, or one that is not known.
pub fn check(envelope: Envelope<'_>) -> Result<(), Malformed> {
    // Spring's compressors write `gzip:UTF-8`.
    let declared = envelope.content_encoding.unwrap_or_default();
    let encodings = || declared.split([':', ',', ';']).map(|encoding| encoding.trim().to_ascii_lowercase());
    let compressions = encodings().chain(envelope.compression.map(str::to_ascii_lowercase));
    for named in compressions {
        if let Some(compression) = compression(&named) {
            return Err(Malformed::Compressed(compression));
        }
    }
    if encodings().any(|encoding| encoding.starts_with("utf-16") || encoding.starts_with("utf-32")) {
        return Err(Malformed::Charset(shorten(declared)));
    }
    if !encodings().all(|encoding| PLAIN.contains(&encoding.as_str())) {
        return Err(Malformed::ContentEncoding(shorten(declared)));
    }
    content_type(envelope.content_type.unwrap_or_default())
}

fn compression(named: &str) -> Option<&'static str> {
    let name = named.strip_prefix("application/").unwrap_or(named);
    let name = name.strip_prefix("x-").unwrap_or(name);
    COMPRESSIONS.into_iter().find(|known| *known == name)
}

fn content_type(content_type: &str) -> Result<(), Malformed> {
    // Without its parameters.
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let known = ["", "json", "text/plain", "application/octet-stream", JAVA].contains(&essence.as_str())
        || essence.ends_with("/json")
        || essence.ends_with("+json");
    if known {
        return Ok(());
    }
    if essence == "application/x-python-serialize" {
        let send = "publish with serializer=\"json\"";
        return Err(Malformed::Foreign { what: "a Python pickle (kombu, Celery)", send });
    }
    Err(Malformed::ContentType(shorten(content_type)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoding(declared: &str) -> Result<(), Malformed> {
        check(Envelope { content_encoding: Some(declared), ..Envelope::default() })
    }

    #[test]
    fn a_charset_is_no_compression_and_a_compression_is_named() {
        for charset in ["utf8", "UTF-8", "us-ascii", "8bit", "binary", "identity"] {
            assert_eq!(encoding(charset), Ok(()), "{charset}");
        }
        for (declared, name) in [("gzip", "gzip"), ("x-gzip", "gzip"), ("gzip:UTF-8", "gzip"), ("BR", "br")] {
            assert_eq!(encoding(declared), Err(Malformed::Compressed(name)), "{declared}");
        }
        let kombu = Envelope {
            content_encoding: Some("utf-8"),
            compression: Some("application/x-bz2"),
            ..Envelope::default()
        };
        assert_eq!(check(kombu), Err(Malformed::Compressed("bz2")));
        assert_eq!(encoding("utf-16le"), Err(Malformed::Charset("utf-16le".to_owned())));
        assert_eq!(encoding("base64"), Err(Malformed::ContentEncoding("base64".to_owned())));
    }

    proptest! {
        #[test]
        fn what_is_not_known_is_refused_by_its_name(declared in "[a-z]{4,12}[0-9]") {
            prop_assume!(!PLAIN.contains(&declared.as_str()) && compression(&declared).is_none());
            let reason = encoding(&declared).expect_err("refused").to_string();
            prop_assert!(reason.contains(&declared), "{reason}");
        }
    }
}

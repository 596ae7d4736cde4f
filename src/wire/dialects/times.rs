//! Deadlines: RFC 3339, and the forms that languages print by default where the moment is certain.

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::clock::DbTime;
use crate::wire::malformed::{Malformed, wrong};

const FIELD: &str = "payment_deadline";
const RFC_3339: &str = "a time with its offset (RFC 3339), such as \"2026-01-01T12:00:00Z\"";
const NO_OFFSET: &str = "a time with its offset (RFC 3339): Java's OffsetDateTime or Instant instead of LocalDateTime, Python's \
                         datetime.now(timezone.utc), PHP's format(DATE_ATOM), .NET's DateTimeOffset, SQL's timestamptz";
const NUMBER: &str = "a time with its offset (RFC 3339), because a number may be seconds or milliseconds: Jackson without \
                      WRITE_DATES_AS_TIMESTAMPS, JavaScript's toISOString(), PHP's format(DATE_ATOM)";
const LIST: &str = "a time with its offset (RFC 3339): Jackson without WRITE_DATES_AS_TIMESTAMPS, and OffsetDateTime or Instant \
                    instead of LocalDateTime";

/// # Errors
/// When the value is not certainly one moment, with the setting of the library that probably wrote it.
pub fn deadline(value: &Value) -> Result<DbTime, Malformed> {
    let text = match value {
        Value::String(text) => text,
        Value::Number(_) => return Err(wrong(FIELD, NUMBER, value)),
        Value::Array(_) => return Err(wrong(FIELD, LIST, value)),
        _ => return Err(wrong(FIELD, RFC_3339, value)),
    };
    let expected = match parts(text) {
        Some(Parts { zone: Some(_), .. }) | None if text.parse::<f64>().is_err() => RFC_3339,
        None => NUMBER,
        Some(_) => NO_OFFSET,
    };
    let at = parts(text).and_then(|parts| OffsetDateTime::parse(&parts.rfc_3339()?, &Rfc3339).ok());
    let at = at.ok_or_else(|| wrong(FIELD, expected, value))?;
    if at.year() < 2000 {
        return Err(wrong(FIELD, "in the year 2000 or later", value));
    }
    Ok(DbTime::from(at))
}

/// A time's date, time of day and offset, as text.
struct Parts<'a> {
    date: &'a str,
    time_of_day: &'a str,
    zone: Option<&'a str>,
}

/// Takes a time apart: `T`, `t` or a space between date and time of day, and a space or nothing before the offset.
fn parts(text: &str) -> Option<Parts<'_>> {
    // Java's ZonedDateTime adds the zone's name to the offset.
    let text = text.split_once('[').filter(|(_, name)| name.ends_with(']')).map_or(text, |(time, _)| time);
    let (date, rest) = text.split_at_checked(10)?;
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != ':' && c != '.').unwrap_or(rest.len());
    let (time_of_day, zone) = rest.split_at(end);
    Some(Parts { date, time_of_day, zone: Some(zone.trim_start()).filter(|zone| !zone.is_empty()) })
}

impl Parts<'_> {
    /// The same in the one form that the parser knows; `None` where the offset is none.
    fn rfc_3339(&self) -> Option<String> {
        let Self { date, time_of_day, zone } = self;
        // Java's OffsetDateTime leaves out seconds that are zero.
        let seconds = if time_of_day.len() == 5 { ":00" } else { "" };
        let zone = match (*zone)? {
            "Z" | "z" | "UTC" | "GMT" => "Z".to_owned(),
            offset => {
                let (sign, digits) = offset.split_at_checked(1)?;
                match (digits.len(), digits.split_at_checked(2)?) {
                    (2, (hours, _)) => format!("{sign}{hours}:00"),
                    (4, (hours, minutes)) => format!("{sign}{hours}:{minutes}"),
                    _ => offset.to_owned(),
                }
            }
        };
        Some(format!("{date}T{time_of_day}{seconds}{zone}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const NOON: DbTime = DbTime(1_767_268_800_000_000); // 2026-01-01T12:00:00Z

    #[test]
    fn what_languages_print_is_read_where_the_moment_is_certain() {
        for (whose, text) in [
            ("JavaScript", "2026-01-01T12:00:00.000Z"),
            ("Python's str", "2026-01-01 12:00:00+00:00"),
            ("Python's strftime %z, PHP's DATE_ISO8601", "2026-01-01T12:00:00+0000"),
            ("PostgreSQL", "2026-01-01 12:00:00+00"),
            ("PostgreSQL, India", "2026-01-01 17:30:00+0530"),
            ("Ruby's Time", "2026-01-01 13:00:00 +0100"),
            ("Ruby's Time in UTC", "2026-01-01 12:00:00 UTC"),
            ("Java's OffsetDateTime", "2026-01-01T12:00Z"),
            ("Java's ZonedDateTime", "2026-01-01T13:00+01:00[Europe/Berlin]"),
            (".NET's round trip", "2026-01-01T12:00:00.0000000+00:00"),
            ("Go's RFC3339Nano", "2026-01-01T04:00:00.000000000-08:00"),
        ] {
            assert_eq!(deadline(&json!(text)), Ok(NOON), "{whose}: {text}");
        }
    }

    #[test]
    fn what_is_not_certain_is_refused_with_the_setting_that_makes_it_right() {
        for (value, expected) in [
            (json!("2026-01-01T12:00:00"), "LocalDateTime"),
            (json!("2026-01-01 12:00:00.5"), "LocalDateTime"),
            (json!(1_767_268_800), "WRITE_DATES_AS_TIMESTAMPS"),
            (json!(1_767_268_800.25), "WRITE_DATES_AS_TIMESTAMPS"),
            (json!("1767268800"), "seconds or milliseconds"),
            (json!([2026, 1, 1, 12, 0]), "Jackson"),
            (json!("2026-01-01"), "RFC 3339"),
            (json!("2026-01-01T12:00:00 CET"), "RFC 3339"),
            (json!("2026-01-01T12:00:00+1"), "RFC 3339"),
            (json!("/Date(1767268800000)/"), "RFC 3339"),
            (json!(null), "RFC 3339"),
            (json!("1970-01-01T00:00:00Z"), "the year 2000"),
        ] {
            let reason = deadline(&value).expect_err("refused").to_string();
            assert!(reason.contains(expected), "{value} said: {reason}");
        }
    }

    proptest! {
        #[test]
        fn any_moment_in_any_form_is_that_moment(seconds in 946_684_800_i64..32_503_680_000, hours in -12_i8..=14) {
            let offset = time::UtcOffset::from_hms(hours, 0, 0).expect("an offset");
            let at = OffsetDateTime::from_unix_timestamp(seconds).expect("a time").to_offset(offset);
            let rfc_3339 = at.format(&Rfc3339).expect("a text");
            let (local, zone) = rfc_3339.split_at(19);
            let zone = if zone == "Z" { "+00:00" } else { zone };
            let expected = Ok(DbTime(seconds * 1_000_000));
            for text in [
                format!("{local}{zone}"),
                format!("{}{}", local.replace('T', " "), &zone[..3]),
                format!("{} {}", local.replace('T', " "), zone.replace(':', "")),
                format!("{local}{zone}[Etc/Somewhere]"),
            ] {
                prop_assert_eq!(&deadline(&json!(&text)), &expected, "{}", text);
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in "[0-9T:Z .\\[\\]+-]{0,40}|.{0,20}") {
            let _ = deadline(&json!(text));
        }
    }
}

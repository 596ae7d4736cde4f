//! Delays: the property `expiration`, and the header `x-delay` of the delayed-message plugin.

use std::time::Duration;

use crate::wire::envelope::{Envelope, Header};
use crate::wire::malformed::{Malformed, shorten};

const MILLISECONDS: &str = "a whole number of milliseconds";

/// The property `expiration`.
///
/// # Errors
/// When it is not a whole number.
pub fn expiration(envelope: Envelope<'_>) -> Result<Option<Duration>, Malformed> {
    envelope.expiration.map(|millis| whole("expiration", millis)).transpose()
}

/// The header `x-delay`. A negative one has been waited for: the plugin turns the sign round when it delivers a message.
///
/// # Errors
/// When it is neither a number nor a whole one written as text.
pub fn x_delay(envelope: Envelope<'_>) -> Result<Option<Duration>, Malformed> {
    const FIELD: &str = "x-delay";
    let Some(delay) = envelope.x_delay else { return Ok(None) };
    let millis = match delay {
        Header::Number(millis) => Duration::from_millis(u64::try_from(millis).unwrap_or(0)),
        Header::Text(text) => whole(FIELD, text)?,
        Header::Other => {
            let got = "neither a number nor text".to_owned();
            return Err(Malformed::Field { field: FIELD, expected: MILLISECONDS, got });
        }
    };
    Ok(Some(millis))
}

fn whole(field: &'static str, text: &str) -> Result<Duration, Malformed> {
    let wrong = |_| Malformed::Field { field, expected: MILLISECONDS, got: format!("`{}`", shorten(text)) };
    text.parse().map(Duration::from_millis).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use lapin::BasicProperties;
    use lapin::types::{AMQPValue, FieldTable};
    use proptest::prelude::*;

    use super::*;
    use crate::wire::envelope::envelope;

    fn delayed(value: AMQPValue) -> Result<Option<Duration>, Malformed> {
        let mut headers = FieldTable::default();
        headers.insert("x-delay".into(), value);
        x_delay(envelope(&BasicProperties::default().with_headers(headers)))
    }

    #[test]
    fn any_type_of_number_will_do_and_nothing_else() {
        let five = Ok(Some(Duration::from_millis(5_000)));
        assert_eq!(delayed(AMQPValue::LongInt(5_000)), five);
        assert_eq!(delayed(AMQPValue::ShortInt(5_000)), five);
        assert_eq!(delayed(AMQPValue::LongString("5000".into())), five);
        assert_eq!(delayed(AMQPValue::LongLongInt(-5_000)), Ok(Some(Duration::ZERO)), "waited for already");
        assert_eq!(delayed(AMQPValue::Double(5_000.0)), five);
        assert_eq!(delayed(AMQPValue::Float(5_000.5)), five, "as the plugin does");
        let infinite = AMQPValue::Double(f64::INFINITY);
        for wrong in [AMQPValue::Boolean(true), AMQPValue::LongString("soon".into()), infinite] {
            assert!(delayed(wrong).expect_err("refused").to_string().contains("`x-delay` is"));
        }
    }

    proptest! {
        #[test]
        fn a_number_means_the_same_as_its_digits(millis in any::<u32>()) {
            let number = delayed(AMQPValue::LongUInt(millis));
            prop_assert_eq!(&number, &delayed(AMQPValue::LongString(millis.to_string().into())));
            prop_assert_eq!(number, Ok(Some(Duration::from_millis(millis.into()))));
        }
    }
}

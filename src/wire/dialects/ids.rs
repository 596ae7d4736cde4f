//! Orders' numbers: whole numbers, their digits in a string (JavaScript cannot hold every number of 64 bits), and `7.0`.

use serde_json::{Number, Value};

use crate::wire::malformed::{Malformed, wrong};

/// 2⁵³: below it a floating-point number is exact.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// # Errors
/// When the value is not certainly the number of one order.
pub fn order_id(value: &Value) -> Result<i64, Malformed> {
    let id = match value {
        Value::Number(number) => number.as_i64().or_else(|| without_fraction(number)),
        Value::String(digits) => of_digits(digits),
        _ => None,
    };
    let expected = "a whole number from 1 to 9223372036854775807, or its digits as a string";
    id.filter(|id| *id > 0).ok_or_else(|| wrong("order_id", expected, value))
}

/// Some libraries know only floating-point numbers.
fn without_fraction(number: &Number) -> Option<i64> {
    let number = number.as_f64().filter(|number| number.fract() == 0.0 && number.abs() < EXACT)?;
    number.to_string().parse().ok()
}

/// `007` is somebody's number, but not certainly that of order 7.
fn of_digits(digits: &str) -> Option<i64> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
    digits.parse().ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_certain_number_is_one() {
        assert_eq!(order_id(&json!(7.0)), Ok(7));
        assert_eq!(order_id(&json!("7")), Ok(7));
        for wrong in [
            json!("007"),
            json!("+7"),
            json!("7.0"),
            json!(""),
            json!(1.5),
            json!(1e16),
            json!("0"),
            json!(null),
        ] {
            assert!(order_id(&wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_number_its_digits_and_its_floating_point_form_mean_the_same(id in 1_i64.., small in 1_u32..) {
            prop_assert_eq!(order_id(&json!(id)), Ok(id));
            prop_assert_eq!(order_id(&json!(id.to_string())), Ok(id));
            prop_assert_eq!(order_id(&json!(f64::from(small))), Ok(i64::from(small)));
        }

        #[test]
        fn a_fraction_of_zeros_changes_no_number(id in 1_i64..1 << 53, zeros in "0{1,6}") {
            let value = serde_json::from_str(&format!("{id}.{zeros}")).expect("JSON");
            prop_assert_eq!(order_id(&value), Ok(id));
        }
    }
}

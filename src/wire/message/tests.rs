use super::*;
use crate::wire::envelope::Header;
use proptest::prelude::*;

const NOW: DbTime = DbTime(1_767_225_600_000_000); // 2026-01-01T00:00:00Z
const READING: Reading = Reading {
    now: NOW,
    max_window: Duration::from_secs(366 * 86_400),
    delay_is_over: false,
    from_service: true,
};

fn said(body: &str, expiration: Option<&str>) -> Result<Vec<Wake>, String> {
    let envelope = Envelope { expiration, ..Envelope::default() };
    read(body.as_bytes(), envelope, READING).map_err(|error| error.to_string())
}

fn wake(order_id: i64, seconds: u64) -> Vec<Wake> {
    vec![Wake { due: NOW.plus(Duration::from_secs(seconds)), order_id, attempt: 0, announced: true }]
}

#[test]
fn every_body_form_of_the_contract_is_understood() {
    let deadline = r#"{"order_id": 7, "payment_deadline": "2026-01-01T00:15:00Z", "shop": "x"}"#;
    assert_eq!(said(deadline, None), Ok(wake(7, 900)));
    assert_eq!(said(deadline, Some("5000")), Ok(wake(7, 900)), "a deadline says more than a delay");
    assert_eq!(said(r#"{"order_id": 7}"#, Some("5000")), Ok(wake(7, 5)));
    assert_eq!(said("7", Some("5000")), Ok(wake(7, 5)));
    assert_eq!(said(" 7\n", Some("0")), Ok(wake(7, 0)));
    assert_eq!(said("\"7\"", Some("5000")), Ok(wake(7, 5)));
    assert_eq!(said(r#"{"order_id": "7"}"#, Some("5000")), Ok(wake(7, 5)));
    let event = r#"{"specversion":"1.0","id":"e","source":"/shop","type":"order.created",
        "data":{"order_id":7,"payment_deadline":"2026-01-01T01:15:00+01:00"}}"#;
    assert_eq!(said(event, None), Ok(wake(7, 900)));
    // Some libraries write every field that is empty, and a service may have fields of its own.
    assert_eq!(said(r#"{"order_id": 7, "payment_deadline": null}"#, Some("5000")), Ok(wake(7, 5)));
    assert_eq!(said(r#"{"order_id": 7, "wake": true}"#, Some("5000")), Ok(wake(7, 5)));
    assert_eq!(said(r#"{"order_id": 7, "specversion": 2}"#, Some("5000")), Ok(wake(7, 5)));
}

#[test]
fn a_deadline_that_lies_too_far_ahead_is_compared_in_a_unit_that_shows_it() {
    let day = 86_400_000;
    for (most, ahead, expected) in [
        (366 * day, 366 * day + 3_600_000, "lies 8785 hours ahead; at most 8784 hours"),
        (day / 2, 20 * 3_600_000, "lies 20 hours ahead; at most 12 hours"),
        (day + 1, 5 * day, "lies 432000000 milliseconds ahead; at most 86400001 milliseconds"),
        (60_000, 60_001, "lies 60001 milliseconds ahead; at most 60000 milliseconds"),
    ] {
        let reading = Reading { max_window: Duration::from_millis(most), ..READING };
        let delay = ahead.to_string();
        let envelope = Envelope { expiration: Some(&delay), ..Envelope::default() };
        let reason = read(b"7", envelope, reading).expect_err("refused").to_string();
        assert!(reason.contains(expected), "{reason}");
    }
}

#[test]
fn a_message_that_cannot_be_understood_says_why() {
    let reason = |body, expiration| said(body, expiration).expect_err(body);
    for (body, expiration, expected) in [
        ("", None, "not JSON"),
        ("{\"order_id\":", None, "not JSON"),
        ("[7]", None, "the body is a list"),
        ("\"seven\"", None, "the body is a string"),
        ("\"07\"", None, "the body is a string"),
        ("null", None, "the body is null"),
        ("{}", None, "`order_id` is missing"),
        (r#"{"orderId":7}"#, None, "`order_id` is missing"),
        (r#"{"order_id":"seven"}"#, Some("1"), "`order_id` is \"seven\"; it must be a whole number"),
        (r#"{"pattern":"order.created","data":{"order_id":7}}"#, None, "a NestJS message"),
        (r#""{\"order_id\":7}""#, None, "encoded twice"),
        (r#"{"order_id":1.5}"#, Some("1"), "`order_id` is 1.5"),
        (r#"{"order_id":0}"#, Some("1"), "`order_id` is 0"),
        ("-3", Some("1"), "`order_id` is -3"),
        ("9223372036854775808", Some("1"), "`order_id` is 9223372036854775808"),
        (r#"{"order_id":7}"#, None, "neither a `payment_deadline`"),
        ("7", None, "neither a `payment_deadline`"),
        ("7", Some("soon"), "`expiration` is `soon`"),
        ("7", Some("-1"), "`expiration` is `-1`"),
        ("7", Some("99999999999999"), "`expiration` lies 1157407 days ahead; at most 366"),
        (r#"{"order_id":7,"payment_deadline":1767225600}"#, None, "`payment_deadline` is 1767225600"),
        (r#"{"order_id":7,"payment_deadline":"2026-01-01"}"#, None, "`payment_deadline` is \"2026-01-01\""),
        (r#"{"order_id":7,"payment_deadline":"9999-01-01T00:00:00Z"}"#, None, "days ahead"),
        (r#"{"order_id":7,"payment_deadline":"1970-01-01T00:00:00Z"}"#, None, "2000 or later"),
        (r#"{"order_id":7,"payment_deadline":null}"#, None, "`payment_deadline` is null"),
        (r#"{"specversion":"0.3","data":{}}"#, None, "`specversion` is \"0.3\""),
        (r#"{"specversion":"1.0"}"#, None, "`data` is missing"),
        (r#"{"specversion":"1.0","data":"x"}"#, None, "`data` is \"x\""),
        (r#"{"wake":[[7,1767225605000000,0]]}"#, None, "`wake` is the form of Overdue's own messages"),
    ] {
        let got = reason(body, expiration);
        assert!(got.contains(expected), "{body} said: {got}");
    }
}

#[test]
fn our_own_wakes_are_understood_where_services_cannot_send_them() {
    let reading = Reading { delay_is_over: true, from_service: false, ..READING };
    let said =
        |body: &str| read(body.as_bytes(), Envelope::default(), reading).map_err(|error| error.to_string());
    assert_eq!(said(r#"{"wake":[[7,1767225605000000,0,1]]}"#), Ok(wake(7, 5)));
    let recorded = wake(7, 5).into_iter().map(|wake| Wake { announced: false, ..wake }).collect();
    assert_eq!(said(r#"{"wake":[[7,1767225605000000,0]]}"#), Ok(recorded));
    for (body, expected) in [
        (r#"{"wake":[]}"#, "`wake` names 0 orders"),
        (r#"{"wake":[[0,1,0]]}"#, "`wake` is 0"),
        (r#"{"wake":[[1,2]]}"#, "not JSON"),
        (r#"{"wake":[[1,2,3,4,5]]}"#, "not JSON"),
        (r#"{"wake":[[1,9223372036854775807,0]]}"#, "before the year 3000"),
        (r#"{"wake":[[1,2,4294967295]]}"#, "`wake` is 4294967295; it must be an attempt up to 1000"),
    ] {
        let got = said(body).expect_err(body);
        assert!(got.contains(expected), "{body} said: {got}");
    }
}

#[test]
fn a_reason_is_short_however_long_the_value_is() {
    let body = format!(r#"{{"wake":["{}"]}}"#, "x".repeat(140_000));
    assert!(said(&body, None).expect_err("refused").len() < 500);
}

#[test]
fn content_types_and_sizes_are_checked_before_the_body() {
    let with = |envelope: Envelope<'_>, body: &[u8]| read(body, envelope, READING).map_err(|e| e.to_string());
    let envelope = Envelope { expiration: Some("5000"), ..Envelope::default() };
    for content_type in ["application/json; charset=utf-8", "text/plain", "application/cloudevents+json"] {
        assert!(
            with(Envelope { content_type: Some(content_type), ..envelope }, b"7").is_ok(),
            "{content_type}"
        );
    }
    let packed = Envelope { content_type: Some("application/x-msgpack"), ..envelope };
    assert!(with(packed, b"7").expect_err("refused").contains("application/x-msgpack"));
    let zipped = Envelope { content_encoding: Some("gzip"), ..envelope };
    assert!(with(zipped, b"7").expect_err("refused").contains("gzip"));
    assert!(with(envelope, &vec![b' '; MAX_BODY + 1]).expect_err("refused").contains("262145 bytes"));
}

#[test]
fn a_message_whose_delay_the_broker_took_away_means_now() {
    let reading = Reading { delay_is_over: true, ..READING };
    assert_eq!(read(b"7", Envelope::default(), reading), Ok(wake(7, 0)));
    let delayed = Envelope { x_delay: Some(Header::Number(5_000)), ..Envelope::default() };
    assert_eq!(read(b"7", delayed, reading), Ok(wake(7, 0)), "the header outlives the delay");
}

#[test]
fn x_delay_is_the_delay_where_nothing_else_says_it() {
    let delayed = Envelope { x_delay: Some(Header::Number(5_000)), ..Envelope::default() };
    assert_eq!(read(b"7", delayed, READING), Ok(wake(7, 5)));
    assert_eq!(read(b"7", Envelope { expiration: Some("9000"), ..delayed }, READING), Ok(wake(7, 9)));
    let deadline = br#"{"order_id": 7, "payment_deadline": "2026-01-01T00:15:00Z"}"#;
    assert_eq!(read(deadline, delayed, READING), Ok(wake(7, 900)));
    let long = Envelope { x_delay: Some(Header::Number(i64::MAX)), ..Envelope::default() };
    assert!(read(b"7", long, READING).expect_err("refused").to_string().contains("`x-delay` lies"));
}

proptest! {
    #[test]
    fn what_encode_writes_read_understands(wakes in prop::collection::vec((1_i64.., ..YEAR_3000, 0..=MOST_ATTEMPTS, any::<bool>()), 1..50)) {
        let wakes: Vec<_> = wakes.into_iter()
            .map(|(order_id, due, attempt, announced)| Wake { due: DbTime(due), order_id, attempt, announced })
            .collect();
        let envelope = Envelope { kind: Some(WAKE_TYPE), ..Envelope::default() };
        // As in the process queue, where Overdue's own wakes may have any deadline.
        let reading = Reading { delay_is_over: true, from_service: false, ..READING };
        prop_assert_eq!(read(&crate::wire::wake::encode(&wakes), envelope, reading), Ok(wakes));
    }

    #[test]
    fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..200), expiration in ".{0,12}") {
        let envelope = Envelope { expiration: Some(&expiration), ..Envelope::default() };
        let _ = read(&body, envelope, READING);
    }

    #[test]
    fn no_json_makes_it_panic(body in r#"\{("order_id"|"payment_deadline"|"wake"|"data"|"specversion"):(-?[0-9]{1,20}|"[^"\\]{0,30}"|\[\]|null)(,"payment_deadline":"[0-9T:Z.+-]{0,30}")?\}"#) {
        let _ = said(&body, None);
    }
}

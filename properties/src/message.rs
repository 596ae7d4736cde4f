//! Message bodies with the properties that decide how they are read.

use std::time::Duration;

use overdue::clock::DbTime;
use overdue::lanes::Lanes;
use overdue::lanes::schedule::Scheduler;
use overdue::wire::envelope::{Envelope, Header};
use overdue::wire::message::{Reading, read};
use overdue::wire::wake::{MAX_ORDERS_PER_WAKE, WAKE_TYPE, Wake, encode};

/// 2026-01-01T00:00:00Z
pub const NOW: DbTime = DbTime(1_767_225_600_000_000);
const YEAR_3000: DbTime = DbTime(32_503_680_000_000_000);
const DAY: Duration = Duration::from_secs(86_400);

/// As from a service, at the intake.
pub const INTAKE: Reading = Reading {
    now: NOW,
    max_window: Duration::from_secs(366 * 86_400),
    delay_is_over: false,
    from_service: true,
};

/// `input` is lines `name: value` for the properties, an empty line, and the body; so a person can write one.
pub fn holds(input: &[u8]) {
    let (envelope, body) = split(input);
    let intake = read(body, envelope, INTAKE);
    // A message that expires at the intake has lost its expiration when a pod reads it in the process queue.
    let process =
        read(body, Envelope { expiration: None, ..envelope }, Reading { delay_is_over: true, ..INTAKE });
    for outcome in [&intake, &process] {
        match outcome {
            Ok(wakes) => understood(wakes),
            Err(malformed) => {
                let reason = malformed.to_string();
                assert!(!reason.is_empty() && reason.len() < 700, "{} bytes of reason", reason.len());
            }
        }
    }
    let Ok(wakes) = intake else { return };
    for wake in &wakes {
        assert!(wake.due.since(NOW) <= INTAKE.max_window, "beyond what services may say");
    }
    let orders = |wakes: &[Wake]| wakes.iter().map(|wake| wake.order_id).collect::<Vec<_>>();
    let process = process.expect("what the intake understands, the process queue understands");
    assert_eq!(orders(&wakes), orders(&process));
}

fn understood(wakes: &[Wake]) {
    assert!((1..=MAX_ORDERS_PER_WAKE).contains(&wakes.len()));
    assert!(wakes.iter().all(|wake| wake.order_id > 0 && wake.due < YEAR_3000));
    let ours = Envelope { kind: Some(WAKE_TYPE), ..Envelope::default() };
    let process = Reading { delay_is_over: true, from_service: false, ..INTAKE };
    assert_eq!(read(&encode(wakes), ours, process).as_deref(), Ok(wakes), "it reads as it was written");

    let lanes = Lanes::new("1s,5s,1m,15m,1h,24h,7d", Duration::from_millis(250), Duration::from_millis(200));
    let scheduler = Scheduler::new(lanes.expect("lanes"), Duration::from_millis(100), 200);
    let mut scheduled = Vec::new();
    for message in scheduler.messages(wakes.to_vec(), NOW) {
        scheduled.extend(read(&message.body, ours, process).expect("our own message"));
        let expiration = message.properties.expiration().as_ref().map(|text| text.as_str().parse::<u32>());
        let wait =
            Duration::from_millis(expiration.map_or(0, |millis| u64::from(millis.expect("milliseconds"))));
        assert!(wait <= 7 * DAY);
        let early = |wake: &Wake| wait.is_zero() || NOW.plus(wait) <= wake.due;
        assert!(scheduled.iter().rev().take(1).all(early), "no lane brings it late");
    }
    let key = |wake: &Wake| (wake.due, wake.order_id);
    let (mut there, mut here): (Vec<_>, Vec<_>) =
        (wakes.iter().map(key).collect(), scheduled.iter().map(key).collect());
    there.sort_unstable();
    there.dedup();
    here.sort_unstable();
    assert_eq!(here, there, "no wake is lost or doubled on its way into the lanes");
}

fn split(input: &[u8]) -> (Envelope<'_>, &[u8]) {
    let mut envelope = Envelope::default();
    let mut rest = input;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let (line, after) = (&rest[..end], &rest[end + 1..]);
        if line.is_empty() {
            return (envelope, after);
        }
        let Some((name, value)) = std::str::from_utf8(line).ok().and_then(|line| line.split_once(": "))
        else {
            break;
        };
        // The broker takes no longer ones.
        let value = Some(value).filter(|value| value.len() <= 255);
        match name {
            "content_type" => envelope.content_type = value,
            "content_encoding" => envelope.content_encoding = value,
            "compression" => envelope.compression = value,
            "expiration" => envelope.expiration = value,
            "x-delay" => envelope.x_delay = value.map(header),
            "type" => envelope.kind = value,
            "unreadable" => envelope.unreadable = value,
            _ => break,
        }
        rest = after;
    }
    (envelope, rest)
}

/// A number as a number, as most client libraries send it.
fn header(value: &str) -> Header<'_> {
    value.parse().map_or(Header::Text(value), Header::Number)
}

//! The broker checks no property that a sender writes. A message whose properties break every client library is parked
//! like any other that cannot be understood, and holds up nobody.

use std::time::Duration;

use crate::harness::{CONTENT_TYPE, EXPIRATION, HEADERS, World, eventually, long, short};

const SECOND: Duration = Duration::from_secs(1);

/// Lists in lists, far deeper than any library reads.
fn nested(levels: usize) -> Vec<u8> {
    let mut value = Vec::new();
    for _ in 0..levels {
        value.reverse();
        let length = u32::try_from(value.len()).expect("a length").to_be_bytes();
        value.extend(length.iter().rev());
        value.push(b'A');
        value.reverse();
    }
    value
}

/// To the intake, where the largest one expires, so that the broker adds to its headers; and straight to the pods.
const KEYS: [&str; 2] = ["order.delay", "order.process"];

/// What is wrong, flags and properties, and words that the reason must contain.
fn unreadable() -> Vec<(&'static str, u16, Vec<u8>, &'static str)> {
    let header = |name: &[u8], value: &[u8]| long(&[short(name).as_slice(), value].concat());
    let within = [b"F".as_slice(), &header(b"\xff", b"t\x01")].concat();
    let text = |bytes| [b"S".as_slice(), &long(&vec![b'x'; bytes])].concat();
    let full = [header(b"full", &text(131_000)), short(b"1")].concat();
    let large = header(b"large", &text(100_000));
    vec![
        ("a content type that is no text", CONTENT_TYPE, short(b"application/\xff\xfe"), "UTF-8"),
        ("a header whose name is no text", HEADERS, header(b"\xc3(", b"t\x01"), "UTF-8"),
        ("a name within headers that is no text", HEADERS, header(b"outer", &within), "UTF-8"),
        ("lists in lists", HEADERS, header(b"deep", &nested(5_000)), "too deeply"),
        ("headers that fit the broker's frames and not ours", HEADERS, large, "larger than a frame"),
        ("headers that fill a frame, which then grows", HEADERS | EXPIRATION, full, "larger than a frame"),
    ]
}

#[tokio::test]
async fn a_message_whose_properties_no_library_can_read_is_parked_and_the_next_is_processed() {
    World::with(async |world| {
        world.declare().await;
        let mut raw = world.raw().await;
        for (what, flags, properties, _) in unreadable() {
            for key in KEYS {
                raw.publish(key, flags, &properties, what.as_bytes()).await;
            }
        }
        // A process of its own: a library that overflows its stack takes the whole process with it.
        let pod = world.process(&["--sweep-grace", "1h"]);
        world.consumed(&world.names.process(), 1).await;
        let order = world.place(SECOND, &[]).await;
        world.closed(order).await;
        let parked = world.parked(KEYS.len() * unreadable().len()).await;
        for (what, _, _, why) in unreadable() {
            let found = parked.iter().filter(|parked| parked["body"] == what);
            let reasons: Vec<_> = found.map(|parked| parked["reason"].as_str().unwrap_or_default()).collect();
            assert_eq!(reasons.len(), KEYS.len(), "{what}: {reasons:?}");
            // What expires in the process queue is parked by the broker, which knows no reason.
            let understood = |reason: &&str| reason.contains(why) || reason.contains("the broker gave up");
            assert!(
                reasons.iter().all(understood) && reasons.iter().any(|r| r.contains(why)),
                "{what}: {reasons:?}"
            );
        }
        assert!(!pod.broke_over_what_it_read(), "{}", pod.text());

        // Sent again, they are read without their properties; these stay with them.
        let order = world.place(Duration::ZERO, &[]).await;
        world.closed(order).await;
        let body = format!("{{\"order_id\":{order}}}");
        raw.publish("order.process", CONTENT_TYPE, &short(b"\xff"), body.as_bytes()).await;
        let mine = || async {
            let found = world.run(&["parked", "retry", "--order", &order.to_string()]).await;
            found.0 == 0
        };
        eventually("it was parked and is sent again", mine).await;
        let (process, parked) = (world.names.process(), world.names.parked());
        eventually("it was understood", async || world.depth(&process).await == 0).await;
        assert_eq!(world.depth(&parked).await as usize, KEYS.len() * unreadable().len());
        pod.kill().await;
    })
    .await;
}

//! Content headers from the broker: whatever passes can be read by the client library.

use lapin::BasicProperties;
use lapin::protocol::basic::parse_properties;
use overdue::broker::frames::FrameFilter;
use overdue::wire::headers::{RAW_PROPERTIES, UNREADABLE};

/// Class, weight and size of the body, before flags and properties.
const START: [u8; 12] = [0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
/// Frame type, channel, length.
const HEAD: usize = 7;

/// `input` is what follows the body's size in a content header: flags and properties.
pub fn holds(input: &[u8]) {
    let frame = frame(input);
    let out = passed(&frame, frame.len());
    assert_eq!(out, passed(&frame, 1 + input.len() % 5), "the pieces in which it came made a difference");
    let properties = read(&out[HEAD + START.len()..out.len() - 1]).expect("what passes can be read");
    if out == frame {
        return;
    }
    let headers = properties.headers().as_ref().expect("headers");
    assert!(headers.contains_key(UNREADABLE) && headers.contains_key(RAW_PROPERTIES));
    assert_eq!(out, passed(&out, out.len()), "what stands for it passes again as it is");
}

/// Flags and properties as a pod sees them.
#[must_use]
pub fn properties(input: &[u8]) -> BasicProperties {
    let out = passed(&frame(input), 1_024);
    read(&out[HEAD + START.len()..out.len() - 1]).expect("what passes can be read")
}

fn read(bytes: &[u8]) -> Option<BasicProperties> {
    match parse_properties(bytes) {
        Ok(([], properties)) => Some(properties),
        _ => None,
    }
}

fn frame(input: &[u8]) -> Vec<u8> {
    let size = u32::try_from(START.len() + input.len()).expect("a size").to_be_bytes();
    [&[2, 0, 1][..], &size, &START, input, &[0xCE]].concat()
}

fn passed(bytes: &[u8], pieces: usize) -> Vec<u8> {
    let (mut frames, mut out) = (FrameFilter::default(), Vec::new());
    bytes.chunks(pieces).for_each(|piece| frames.feed(piece, &mut out));
    out
}

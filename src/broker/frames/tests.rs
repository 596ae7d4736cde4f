use super::*;

/// A header frame with these flags and properties.
fn frame(flags: u16, properties: &[u8]) -> Vec<u8> {
    let size = length(BEFORE_FLAGS + 2 + properties.len());
    let start = [0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
    [&[HEADER, 0, 1][..], &size, &start, &flags.to_be_bytes(), properties, &[END]].concat()
}

fn passed(bytes: &[u8], pieces: usize) -> Vec<u8> {
    let (mut frames, mut out) = (FrameFilter::default(), Vec::new());
    bytes.chunks(pieces).for_each(|piece| frames.feed(piece, &mut out));
    out
}

#[test]
fn what_can_be_read_passes_byte_for_byte_in_whatever_pieces_it_comes() {
    let tune = [&[METHOD, 0, 0, 0, 0, 0, 12][..], &[0, 10, 0, 30, 0, 0, 0, 2, 0, 0, 0, 60], &[END]].concat();
    let headers = b"\0\0\0\x0e\x01kF\0\0\0\x07\x01nA\0\0\0\0";
    let body = [&[3, 0, 1, 0, 0, 0, 9][..], b"{\"a\": 12}", &[END]].concat();
    let all = [tune, frame(HEADERS, headers), body.clone(), frame(1 << 15, b"\x04text"), body].concat();
    for pieces in [1, 2, 7, 8, 1_000] {
        assert_eq!(passed(&all, pieces), all, "in pieces of {pieces}");
    }
    assert_eq!(passed(b"AMQP\0\0\x09\x01", 3), b"AMQP\0\0\x09\x01");
}

#[test]
fn what_cannot_be_read_becomes_a_header_that_says_why_and_keeps_the_bytes() {
    let lists = b"\x01kA\0\0\0\x05".repeat(30);
    for (flags, properties, why) in [
        (1 << 15, b"\x02\xff\xfe".to_vec(), "not UTF-8"),
        (1 << 15, b"\x09short".to_vec(), "too soon"),
        (HEADERS, b"\0\0\0\x03\x01\xffV".to_vec(), "not UTF-8"),
        (HEADERS, b"\0\0\0\x03\x01k?".to_vec(), "type that does not exist"),
        (HEADERS, [&[0, 0, 0, 210][..], &lists].concat(), "type that does not exist"),
        (1, Vec::new(), "more flags"),
        (0, b"rest".to_vec(), "extra bytes"),
    ] {
        let out = passed(&frame(flags, &properties), 5);
        assert!(check(&out[HEAD..out.len() - 1]).is_ok(), "what stands for it can be read");
        let text = String::from_utf8_lossy(&out);
        assert!(text.contains(UNREADABLE) && text.contains(why), "{why}: {text}");
        let raw = [&flags.to_be_bytes(), properties.as_slice()].concat();
        assert!(out.windows(raw.len()).any(|window| window == raw), "{why}: the bytes are lost");
    }
}

#[test]
fn headers_beyond_the_agreed_frame_or_depth_are_taken_out() {
    let mut nested = Vec::new();
    for _ in 0..=DEEPEST {
        nested = [b"A".as_slice(), &length(nested.len()), &nested].concat();
    }
    let table = [&length(nested.len() + 2), b"\x01k".as_slice(), &nested].concat();
    assert!(String::from_utf8_lossy(&passed(&frame(HEADERS, &table), 9)).contains("nested too deeply"));

    let tune = [&[METHOD, 0, 0, 0, 0, 0, 12][..], &[0, 10, 0, 30, 0, 0, 0, 0, 0, 40, 0, 60], &[END]].concat();
    let long = [&[100][..], &[b'x'; 100]].concat();
    let out = passed(&[tune.clone(), frame(1 << 15, &long)].concat(), 1_000);
    assert!(String::from_utf8_lossy(&out[tune.len()..]).contains("larger than a frame"));

    // The client's limit alone: this broker has named none.
    let (mut frames, mut out) = (FrameFilter::of_at_most(100), Vec::new());
    frames.feed(&frame(1 << 15, &long), &mut out);
    assert!(String::from_utf8_lossy(&out).contains("larger than a frame"));
}

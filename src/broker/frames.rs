//! A filter for the broker's frames: it takes out message properties that the client library could not read.
//!
//! The broker checks no property that a sender writes: text need not be UTF-8, lists may be nested a thousandfold, and
//! headers that just fit a frame no longer do once the broker has added its own. The library gives up the connection
//! over such a message, or overflows its stack, and the broker redelivers the message to the next pod. Frames are therefore
//! checked before the library sees them. Pure; `broker::transport` puts the filter between socket and library.

use crate::wire::headers::{RAW_PROPERTIES, UNREADABLE};
use crate::wire::parked::MOST_HEADER_BYTES;

/// Most raw bytes that replace unreadable properties, so that they fit into the headers that a parked message may keep.
const MOST_RAW: usize = 32 * 1024;

const _: () = assert!(MOST_RAW < MOST_HEADER_BYTES);

/// Deepest nesting of headers that may pass, because the library reads them recursively. Real headers are flatter.
const DEEPEST: usize = 16;

const METHOD: u8 = 1;
const HEADER: u8 = 2;
/// The first byte of the only answer that is no frame, `AMQP…`: the broker refuses the protocol version.
const NO_FRAME: u8 = b'A';
/// Bytes of a frame's type, channel and length.
const HEAD: usize = 7;
/// Bytes of a content header's class, weight and body size.
const BEFORE_FLAGS: usize = 12;
const END: u8 = 0xCE;
/// The property flag for headers.
const HEADERS: u16 = 1 << 13;

/// Forwards a stream of frames: header frames and methods on channel 0 once they are complete, all else as it arrives.
#[derive(Debug, Default)]
pub struct FrameFilter {
    /// The frame being collected: its head, and the rest only where the frame must be checked.
    held: Vec<u8>,
    /// Bytes left of a frame that passes unchecked.
    passing: usize,
    /// The broker's largest frame in bytes; 0 is no limit.
    largest: usize,
    /// The client's largest frame in bytes; 0 is no limit. The library uses the smaller of both limits.
    ours: usize,
}

impl FrameFilter {
    /// A filter for a client whose largest frame has this many bytes.
    #[must_use]
    pub fn of_at_most(ours: usize) -> Self {
        Self { ours, ..Self::default() }
    }

    /// Takes bytes from the socket and appends to `out` those that may be forwarded.
    pub fn feed(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            if self.passing > 0 {
                let (pass, rest) = bytes.split_at(self.passing.min(bytes.len()));
                out.extend_from_slice(pass);
                self.passing -= pass.len();
                bytes = rest;
                continue;
            }
            let wanted = self.wanted();
            let (take, rest) = bytes.split_at((wanted - self.held.len()).min(bytes.len()));
            self.held.extend_from_slice(take);
            bytes = rest;
            if self.held.len() < wanted {
                return;
            }
            if self.held[0] == NO_FRAME {
                self.passing = usize::MAX;
                out.append(&mut self.held);
            } else if self.held.len() == HEAD && !self.looked_at() {
                self.passing = self.length() - HEAD;
                out.append(&mut self.held);
            } else if self.held.len() == self.length() {
                self.look(out);
            }
        }
    }

    /// How many bytes of the frame must be held for the next decision.
    fn wanted(&self) -> usize {
        if self.held.len() < HEAD { HEAD } else { self.length() }
    }

    /// Length of the whole frame; its head must be held.
    fn length(&self) -> usize {
        let size = self.held[3..HEAD].iter().fold(0, |size, byte| size << 8 | usize::from(*byte));
        HEAD + size + 1
    }

    fn looked_at(&self) -> bool {
        let on_channel_0 = self.held[1..3] == [0, 0];
        self.held[0] == HEADER || (self.held[0] == METHOD && on_channel_0)
    }

    fn look(&mut self, out: &mut Vec<u8>) {
        let payload = &self.held[HEAD..self.held.len() - 1];
        if self.held[0] == METHOD {
            // connection.tune: the broker's largest frame.
            if let Some([0, 10, 0, 30, _, _, largest @ ..]) = payload.get(..10) {
                self.largest = largest.iter().fold(0, |size, byte| size << 8 | usize::from(*byte));
            }
        } else {
            let fits = [self.largest, self.ours].iter().all(|most| *most == 0 || self.held.len() <= *most);
            let readable = if fits { check(payload) } else { Err("they are larger than a frame may be") };
            if let Err(why) = readable {
                out.extend(without_properties(&self.held, why));
                self.held.clear();
                return;
            }
        }
        out.append(&mut self.held);
    }
}

/// The frame with two headers as its only properties: the reason, and the raw bytes of the original ones.
fn without_properties(frame: &[u8], why: &str) -> Vec<u8> {
    let payload = &frame[HEAD..frame.len() - 1];
    let raw = payload.get(BEFORE_FLAGS..).unwrap_or_default();
    let raw = &raw[..raw.len().min(MOST_RAW)];
    let mut table = Vec::with_capacity(raw.len() + 128);
    for (name, kind, value) in [(UNREADABLE, b'S', why.as_bytes()), (RAW_PROPERTIES, b'x', raw)] {
        table.push(u8::try_from(name.len()).unwrap_or_default());
        table.extend_from_slice(name.as_bytes());
        table.push(kind);
        table.extend_from_slice(&length(value.len()));
        table.extend_from_slice(value);
    }
    let mut start = payload.get(..BEFORE_FLAGS).unwrap_or_default().to_vec();
    start.resize(BEFORE_FLAGS, 0);
    let size = length(BEFORE_FLAGS + 2 + 4 + table.len());
    let flags = HEADERS.to_be_bytes();
    [&frame[..3], &size, &start, &flags, &length(table.len()), &table, &[END]].concat()
}

/// A length as frames and tables encode it. Nothing written here comes near `u32::MAX` bytes.
fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes()
}

type Checked<'a> = Result<&'a [u8], &'static str>;

const CUT_OFF: &str = "they end too soon";

/// Whether the library can read this content header.
fn check(payload: &[u8]) -> Result<(), &'static str> {
    let (_, rest) = payload.split_at_checked(BEFORE_FLAGS).ok_or(CUT_OFF)?;
    let ([high, low], mut rest) = rest.split_first_chunk().ok_or(CUT_OFF)?;
    let flags = u16::from_be_bytes([*high, *low]);
    if flags & 0b11 != 0 {
        return Err("they have more flags than there are properties");
    }
    for bit in (2..16).rev().filter(|bit| flags & 1 << bit != 0) {
        rest = match bit {
            13 => table(rest, DEEPEST)?,
            12 | 11 => skip(rest, 1)?,
            6 => skip(rest, 8)?,
            _ => text(rest)?,
        };
    }
    if rest.is_empty() { Ok(()) } else { Err("extra bytes follow them") }
}

fn skip(bytes: &[u8], count: usize) -> Checked<'_> {
    bytes.get(count..).ok_or(CUT_OFF)
}

/// Checks a string with a one-byte length; returns what follows it.
fn text(bytes: &[u8]) -> Checked<'_> {
    let (length, rest) = bytes.split_first().ok_or(CUT_OFF)?;
    let (text, rest) = rest.split_at_checked(usize::from(*length)).ok_or(CUT_OFF)?;
    std::str::from_utf8(text).map_err(|_| "a name or property is not UTF-8")?;
    Ok(rest)
}

/// Splits off bytes with a four-byte length; returns them and what follows.
fn long(bytes: &[u8]) -> Result<(&[u8], &[u8]), &'static str> {
    let (length, rest) = bytes.split_first_chunk().ok_or(CUT_OFF)?;
    rest.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or(CUT_OFF)
}

fn table(bytes: &[u8], levels: usize) -> Checked<'_> {
    let (mut inner, rest) = long(bytes)?;
    while !inner.is_empty() {
        inner = value(text(inner)?, levels)?;
    }
    Ok(rest)
}

fn list(bytes: &[u8], levels: usize) -> Checked<'_> {
    let (mut inner, rest) = long(bytes)?;
    while !inner.is_empty() {
        inner = value(inner, levels)?;
    }
    Ok(rest)
}

fn value(bytes: &[u8], levels: usize) -> Checked<'_> {
    let (kind, rest) = bytes.split_first().ok_or(CUT_OFF)?;
    let deeper = || levels.checked_sub(1).ok_or("headers are nested too deeply");
    match kind {
        b'V' => Ok(rest),
        b't' | b'b' | b'B' => skip(rest, 1),
        b's' | b'U' | b'u' => skip(rest, 2),
        b'I' | b'i' | b'f' => skip(rest, 4),
        b'D' => skip(rest, 5),
        b'l' | b'L' | b'd' | b'T' => skip(rest, 8),
        b'S' | b'x' => Ok(long(rest)?.1),
        b'A' => list(rest, deeper()?),
        b'F' => table(rest, deeper()?),
        _ => Err("a header has a type that does not exist"),
    }
}

#[cfg(test)]
mod tests;

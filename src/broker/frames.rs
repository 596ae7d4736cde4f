//! What the broker sends, frame by frame, with the properties that the client library could not read taken out.
//!
//! The broker checks no property that a sender writes: text need not be UTF-8, lists may be nested a thousandfold, and
//! headers that just fit a frame no longer do when the broker has added its own. The library gives up the connection
//! over such a message, or overflows its stack, and the broker delivers the message again, to the next pod. So frames
//! are looked at before the library sees them. Pure; `broker::transport` puts it between socket and library.

use crate::wire::headers::{RAW_PROPERTIES, UNREADABLE};
use crate::wire::parked::MOST_HEADER_BYTES;

/// So that a parked message keeps them within the headers that it may keep.
const MOST_RAW: usize = 32 * 1024;

const _: () = assert!(MOST_RAW < MOST_HEADER_BYTES);

/// Nobody's headers are deeper; the library reads them recursively.
const DEEPEST: usize = 16;

const METHOD: u8 = 1;
const HEADER: u8 = 2;
/// The first byte of the only thing that is no frame: the answer to a wrong protocol version.
const NO_FRAME: u8 = b'A';
/// Frame type, channel, length.
const HEAD: usize = 7;
/// Class, weight, size of the body.
const BEFORE_FLAGS: usize = 12;
const END: u8 = 0xCE;
/// The property flag of the headers.
const HEADERS: u16 = 1 << 13;

/// Passes on a stream of frames, whole header frames at a time and everything else as it comes.
#[derive(Debug, Default)]
pub struct FrameFilter {
    /// The frame that is being gathered: its head, and all of it where it must be looked at.
    held: Vec<u8>,
    /// Bytes of a frame that passes as it is.
    passing: usize,
    /// What the broker says a frame may have; 0: anything.
    largest: usize,
    /// What we say; 0: anything. Of both the smaller one holds, for the library.
    ours: usize,
}

impl FrameFilter {
    /// For a connection that wants no larger frames than this, in bytes.
    #[must_use]
    pub fn of_at_most(ours: usize) -> Self {
        Self { ours, ..Self::default() }
    }

    /// Takes in what was read and appends to `out` what may be passed on.
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

    /// How much of the frame must be held before something can be done.
    fn wanted(&self) -> usize {
        if self.held.len() < HEAD { HEAD } else { self.length() }
    }

    /// The whole frame's length, once the head is there.
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
            // connection.tune: how large a frame may be.
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

/// The frame with nothing but the reason and the raw bytes for properties.
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

/// A length as frames and tables say it. What we write is far shorter.
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
    if rest.is_empty() { Ok(()) } else { Err("there is something behind them") }
}

fn skip(bytes: &[u8], count: usize) -> Checked<'_> {
    bytes.get(count..).ok_or(CUT_OFF)
}

/// A string with its length in one byte.
fn text(bytes: &[u8]) -> Checked<'_> {
    let (length, rest) = bytes.split_first().ok_or(CUT_OFF)?;
    let (text, rest) = rest.split_at_checked(usize::from(*length)).ok_or(CUT_OFF)?;
    std::str::from_utf8(text).map_err(|_| "a name or property is not UTF-8")?;
    Ok(rest)
}

/// Bytes with their length in four; these, and what follows.
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
        _ => Err("a header is of a type that does not exist"),
    }
}

#[cfg(test)]
mod tests;

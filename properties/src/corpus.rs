//! The kept inputs: one text file per decoder, one input a line.

use std::path::Path;

/// The kept inputs of a decoder, each with its name, or with its line where it has none.
///
/// # Panics
/// When the file is not there, or a line is neither `name: text` nor hex.
#[must_use]
pub fn of(decoder: &str) -> Vec<(String, Vec<u8>)> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    let path = corpus.join(decoder).with_extension("txt");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.starts_with('#'));
    lines
        .map(|(number, line)| {
            let input = match line.split_once(':') {
                Some((name, text)) => {
                    Some((name.to_owned(), unescaped(text.strip_prefix(' ').unwrap_or(text))))
                }
                None => bytes(line).map(|input| (format!("line {number}"), input)),
            };
            input.unwrap_or_else(|| panic!("{}:{number}: neither `name: text` nor hex", path.display()))
        })
        .collect()
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<_>> = hex.chars().map(|digit| digit.to_digit(16)).collect();
    let pairs = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    pairs.chunks(2).map(|pair| u8::try_from(16 * pair[0] + pair[1]).ok()).collect()
}

/// Backslash, `n`, `r`, `t`, and `x` with two hex digits, as `printf %b` reads them.
fn unescaped(text: &str) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, after @ ..] = rest {
        let hex = || bytes(std::str::from_utf8(after.get(1..3)?).ok()?);
        let (byte, taken) = match (first, after.first()) {
            (b'\\', Some(b'\\')) => (b'\\', 2),
            (b'\\', Some(b'n')) => (b'\n', 2),
            (b'\\', Some(b'r')) => (b'\r', 2),
            (b'\\', Some(b't')) => (b'\t', 2),
            (b'\\', Some(b'x')) => hex().map_or((b'\\', 1), |byte| (byte[0], 4)),
            _ => (*first, 1),
        };
        out.push(byte);
        rest = &rest[taken..];
    }
    out
}

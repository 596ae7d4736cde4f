//! Escapes foreign text that a person will read. It must not move the cursor, colour the screen, hide or reorder other
//! text, or begin a line that looks like one of Overdue's.

use std::fmt::{self, Write};

/// Whether a character does something other than being visible. Besides the control characters, these change the direction
/// of text, end a line in some viewers, or take no space at all.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Escapes every such character, as in `\u{1b}`.
pub fn harmless(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    // Writing to a string does not fail.
    let _ = Escaping(&mut escaped).write_str(text);
    escaped
}

/// The same for text that is meant to have several lines.
pub fn harmless_lines(text: &str) -> String {
    text.lines().map(harmless).collect::<Vec<_>>().join("\n")
}

/// Removes user and password from each address in a text. The errors of address settings repeat no address, but an address
/// given for another setting may be repeated in that setting's error.
pub fn without_logins(text: &str) -> String {
    let mut pieces = text.split("://");
    let mut shown = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let end = piece.find(|c: char| c.is_whitespace() || "`'\"".contains(c)).unwrap_or(piece.len());
        let login = piece[..end].rfind('@');
        shown.push_str("://");
        shown.push_str(&login.map_or_else(|| piece.to_owned(), |at| format!("***{}", &piece[at..])));
    }
    shown
}

/// Escapes what is written through it.
pub struct Escaping<W>(pub W);

impl<W: Write> Write for Escaping<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // Nearly all text is plain, and is written in one piece.
        for piece in text.split_inclusive(acts) {
            match piece.chars().next_back() {
                Some(last) if acts(last) => {
                    self.0.write_str(&piece[..piece.len() - last.len_utf8()])?;
                    write!(self.0, "{}", last.escape_unicode())?;
                }
                _ => self.0.write_str(piece)?,
            }
        }
        Ok(())
    }
}

/// Escapes every such character in a line of JSON, as in `\u001b`. In valid JSON they stand only within strings, where both
/// forms mean the same.
pub fn harmless_json(line: &str) -> String {
    let mut escaped = String::with_capacity(line.len());
    for c in line.chars() {
        if acts(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        } else {
            escaped.push(c);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_act_is_written_out_and_all_other_text_is_kept() {
        for (text, expected) in [
            ("Zürich, 東京, 🔥 and \"quotes\"", "Zürich, 東京, 🔥 and \"quotes\""),
            ("a\nb\r\tc", "a\\u{a}b\\u{d}\\u{9}c"),
            ("\u{1b}[2J\u{9b}31m\u{7f}", "\\u{1b}[2J\\u{9b}31m\\u{7f}"),
            ("\u{202e}gnp\u{2066}\u{2028}\u{feff}", "\\u{202e}gnp\\u{2066}\\u{2028}\\u{feff}"),
            ("", ""),
        ] {
            assert_eq!(harmless(text), expected);
            assert_eq!(harmless(&harmless(text)), expected, "escaped text is plain");
        }
        assert_eq!(harmless_lines("a\u{7}\nb"), "a\\u{7}\nb");
    }

    #[test]
    fn an_address_in_the_wrong_place_is_repeated_without_its_login() {
        for (text, expected) in [
            ("`amqp://u:p@ss/word@h/v` is not a time", "`amqp://***@h/v` is not a time"),
            ("at 'http://h:1/x' and x://a:b@c, d@e", "at 'http://h:1/x' and x://***@c, d@e"),
            ("no address", "no address"),
        ] {
            assert_eq!(without_logins(text), expected);
        }
    }

    #[test]
    fn json_keeps_its_meaning() {
        let text = "\u{9b}31m\u{202e}\u{e0041}\u{7f}";
        let line = harmless_json(&serde_json::json!({ "reason": text }).to_string());
        assert!(!line.chars().any(acts), "{line}");
        let read: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(read["reason"], text);
    }
}

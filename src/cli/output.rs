//! What a person or a script sees on standard output.

use std::io::{IsTerminal, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::harmless::harmless;
use super::log::last_words;

/// Human text, or JSON.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    json: bool,
}

impl Output {
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// A result: one line for people, one JSON value for scripts.
    pub fn done(self, text: &str, value: impl Serialize) {
        self.show(|| text.to_owned(), value);
    }

    /// The same, with a text that is built only if it is shown.
    pub fn show(self, text: impl FnOnce() -> String, value: impl Serialize) {
        print(&if self.json { serde_json::to_string(&value).unwrap_or_default() } else { text() });
    }

    /// A result for scripts only, at the end of a process that must not wait for a reader.
    pub fn last_for_scripts(self, value: impl Serialize) {
        if self.json {
            last_words(&std::io::stdout(), serde_json::to_string(&value).unwrap_or_default());
        }
    }

    /// A progress bar on a terminal; nothing elsewhere.
    pub fn progress(self, what: &'static str) -> ProgressBar {
        if self.json || !std::io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {human_pos}/{human_len} {elapsed}")
        {
            bar.set_style(style);
        }
        bar.with_message(what)
    }
}

/// Writes a text that is the same for people and scripts.
pub fn print(text: &str) {
    // A reader that has gone away (`| head`) is not an error.
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// A spinner for work of unknown length; hidden with `--json` and away from a terminal.
pub fn spinner(out: Output) -> ProgressBar {
    let bar = out.progress("");
    bar.set_style(ProgressStyle::default_spinner());
    bar.enable_steady_tick(std::time::Duration::from_millis(100));
    bar
}

/// A number of things: `1 message`, `2 messages`.
pub fn counted(count: usize, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

/// A table for people, with widths fitted to the content. Cells may contain foreign text.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<_>> = rows.iter().map(|row| row.iter().map(|cell| harmless(cell)).collect()).collect();
    let width = |n: usize| {
        rows.iter()
            .map(|row| row[n].chars().count())
            .chain([head[n].chars().count()])
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<_> = (0..head.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let cells = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let head = line(head.to_vec());
    let rows = rows.iter().map(|row| line(row.iter().map(String::as_str).collect()));
    std::iter::once(head).chain(rows).collect::<Vec<_>>().join("\n")
}

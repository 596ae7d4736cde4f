//! A thread that writes the lines of the log. Lines that it cannot write, or not fast enough, are lost and counted.
//!
//! tracing-appender has such a thread, but does not count the lines that it fails to write. When it ends it prints to standard
//! output, which hangs or panics if standard output is the same broken pipe.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::cli::harmless::harmless_json;
use crate::stats::{Count, Stats};

/// Most lines that wait to be written: enough for a burst of errors, and little memory at a few hundred bytes each.
const WAITING: usize = 4_096;

/// Longest wait for lines that are still to be written when the process ends.
const LAST: Duration = Duration::from_secs(1);

/// The log while the process runs. Dropping it waits up to [`LAST`] until the waiting lines are written.
#[derive(Debug)]
pub struct Log(SyncSender<Entry>);

/// Accepts lines, and never waits or fails.
#[derive(Clone, Debug)]
pub struct Lines {
    entries: SyncSender<Entry>,
    waiting: Arc<AtomicUsize>,
    stats: Arc<Stats>,
    json: bool,
}

#[derive(Debug)]
enum Entry {
    Line(Vec<u8>),
    /// Answered when every line before it has been written or lost.
    End(Sender<()>),
}

impl Log {
    pub fn start(out: File, stats: Arc<Stats>, json: bool) -> io::Result<(Self, Lines)> {
        let (entries, received) = sync_channel(WAITING);
        let waiting = Arc::new(AtomicUsize::new(0));
        let lines = Lines {
            entries: entries.clone(),
            waiting: Arc::clone(&waiting),
            stats: Arc::clone(&stats),
            json,
        };
        let mut writing = Writing { out, torn: false, reported: 0, waiting, stats };
        thread::Builder::new().name("log".into()).spawn(move || writing.all(&received))?;
        Ok((Self(entries), lines))
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let until = Instant::now() + LAST;
        let (done, written) = channel();
        let mut end = Entry::End(done);
        while let Err(TrySendError::Full(back)) = self.0.try_send(end) {
            if Instant::now() > until {
                return;
            }
            end = back;
            thread::sleep(Duration::from_millis(10));
        }
        let _ = written.recv_timeout(until.saturating_duration_since(Instant::now()));
    }
}

impl Write for Lines {
    /// Called once for each line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = if self.json { String::from_utf8(line.to_vec()).ok() } else { None };
        // The last character is the line's end.
        let safe = text.map(|text| harmless_json(text.trim_end_matches('\n')) + "\n");
        let entry = Entry::Line(safe.map_or_else(|| line.to_vec(), String::into_bytes));
        self.waiting.fetch_add(1, Ordering::Relaxed);
        if self.entries.try_send(entry).is_err() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.stats.add(Count::LogLinesLost, 1);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Writing {
    out: File,
    /// Whether the last line was cut off.
    torn: bool,
    /// Lost lines that have been reported.
    reported: u64,
    waiting: Arc<AtomicUsize>,
    stats: Arc<Stats>,
}

impl Writing {
    fn all(&mut self, entries: &Receiver<Entry>) {
        while let Ok(entry) = entries.recv() {
            match entry {
                Entry::Line(line) => {
                    let left = self.waiting.fetch_sub(1, Ordering::Relaxed) - 1;
                    self.line(&line, left == 0);
                }
                Entry::End(done) => {
                    let _ = done.send(());
                }
            }
        }
    }

    fn line(&mut self, line: &[u8], caught_up: bool) {
        let written = if self.torn { self.out.write_all(b"\n") } else { Ok(()) };
        if written.and_then(|()| self.whole(line)).is_err() {
            self.stats.add(Count::LogLinesLost, 1);
            return;
        }
        self.torn = false;
        let lost = self.stats.get(Count::LogLinesLost);
        // Reported once no line is waiting: then there is room for the report.
        if caught_up && lost > self.reported {
            let lines = lost - self.reported;
            self.reported = lost;
            tracing::warn!(
                event = "log_lines_lost",
                lines,
                "lines of the log were lost: they could not be written, or not fast enough"
            );
        }
    }

    fn whole(&mut self, line: &[u8]) -> io::Result<()> {
        let mut rest = line;
        while !rest.is_empty() {
            match self.out.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    rest = &rest[count..];
                    self.torn = true;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Writes a last text to a standard stream, and gives up after [`LAST`] if no one reads it.
pub fn last_words(stream: &impl AsFd, text: String) {
    let Ok(out) = stream.as_fd().try_clone_to_owned() else { return };
    let (done, written) = channel();
    let write = thread::Builder::new().spawn(move || {
        let _ = done.send(File::from(out).write_all(format!("{text}\n").as_bytes()));
    });
    if write.is_ok() {
        let _ = written.recv_timeout(LAST);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn stats() -> Arc<Stats> {
        Arc::new(Stats::default())
    }

    #[test]
    fn a_line_that_cannot_be_written_is_counted_and_the_thread_goes_on() {
        let stats = stats();
        let full = File::options().write(true).open("/dev/full").expect("a full device");
        let (log, mut lines) = Log::start(full, Arc::clone(&stats), false).expect("a thread");
        for _ in 0..3 {
            lines.write_all(b"a line\n").expect("never fails");
        }
        drop(log);
        assert_eq!(stats.get(Count::LogLinesLost), 3);
    }

    #[test]
    fn a_pipe_that_nobody_reads_holds_up_nobody_and_what_was_lost_is_counted() {
        let stats = stats();
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let out = File::from(std::os::fd::OwnedFd::from(writer));
        let (log, mut lines) = Log::start(out, Arc::clone(&stats), false).expect("a thread");
        let line = [b"x".repeat(1_023), b"\n".to_vec()].concat();
        let all = 2 * WAITING;
        for _ in 0..all {
            lines.write_all(&line).expect("never waits");
        }
        let lost = stats.get(Count::LogLinesLost);
        assert!(lost > 0, "the pipe and the room for waiting lines were not enough for all");
        drop(log);
        drop(lines);
        let mut read = Vec::new();
        reader.read_to_end(&mut read).expect("read");
        assert_eq!(read.len() as u64 / 1_024, all as u64 - lost, "what was not lost was written");
    }
}

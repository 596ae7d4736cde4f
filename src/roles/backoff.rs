//! How long to wait before a session is rebuilt.

use std::time::Duration;

/// A session that lasted longer than this counts as having worked, and resets the backoff.
pub const STABLE: Duration = Duration::from_secs(5);

/// Waits between sessions: 100 ms after a session that lasted, otherwise 200 ms, doubled up to 2 s. The waits are short,
/// because orders become due meanwhile.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next wait. `lasted`: whether the last session lived longer than [`STABLE`].
    pub fn next(&mut self, lasted: bool) -> Duration {
        self.failures = if lasted { 0 } else { (self.failures + 1).min(5) };
        (Duration::from_millis(100) * (1 << self.failures)).min(Duration::from_secs(2))
    }
}

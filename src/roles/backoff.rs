//! How long to wait before a session is built again.

use std::time::Duration;

/// A session that lived this long worked; the backoff begins again.
pub const STABLE: Duration = Duration::from_secs(5);

/// Waits between sessions: 200 ms, doubled up to 2 s. Short, because orders become due meanwhile.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next wait, after a session that lasted or did not.
    pub fn next(&mut self, lasted: bool) -> Duration {
        self.failures = if lasted { 0 } else { (self.failures + 1).min(5) };
        (Duration::from_millis(100) * (1 << self.failures)).min(Duration::from_secs(2))
    }
}

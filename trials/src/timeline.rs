//! What happened when, for the person who looks into a failure.

use std::fmt::Display;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Events of one round in the order in which they were noted.
#[derive(Debug)]
pub struct Timeline {
    began: Instant,
    entries: Mutex<Vec<(Duration, String)>>,
}

impl Default for Timeline {
    fn default() -> Self {
        Self { began: Instant::now(), entries: Mutex::default() }
    }
}

impl Timeline {
    /// Notes an event.
    pub fn note(&self, what: impl Display) {
        let entry = (self.began.elapsed(), what.to_string());
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
    }
}

impl Display for Timeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, what) in self.entries.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            writeln!(f, "{:>9.3} s  {what}", at.as_secs_f64())?;
        }
        Ok(())
    }
}

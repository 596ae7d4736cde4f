//! Waiting for a condition, on a busy machine too.

use std::time::Duration;

use overdue_testkit::machine::stretched;
use tokio::time::{Instant, sleep};

/// Waits until a condition holds, and fails loudly when it does not within half a minute.
pub async fn eventually(what: &str, condition: impl AsyncFnMut() -> bool) {
    patiently(what, Duration::from_secs(30), condition).await;
}

/// The same with another limit. It is for an idle machine, and stretches with the slowness of this one.
pub async fn patiently(what: &str, limit: Duration, mut condition: impl AsyncFnMut() -> bool) {
    let (start, mut until) = (Instant::now(), limit);
    while !condition().await {
        if start.elapsed() > until {
            // Measured only now, because it takes processor time from what is waited for; and in the middle of what is slow.
            until = until.max(stretched(limit));
            let waited = start.elapsed();
            assert!(
                waited <= until,
                "after {waited:?}, with a limit of {until:?} on this machine, still not: {what}"
            );
        }
        // The one wait in the tests: between two looks at a condition.
        sleep(Duration::from_millis(20)).await;
    }
}

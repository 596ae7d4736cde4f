//! Waiting for a condition, on a busy machine too.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// A look at a condition and the pause after it take about this long on an idle machine.
const LOOK: Duration = Duration::from_millis(50);
/// However slow a machine is, it is not slower than this.
const SLOWEST: u32 = 10;

/// Waits until a condition holds, and fails loudly when it does not within half a minute.
pub async fn eventually(what: &str, condition: impl AsyncFnMut() -> bool) {
    patiently(what, Duration::from_secs(30), condition).await;
}

/// The same with another bound. It is for an idle machine: a busy one takes longer for each look, as for everything that is
/// waited for, and so the bound stretches with it.
pub async fn patiently(what: &str, bound: Duration, mut condition: impl AsyncFnMut() -> bool) {
    let (start, mut waited) = (Instant::now(), Duration::ZERO);
    loop {
        let look = Instant::now();
        if condition().await {
            return;
        }
        let late = waited >= bound || start.elapsed() >= SLOWEST * bound;
        assert!(!late, "after {:?}, or {waited:?} of an idle machine, still not: {what}", start.elapsed());
        // The one wait in the tests: between two looks at a condition.
        sleep(Duration::from_millis(20)).await;
        waited += look.elapsed().min(LOOK);
    }
}

//! How slow this machine is at the moment: other programs take processors from the tests.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// So much processor time is asked for.
const SAMPLE: Duration = Duration::from_millis(20);
/// However slow a machine is, it is not slower than this.
const SLOWEST: f64 = 20.0;

/// How many times longer work takes now than on an idle machine: how long this thread waits for a little processor time. It
/// computes all the while, so that is what a program without pauses would get.
#[must_use]
pub fn slowness() -> f64 {
    let (began, enough) = (Instant::now(), processor_time() + SAMPLE);
    while processor_time() < enough {
        std::hint::spin_loop();
    }
    (began.elapsed().as_secs_f64() / SAMPLE.as_secs_f64()).clamp(1.0, SLOWEST)
}

/// A limit for an idle machine, stretched by the slowness of this one.
#[must_use]
pub fn stretched(limit: Duration) -> Duration {
    limit.mul_f64(slowness())
}

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), nanos)
}

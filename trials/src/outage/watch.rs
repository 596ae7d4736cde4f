//! Keeps an eye on the pods: they run, and what they take.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use tokio::time::sleep;

use crate::arena::Arena;
use crate::proc;

/// The largest resident memory in MiB and the most open files and sockets of any pod so far.
#[derive(Debug, Default)]
pub struct Watch(Mutex<(f64, f64)>);

impl Watch {
    /// Watches until a pod ends by itself.
    pub async fn over<T>(&self, arena: &Arena) -> Result<T> {
        loop {
            for pod in &arena.pods {
                pod.check().await?;
                let memory = pod.resident_kib().await as f64 / 1024.0;
                let descriptors = pod.pid().await.map_or(0, proc::descriptors) as f64;
                let mut peak = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                *peak = (peak.0.max(memory), peak.1.max(descriptors));
            }
            sleep(Duration::from_secs(1)).await;
        }
    }

    /// The peaks so far.
    pub fn peak(&self) -> (f64, f64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

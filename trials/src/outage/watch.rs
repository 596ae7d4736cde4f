//! Keeps an eye on the pods: they run, and what they take.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use tokio::time::sleep;

use crate::arena::Arena;
use crate::proc;

/// The most that any pod has taken so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peak {
    /// Resident memory in MiB.
    pub memory: f64,
    /// Open files and sockets.
    pub descriptors: f64,
    /// Threads.
    pub threads: f64,
}

/// Looks once a second.
#[derive(Debug, Default)]
pub struct Watch(Mutex<Peak>);

impl Watch {
    /// Watches until a pod ends by itself.
    pub async fn over<T>(&self, arena: &Arena) -> Result<T> {
        loop {
            for pod in &arena.pods {
                pod.check().await?;
                let memory = pod.kib("VmRSS").await.unwrap_or(0) as f64 / 1024.0;
                let process = pod.pid().await;
                let mut peak = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                peak.memory = peak.memory.max(memory);
                peak.descriptors = peak.descriptors.max(process.map_or(0, proc::descriptors) as f64);
                peak.threads = peak.threads.max(process.map_or(0, proc::threads) as f64);
            }
            sleep(Duration::from_secs(1)).await;
        }
    }

    /// The peaks so far.
    pub fn peak(&self) -> Peak {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

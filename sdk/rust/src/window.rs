//! How many messages of one channel may be on their way at once. Whoever sends more waits.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bounds of what is on its way in one channel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WindowLimits {
    pub(crate) messages_max: u32,
    pub(crate) bytes_max: u32,
}

#[derive(Debug)]
pub(crate) struct Window {
    limits: WindowLimits,
    messages: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

/// A message's place in the window; free when dropped.
#[derive(Debug)]
pub(crate) struct Admission {
    _message: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

impl Window {
    pub(crate) fn new(limits: WindowLimits) -> Self {
        let semaphore = |permits: u32| Arc::new(Semaphore::new(permits as usize));
        Self { limits, messages: semaphore(limits.messages_max), bytes: semaphore(limits.bytes_max) }
    }

    /// Waits for a place, first come first served. A message larger than the window waits until it is alone.
    pub(crate) async fn admit(&self, bytes: usize) -> Admission {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.limits.bytes_max);
        let message = self.messages.clone().acquire_owned().await.expect("a window is never closed");
        let bytes = self.bytes.clone().acquire_many_owned(bytes).await.expect("a window is never closed");
        Admission { _message: message, _bytes: bytes }
    }
}

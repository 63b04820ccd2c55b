//! The commits that wait for the writer. Bounded by the room that each of them holds, see [`super::Shared::room`].

use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::recent::Reads;
use crate::CommitOutcome;
use crate::engine::Writes;

/// One transaction that wants to commit.
pub(super) struct Request {
    /// The newest commit that its snapshot held.
    pub(super) sequence: u64,
    pub(super) reads: Reads,
    pub(super) writes: Writes,
    /// Keys and values in `writes`.
    pub(super) bytes: usize,
    pub(super) deadline: Instant,
    /// Set by the writer when it takes the request, or by the caller when the deadline passes: first come, first served.
    pub(super) taken: Arc<AtomicBool>,
    pub(super) reply: oneshot::Sender<CommitOutcome>,
    /// Gives the room back when the request is gone.
    pub(super) _room: OwnedSemaphorePermit,
}

/// What the writer woke up for.
pub(super) enum Wake {
    /// There is a group.
    Group,
    /// Nothing came until the time given.
    Timeout,
    /// The queue is closed and empty.
    Closed,
}

#[derive(Default)]
struct Waiting {
    requests: VecDeque<Request>,
    bytes: usize,
    closed: bool,
}

/// See the module.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a request; `false` if the queue is closed.
    pub(super) fn push(&self, request: Request) -> bool {
        let mut waiting = self.lock();
        if waiting.closed {
            return false;
        }
        waiting.bytes += request.bytes;
        waiting.requests.push_back(request);
        // The writer sleeps only on an empty queue.
        let wake = waiting.requests.len() == 1;
        drop(waiting);
        if wake {
            self.arrived.notify_one();
        }
        true
    }

    /// Bytes that wait.
    pub(super) fn bytes(&self) -> u64 {
        self.lock().bytes as u64
    }

    /// No more requests; those that wait are still handed out.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_one();
    }

    /// Moves all that waits into `group`, up to `commits_max`, and stops after the one that reaches `bytes_max`.
    /// Waits for the first one, until `until` if given.
    pub(super) fn take(
        &self,
        group: &mut Vec<Request>,
        commits_max: usize,
        bytes_max: usize,
        until: Option<Instant>,
    ) -> Wake {
        let mut waiting = self.lock();
        while waiting.requests.is_empty() {
            if waiting.closed {
                return Wake::Closed;
            }
            let Some(until) = until else {
                waiting = self.arrived.wait(waiting).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Wake::Timeout;
            }
            waiting = self.arrived.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let mut bytes = 0;
        while group.len() < commits_max && bytes < bytes_max {
            let Some(request) = waiting.requests.pop_front() else { break };
            bytes += request.bytes;
            group.push(request);
        }
        waiting.bytes -= bytes;
        Wake::Group
    }
}

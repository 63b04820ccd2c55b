//! The queue between the client's task and the reader of one subscription, and the bell by which handles call the task.
//!
//! The task counts what it may put in, so pushing never waits; the reader says what it took in lumps, so reading a
//! message costs no wake of the task.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;

use crate::engine::{Handle, Key, QueueLimits};
use crate::event::Event;

/// Events of one subscription. One reader.
#[derive(Debug)]
pub(crate) struct Inbox {
    key: Key,
    limits: QueueLimits,
    bell: Arc<Bell>,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<Event>,
    bytes: u64,
    /// Taken since the task last asked.
    taken: Taken,
    /// The task waits for room.
    is_starved: bool,
    /// The bell has this inbox on its list.
    is_rung: bool,
    is_closed: bool,
    reader: Option<Waker>,
}

/// What a reader took.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) events: u32,
    pub(crate) bytes: u64,
}

impl Inbox {
    pub(crate) fn new(key: Key, limits: QueueLimits, bell: Arc<Bell>) -> Self {
        Self { key, limits, bell, queue: Mutex::default() }
    }

    /// Queues an event. Room was counted before.
    pub(crate) fn push(&self, event: Event) {
        let mut queue = self.lock();
        let is_last = matches!(event, Event::Ended(_));
        queue.bytes += event.bytes() as u64;
        queue.events.push_back(event);
        queue.is_closed |= is_last;
        queue.wake();
    }

    /// Nothing follows.
    pub(crate) fn close(&self) {
        let mut queue = self.lock();
        queue.is_closed = true;
        queue.wake();
    }

    /// The task waits for room: ring as soon as half is free, at once if it is.
    pub(crate) fn starve(&self) {
        let mut queue = self.lock();
        queue.is_starved = true;
        self.ring_if_due(&mut queue);
    }

    /// What was taken since the last call.
    pub(crate) fn collect(&self) -> Taken {
        let mut queue = self.lock();
        queue.is_rung = false;
        std::mem::take(&mut queue.taken)
    }

    /// The next event; `None` once it is closed and empty.
    pub(crate) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let mut queue = self.lock();
        match queue.events.pop_front() {
            Some(event) => {
                let bytes = event.bytes() as u64;
                queue.bytes -= bytes;
                queue.taken.events += 1;
                queue.taken.bytes += bytes;
                self.ring_if_due(&mut queue);
                Poll::Ready(Some(event))
            }
            None if queue.is_closed => Poll::Ready(None),
            None => {
                queue.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn ring_if_due(&self, queue: &mut Queue) {
        let QueueLimits { messages_max, bytes_max } = self.limits;
        let is_half_free =
            queue.events.len() as u64 * 2 <= u64::from(messages_max) && queue.bytes * 2 <= bytes_max.into();
        let is_lump = queue.taken.events > messages_max / 4 || queue.taken.bytes > u64::from(bytes_max) / 4;
        if (is_lump || queue.is_starved && is_half_free) && !queue.is_rung {
            queue.is_rung = true;
            queue.is_starved &= !is_half_free;
            self.bell.ring(Call::Taken(self.key));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

/// What handles tell the task without waiting. Bounded by what there is: each handle is dropped once, and an inbox is
/// on the list once.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    calls: Mutex<Calls>,
    notify: Notify,
}

/// Calls and commands take different ways to the task; counting keeps them in order. What was sent before a handle was
/// dropped is not lost with it, and who drops a channel can open it again.
#[derive(Debug, Default)]
struct Calls {
    /// Commands given to the task so far.
    commands: u64,
    /// Each with the number of commands before it.
    waiting: VecDeque<(u64, Call)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// Ask the inbox what was taken.
    Taken(Key),
    /// A handle was dropped.
    Released(Key, Handle),
}

impl Bell {
    pub(crate) fn ring(&self, call: Call) {
        let mut calls = self.lock();
        let commands = calls.commands;
        calls.waiting.push_back((commands, call));
        self.notify.notify_one();
    }

    /// Gives the task a command, with `send`, which must not wait.
    pub(crate) fn command(&self, send: impl FnOnce()) {
        let mut calls = self.lock();
        calls.commands += 1;
        send();
    }

    /// Waits for calls; there may be none. Nothing is lost if the future is dropped.
    pub(crate) async fn rung(&self) {
        self.notify.notified().await;
    }

    /// The next call that came before all but the first `commands` commands.
    pub(crate) fn next(&self, commands: u64) -> Option<Call> {
        let call = self.lock().waiting.pop_front_if(|(before, _)| *before <= commands)?;
        Some(call.1)
    }

    fn lock(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

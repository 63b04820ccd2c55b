//! What applications show and may miss parts of: the state of a client's connection, and how much of a channel is unread.

use std::sync::Arc;
use std::time::Duration;

use millrace_protocol::id::SessionId;
use tokio::sync::watch;

use crate::error::Error;
use crate::event::Unread;

/// What a client's connection does.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum State {
    /// It connects for the first time.
    Connecting,
    /// It is up.
    Connected {
        /// Names the session in logs and support cases.
        session: SessionId,
        /// Name of the node.
        node: Arc<str>,
    },
    /// It was lost, or could not be made, and is tried again.
    Reconnecting {
        /// Which try comes next, counted from 1 since the connection last held.
        attempt: u32,
        /// How long from this state's beginning until the try.
        delay: Duration,
        /// What ended the last one.
        error: Error,
    },
    /// It is closed for good.
    Closed {
        /// What ended it; `None` if the application did, and every message had its end.
        error: Option<Error>,
    },
}

impl State {
    /// Whether requests reach a node now.
    pub fn is_connected(&self) -> bool {
        matches!(self, Self::Connected { .. })
    }
}

/// Follows the state of a client. It shows the newest state; ones in between may be missed.
#[derive(Debug, Clone)]
pub struct StateWatch(pub(crate) watch::Receiver<State>);

impl StateWatch {
    /// The state now; the next [`Self::changed`] waits for another.
    pub fn current(&mut self) -> State {
        self.0.borrow_and_update().clone()
    }

    /// Waits for a state that this watch has not shown, and shows it. `None` after [`State::Closed`] was shown.
    ///
    /// # Cancel safety
    /// A dropped future loses nothing.
    pub async fn changed(&mut self) -> Option<State> {
        self.0.changed().await.ok()?;
        Some(self.current())
    }
}

/// Follows how much of a channel is unread. It shows the newest; what was in between may be missed.
#[derive(Debug, Clone)]
pub struct UnreadWatch(pub(crate) watch::Receiver<Option<Unread>>);

impl UnreadWatch {
    /// As it is now, the next [`Self::changed`] waits for something else. `None` while it is not known: before the node has told, and in a
    /// channel that keeps no history.
    pub fn current(&mut self) -> Option<Unread> {
        *self.0.borrow_and_update()
    }

    /// Waits for what this watch has not shown, and shows it. `None` once the client is closed.
    ///
    /// # Cancel safety
    /// A dropped future loses nothing.
    pub async fn changed(&mut self) -> Option<Unread> {
        loop {
            self.0.changed().await.ok()?;
            if let Some(unread) = self.current() {
                return Some(unread);
            }
        }
    }
}

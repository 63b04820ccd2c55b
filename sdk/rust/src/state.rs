//! The state of a client's connection, for applications that show it.

use std::sync::Arc;
use std::time::Duration;

use millrace_protocol::id::SessionId;
use tokio::sync::watch;

use crate::error::Error;

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

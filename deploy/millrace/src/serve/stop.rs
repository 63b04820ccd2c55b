//! What signals ask for: Ctrl-C or SIGTERM for a clean stop, a second one for the end at once; SIGHUP for a look at the files.

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Waits for the signal that asks a node to read its certificate's files again.
pub(crate) struct Reload {
    hangup: Option<Signal>,
}

impl Reload {
    /// Takes the signal over if the node has a certificate; otherwise a hang-up ends it, as it does any program.
    ///
    /// # Errors
    /// If the system refuses a handler.
    pub(crate) fn listen(has_certificate: bool) -> Result<Self> {
        let hangup = has_certificate.then(|| signal(SignalKind::hangup()));
        Ok(Self { hangup: hangup.transpose().context("listen for SIGHUP")? })
    }

    /// The next signal.
    pub(crate) async fn asked(&mut self) {
        if let Some(hangup) = &mut self.hangup
            && hangup.recv().await.is_some()
        {
            return;
        }
        std::future::pending().await
    }
}

/// Waits for the signals that end a node.
pub(crate) struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    /// Takes the signals over; call it inside the runtime, before anything is announced as ready.
    ///
    /// # Errors
    /// If the system refuses a handler.
    pub(crate) fn listen() -> Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).context("listen for Ctrl-C")?,
            terminate: signal(SignalKind::terminate()).context("listen for SIGTERM")?,
        })
    }

    /// The next signal.
    pub(crate) async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

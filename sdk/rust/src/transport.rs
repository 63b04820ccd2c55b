//! Connections to a node: what carries frames, and nothing of what they say. The engine does not know which kind it has.
//!
//! - `ws`: WebSocket, in the clear or on TLS;
//! - `tls`, `verify`: trust, the client's own certificate, and what a refusal means;
//! - `dial`: which way to a node is taken.

mod dial;
mod tls;
mod verify;
mod ws;

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use self::dial::Dialer;
pub(crate) use self::tls::{Certificates, Tls};
use crate::endpoint::Endpoint;
use crate::error::{Error, Source};

/// Written ahead: more waits in the engine, where it can still be taken back.
const OUT_BYTES_MAX: usize = 64 << 10;
/// How long the last frames may take to leave.
const LINGER: Duration = Duration::from_secs(2);

/// An open connection.
pub(crate) struct Connection(Kind);

enum Kind {
    WebSocket(Box<ws::Connection>),
}

/// What came.
pub(crate) enum Incoming<'a> {
    Frame(&'a [u8]),
    /// The node closes, or broke the protocol. Nothing follows.
    End(Error),
}

impl Connection {
    /// Whether more should be written ahead.
    pub(crate) fn wants_output(&self) -> bool {
        match &self.0 {
            Kind::WebSocket(connection) => connection.wants_output(),
        }
    }

    /// Queues one frame.
    pub(crate) fn push_frame(&mut self, frame: &[u8]) {
        match &mut self.0 {
            Kind::WebSocket(connection) => connection.push_frame(frame),
        }
    }

    /// Writes and reads until something was read, or there is room to write ahead again.
    ///
    /// # Cancel safety
    /// A dropped future loses nothing.
    pub(crate) async fn turn(&mut self) -> io::Result<()> {
        poll_fn(|cx| match &mut self.0 {
            Kind::WebSocket(connection) => connection.poll_turn(cx),
        })
        .await
    }

    /// Hands out what was read.
    pub(crate) fn take_in(&mut self, handle: impl FnMut(Incoming<'_>)) {
        match &mut self.0 {
            Kind::WebSocket(connection) => connection.take_in(handle),
        }
    }

    /// Sends what is queued and an end, and ends. Takes at most [`LINGER`].
    pub(crate) async fn close(self) {
        match self.0 {
            Kind::WebSocket(connection) => connection.close().await,
        }
    }
}

/// A server that is no node of this version.
#[derive(Debug, thiserror::Error)]
#[error("the server does not speak {}", millrace_protocol::client::SUBPROTOCOL)]
struct WrongProtocol;

fn fail(endpoint: &Endpoint, source: Source) -> Error {
    Error::Connect { endpoint: Arc::clone(&endpoint.url), source }
}

//! Connections to a node: what carries frames, and nothing of what they say. The engine does not know which kind it has.
//!
//! - `ws`: WebSocket, in the clear or on TLS;
//! - `quic`: QUIC, with a stream for each subscription;
//! - `tls`, `verify`: trust, the client's own certificate, and what a refusal means;
//! - `dial`: which way to a node is taken.

mod dial;
mod quic;
mod tls;
mod verify;
mod ws;

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

pub(crate) use self::dial::Dialer;
use self::dial::Fallback;
pub(crate) use self::tls::{Certificates, Tls};
pub use self::ws::Compression;
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
    Quic {
        connection: Box<quic::Connection>,
        /// Until the node has answered: the other way, which takes over if it is open before that.
        fallback: Option<Fallback>,
    },
}

/// What came.
pub(crate) enum Incoming<'a> {
    Frame(&'a [u8]),
    /// The node closes, or broke the protocol. Nothing follows.
    End(Error),
}

impl Connection {
    fn web_socket(connection: ws::Connection) -> Self {
        Self(Kind::WebSocket(Box::new(connection)))
    }

    fn quic(connection: quic::Connection) -> Self {
        Self(Kind::Quic { connection: Box::new(connection), fallback: None })
    }

    /// Whether more should be written ahead.
    pub(crate) fn wants_output(&self) -> bool {
        match &self.0 {
            Kind::WebSocket(connection) => connection.wants_output(),
            Kind::Quic { connection, .. } => connection.wants_output(),
        }
    }

    /// Queues one frame.
    pub(crate) fn push_frame(&mut self, frame: &[u8]) {
        match &mut self.0 {
            Kind::WebSocket(connection) => connection.push_frame(frame),
            Kind::Quic { connection, .. } => connection.push_frame(frame),
        }
    }

    /// Writes and reads until something was read, or there is room to write ahead again.
    ///
    /// # Cancel safety
    /// A dropped future loses nothing.
    pub(crate) async fn turn(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_turn(cx)).await
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_fallback(cx);
        match &mut self.0 {
            Kind::WebSocket(connection) => connection.poll_turn(cx),
            Kind::Quic { connection, fallback } => match connection.poll_turn(cx) {
                // The other way may still lead there.
                Poll::Ready(Ok(())) if connection.is_over() && fallback.is_some() => Poll::Pending,
                polled => polled,
            },
        }
    }

    /// Quic in early data => WebSocket: that is open first. What was sent is sent again.
    fn poll_fallback(&mut self, cx: &mut Context<'_>) {
        let Kind::Quic { connection, fallback: fallback @ Some(_) } = &mut self.0 else { return };
        if connection.is_established() {
            *fallback = None;
            return;
        }
        let Some(Poll::Ready(opened)) = fallback.as_mut().map(|fallback| fallback.as_mut().poll(cx)) else { return };
        *fallback = None;
        match opened {
            Ok(mut web_socket) => {
                connection.take_early().iter().for_each(|frame| web_socket.push_frame(frame));
                self.0 = Kind::WebSocket(Box::new(web_socket));
            }
            Err(error) => tracing::debug!(%error, "the other way to the node does not lead there"),
        }
    }

    /// Hands out what was read.
    pub(crate) fn take_in(&mut self, handle: impl FnMut(Incoming<'_>)) {
        match &mut self.0 {
            Kind::WebSocket(connection) => connection.take_in(handle),
            Kind::Quic { connection, .. } => connection.take_in(handle),
        }
    }

    /// Sends what is queued and an end, and ends. Takes at most [`LINGER`].
    pub(crate) async fn close(self) {
        match self.0 {
            Kind::WebSocket(connection) => connection.close().await,
            Kind::Quic { connection, .. } => connection.close().await,
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

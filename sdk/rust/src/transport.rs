//! One WebSocket connection: bytes both ways in turns, frames on top. It knows nothing of what the frames say.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use millrace_protocol::client::{SERVER_FRAME_BYTES_MAX, SUBPROTOCOL};
use millrace_protocol::ws::handshake::{ClientHandshake, ClientRequest};
use millrace_protocol::ws::{Decoder, Event, Limits, MaskKey, MessageKind, Opcode, Role, close, encode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use crate::endpoint::Endpoint;
use crate::error::Error;

/// Read at once.
const READ_BYTES: usize = 64 << 10;
/// Written ahead: more waits in the engine, where it can still be taken back.
const OUT_BYTES_MAX: usize = 64 << 10;
/// How long a close frame may take to leave.
const LINGER: Duration = Duration::from_secs(2);

/// An open connection.
pub(crate) struct Connection {
    stream: TcpStream,
    decoder: Decoder,
    input: Vec<u8>,
    /// Bytes of `input` that were read and not taken.
    input_len: usize,
    output: Vec<u8>,
    /// Bytes of `output` that are written.
    written: usize,
    masks: Masks,
}

/// What came.
pub(crate) enum Incoming<'a> {
    Frame(&'a [u8]),
    /// The node closes, or broke the protocol. Nothing follows.
    End(Error),
}

impl Connection {
    /// Opens a connection and upgrades it.
    pub(crate) async fn open(url: Arc<str>) -> Result<Self, Error> {
        let fail = |source: crate::error::Source| Error::Connect { endpoint: url.clone(), source };
        let endpoint: Endpoint = url.parse()?;
        let address = (endpoint.host.as_str(), endpoint.port);
        let mut stream = TcpStream::connect(address).await.map_err(|error| fail(Arc::new(error)))?;
        stream.set_nodelay(true).map_err(|error| fail(Arc::new(error)))?;
        let mut masks = Masks::new();
        let request = ClientRequest {
            host: &endpoint.authority,
            target: &endpoint.target,
            subprotocols: &[SUBPROTOCOL],
            nonce: masks.nonce(),
        };
        let (mut handshake, request) = ClientHandshake::new(&request).map_err(|error| fail(Arc::new(error)))?;
        stream.write_all(&request).await.map_err(|error| fail(Arc::new(error)))?;
        let mut input = vec![0; READ_BYTES];
        let (accepted, len) = loop {
            let len = stream.read(&mut input).await.map_err(|error| fail(Arc::new(error)))?;
            if len == 0 {
                return Err(fail(Arc::new(io::Error::from(io::ErrorKind::UnexpectedEof))));
            }
            if let Some(accepted) = handshake.feed(&input[..len]).map_err(|error| fail(Arc::new(error)))? {
                break (accepted, len);
            }
        };
        if accepted.subprotocol.as_deref() != Some(SUBPROTOCOL) {
            return Err(fail(Arc::new(WrongSubprotocol)));
        }
        input.copy_within(accepted.consumed..len, 0);
        let message_bytes_max = u32::try_from(SERVER_FRAME_BYTES_MAX).unwrap_or(u32::MAX);
        Ok(Self {
            stream,
            decoder: Decoder::new(Role::Client, Limits { message_bytes_max }),
            input,
            input_len: len - accepted.consumed,
            output: Vec::new(),
            written: 0,
            masks,
        })
    }

    /// Whether more should be written ahead.
    pub(crate) fn wants_output(&self) -> bool {
        self.output.len() - self.written < OUT_BYTES_MAX
    }

    /// Queues one frame.
    pub(crate) fn push_frame(&mut self, frame: &[u8]) {
        encode::frame(Opcode::Binary, frame, Some(self.masks.next()), &mut self.output);
    }

    /// Writes and reads until something was read, or there is room to write ahead again.
    ///
    /// # Cancel safety
    /// A dropped future loses nothing.
    pub(crate) async fn turn(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_turn(cx)).await
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.input_len > 0 {
            return Poll::Ready(Ok(()));
        }
        let was_full = !self.wants_output();
        while self.written < self.output.len() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.output[self.written..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(len)) => self.written += len,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => break,
            }
        }
        if self.written == self.output.len() {
            self.output.clear();
            self.written = 0;
        }
        let mut buffer = ReadBuf::new(&mut self.input);
        match Pin::new(&mut self.stream).poll_read(cx, &mut buffer)? {
            Poll::Ready(()) if buffer.filled().is_empty() => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            Poll::Ready(()) => {
                self.input_len = buffer.filled().len();
                Poll::Ready(Ok(()))
            }
            Poll::Pending if was_full && self.wants_output() => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Hands out what was read.
    pub(crate) fn take_in(&mut self, mut handle: impl FnMut(Incoming<'_>)) {
        let len = std::mem::take(&mut self.input_len);
        let mut feed = self.decoder.feed(&mut self.input[..len]);
        loop {
            match feed.next_event() {
                Ok(None) => return,
                Ok(Some(Event::Message { kind: MessageKind::Binary, payload })) => handle(Incoming::Frame(payload)),
                Ok(Some(Event::Message { kind: MessageKind::Text, .. })) => {
                    encode::close(Some(close::UNSUPPORTED_DATA), "", Some(self.masks.next()), &mut self.output);
                    return handle(Incoming::End(Error::Protocol(Arc::new(TextMessage))));
                }
                Ok(Some(Event::Ping(payload))) => {
                    // One that reads nothing and pings for ever gets no more answers than the output takes.
                    if self.output.len() - self.written < 2 * OUT_BYTES_MAX {
                        encode::frame(Opcode::Pong, payload, Some(self.masks.next()), &mut self.output);
                    }
                }
                Ok(Some(Event::Pong(_))) => {}
                Ok(Some(Event::Close { code, reason })) => {
                    let error = match code {
                        Some(code @ 4000..) => Error::refused(code, reason, 0),
                        Some(code) => Error::disconnected(format!("closed with {code} {reason}").trim_end()),
                        None => Error::disconnected("closed without a code"),
                    };
                    return handle(Incoming::End(error));
                }
                Err(error) => {
                    encode::close(Some(error.close_code()), "", Some(self.masks.next()), &mut self.output);
                    return handle(Incoming::End(Error::Protocol(Arc::new(error))));
                }
            }
        }
    }

    /// Sends what is queued and a close frame, and ends. Takes at most [`LINGER`].
    pub(crate) async fn close(mut self) {
        encode::close(Some(close::NORMAL), "", Some(self.masks.next()), &mut self.output);
        let end = async {
            self.stream.write_all(&self.output[self.written..]).await?;
            self.stream.shutdown().await?;
            // Unread bytes would turn the end into a reset, which may overtake the close frame.
            while self.stream.read(&mut self.input).await? > 0 {}
            Ok::<(), io::Error>(())
        };
        if let Ok(Err(error)) = tokio::time::timeout(LINGER, end).await {
            tracing::debug!(%error, "the connection ended before its close frame was answered");
        }
    }
}

/// A server that is no node of this version.
#[derive(Debug, thiserror::Error)]
#[error("the server does not speak {SUBPROTOCOL}")]
struct WrongSubprotocol;

#[derive(Debug, thiserror::Error)]
#[error("a text message, where every frame is binary")]
struct TextMessage;

/// Masking keys from the system's generator (RFC 6455 §5.3), drawn many at a time.
struct Masks {
    pool: Box<[u8; 1024]>,
    used: usize,
}

impl Masks {
    fn new() -> Self {
        Self { pool: Box::new([0; 1024]), used: 1024 }
    }

    fn next(&mut self) -> MaskKey {
        self.draw()
    }

    fn nonce(&mut self) -> [u8; 16] {
        self.draw()
    }

    fn draw<const N: usize>(&mut self) -> [u8; N] {
        if self.used + N > self.pool.len() {
            getrandom::fill(&mut *self.pool).expect("the system has random bytes");
            self.used = 0;
        }
        let mut drawn = [0; N];
        drawn.copy_from_slice(&self.pool[self.used..self.used + N]);
        self.used += N;
        drawn
    }
}

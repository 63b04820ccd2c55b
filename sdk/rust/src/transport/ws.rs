//! A WebSocket connection, in the clear or on TLS: bytes both ways in turns, frames on top.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use millrace_protocol::client::{SERVER_FRAME_BYTES_MAX, SUBPROTOCOL};
use millrace_protocol::ws::deflate::{Deflater, Inflater, Window};
use millrace_protocol::ws::handshake::{ClientHandshake, ClientRequest};
use millrace_protocol::ws::{Decoder, Event, Header, Limits, MaskKey, MessageKind, Opcode, Role, close, encode, mask};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::dial::first_address;
use super::tls::Tls;
use super::verify::Refusal;
use super::{Incoming, LINGER, OUT_BYTES_MAX, WrongProtocol, fail};
use crate::endpoint::{Endpoint, Scheme};
use crate::error::Error;

/// Read at once.
const READ_BYTES: usize = 64 << 10;
/// Smaller frames are sent as they are, as a node does.
const COMPRESSED_BYTES_MIN: usize = 1 << 10;

/// Whether messages over WebSocket are compressed (permessage-deflate), where the node agrees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// They are not. The default: a small message does not shrink, and nothing is to be learnt from a message's length but its length.
    #[default]
    Off,
    /// Those of 1 KiB and more are, each for itself, both ways. Takes 48 KiB for a connection and the largest message that came; 380 KiB
    /// more as soon as one is sent that is large enough.
    Offered,
}

/// An open connection.
pub(super) struct Connection {
    stream: Stream,
    decoder: Decoder,
    input: Vec<u8>,
    /// Bytes of `input` that were read and not taken.
    input_len: usize,
    output: Vec<u8>,
    /// Bytes of `output` that are written.
    written: usize,
    /// TLS has bytes that were written and did not leave.
    is_unflushed: bool,
    masks: Masks,
    /// If both sides agreed to it.
    compressor: Option<Box<Compressor>>,
}

/// Both ways of one connection.
#[derive(Default)]
struct Compressor {
    inflater: Inflater,
    /// Made when it is first needed: many clients only read.
    deflater: Option<Deflater>,
}

impl Connection {
    /// Opens a connection and upgrades it. No token is sent.
    pub(super) async fn open(endpoint: &Endpoint, tls: &Tls, compression: Compression) -> Result<Self, Error> {
        let fail = |source| fail(endpoint, source);
        let io = |error: io::Error| match Refusal::of_io(&endpoint.host, &error) {
            Some(refusal) => fail(Arc::new(refusal)),
            None => fail(Arc::new(error)),
        };
        let stream = first_address(endpoint, None, TcpStream::connect).await.map_err(io)?;
        stream.set_nodelay(true).map_err(io)?;
        let mut stream = if endpoint.scheme == Scheme::Wss {
            let name = ServerName::try_from(endpoint.host.clone()).map_err(|error| fail(Arc::new(error)))?;
            let config = tls.web_socket().await.map_err(|error| fail(Arc::new(error)))?;
            Stream::Tls(Box::new(TlsConnector::from(config).connect(name, stream).await.map_err(io)?))
        } else {
            Stream::Tcp(stream)
        };
        let mut masks = Masks::new();
        let request = ClientRequest {
            host: &endpoint.authority,
            target: &endpoint.target,
            subprotocols: &[SUBPROTOCOL],
            nonce: masks.nonce(),
        };
        let begun = match compression {
            Compression::Off => ClientHandshake::new(&request),
            Compression::Offered => ClientHandshake::offering_deflate(&request),
        };
        let (mut handshake, request) = begun.map_err(|error| fail(Arc::new(error)))?;
        stream.write_all(&request).await.map_err(io)?;
        stream.flush().await.map_err(io)?;
        let mut input = vec![0; READ_BYTES];
        let (accepted, len) = loop {
            let len = stream.read(&mut input).await.map_err(io)?;
            if len == 0 {
                return Err(fail(Arc::new(io::Error::from(io::ErrorKind::UnexpectedEof))));
            }
            if let Some(accepted) = handshake.feed(&input[..len]).map_err(|error| fail(Arc::new(error)))? {
                break (accepted, len);
            }
        };
        if accepted.subprotocol.as_deref() != Some(SUBPROTOCOL) {
            return Err(fail(Arc::new(WrongProtocol)));
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
            is_unflushed: false,
            masks,
            compressor: accepted.deflate.then(Box::default),
        })
    }

    /// Whether more should be written ahead.
    pub(super) fn wants_output(&self) -> bool {
        self.output.len() - self.written < OUT_BYTES_MAX
    }

    /// Queues one frame.
    pub(super) fn push_frame(&mut self, frame: &[u8]) {
        let key = self.masks.next();
        let compressor = self.compressor.as_mut().filter(|_| frame.len() >= COMPRESSED_BYTES_MIN);
        let shorter = compressor.and_then(|compressor| {
            compressor.deflater.get_or_insert_with(|| Deflater::new(Window::Large)).deflate(frame)
        });
        let Some(shorter) = shorter else {
            return encode::frame(Opcode::Binary, frame, Some(key), &mut self.output);
        };
        let header = Header { compressed: true, ..Header::whole(Opcode::Binary, shorter.len(), Some(key)) };
        self.output.extend_from_slice(&header.encode());
        let start = self.output.len();
        self.output.extend_from_slice(shorter);
        mask(&mut self.output[start..], key, 0);
    }

    /// See [`super::Connection::turn`].
    pub(super) fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.input_len > 0 {
            return Poll::Ready(Ok(()));
        }
        let was_full = !self.wants_output();
        while self.written < self.output.len() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.output[self.written..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(len)) => {
                    self.written += len;
                    self.is_unflushed = true;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => break,
            }
        }
        if self.written == self.output.len() {
            self.output.clear();
            self.written = 0;
        }
        if self.is_unflushed && Pin::new(&mut self.stream).poll_flush(cx)?.is_ready() {
            self.is_unflushed = false;
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
    pub(super) fn take_in(&mut self, mut handle: impl FnMut(Incoming<'_>)) {
        let len = std::mem::take(&mut self.input_len);
        let input = &mut self.input[..len];
        let mut feed = match &mut self.compressor {
            Some(compressor) => self.decoder.feed_deflated(input, &mut compressor.inflater),
            None => self.decoder.feed(input),
        };
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
    pub(super) async fn close(mut self) {
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

/// What carries the bytes.
enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

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

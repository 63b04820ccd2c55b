//! A QUIC connection: the control stream both ways, a stream of the node for each subscription, and a socket that is replaced when
//! the way to the node has changed.
//!
//! - `demux`: which frames of the streams come next;
//! - `path`: when to take another socket.

mod demux;
mod path;

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use millrace_protocol::client::{ClientBody, SUBPROTOCOL, ServerBody, decode_client, decode_server};
use quinn::crypto::rustls::HandshakeData;
use quinn::{ConnectionError, ReadError, RecvStream, SendStream, VarInt, WriteError};
use tokio::time::{Interval, MissedTickBehavior};

use self::demux::{CONTROL, Demux, Key};
use self::path::{LOOK_EVERY, PathWatch, Sample};
use super::dial::first_address;
use super::tls::Tls;
use super::verify::Refusal;
use super::{Incoming, LINGER, OUT_BYTES_MAX, WrongProtocol, fail};
use crate::endpoint::Endpoint;
use crate::error::Error;

/// Taken from one stream before the others have their turn.
const CHUNK_BYTES: usize = 16 << 10;
/// Taken from all streams in one turn.
const TURN_CHUNKS: usize = 64;
/// What a stream may send before it is read: as much as a node queues for a session.
const STREAM_WINDOW: u32 = 256 << 10;
/// The same for all streams together, of which some may wait for others.
const WINDOW: u32 = 4 << 20;
/// Streams that the node may open at first, and in the end: memory is set aside for each.
const STREAMS: u32 = 256;
const STREAMS_MAX: u32 = 4_096;
/// Routers forget a silent UDP flow after as little as 30 seconds.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// A node may have less.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// The client's own end.
const NORMAL: VarInt = VarInt::from_u32(0);
/// From here on, numbers are codes of the protocol.
const CODE_MIN: u64 = 4_000;

/// An open connection. Before the handshake is complete, what is pushed leaves as early data.
pub(super) struct Connection {
    url: Endpoint,
    endpoint: quinn::Endpoint,
    connection: quinn::Connection,
    control: SendStream,
    output: Vec<u8>,
    /// Bytes of `output` that are written.
    written: usize,
    early: Option<Early>,
    demux: Demux,
    /// One for each stream that is being read.
    reads: FuturesUnordered<BoxFuture<'static, Read>>,
    /// Streams that must wait for others.
    waiting: HashMap<Key, RecvStream>,
    streams_max: u32,
    accepted: BoxFuture<'static, Result<RecvStream, ConnectionError>>,
    datagram: BoxFuture<'static, Result<Bytes, ConnectionError>>,
    /// Read and not taken.
    ready: VecDeque<Ready>,
    ended: Option<ConnectionError>,
    path: PathWatch,
    look: Interval,
}

/// Until it is known whether the node takes early data.
struct Early {
    accepted: quinn::ZeroRttAccepted,
    /// All that was sent so far.
    frames: Vec<Vec<u8>>,
    /// It did not: the control stream is made anew.
    again: Option<BoxFuture<'static, Result<(SendStream, RecvStream), ConnectionError>>>,
}

struct Read {
    key: Key,
    stream: RecvStream,
    result: Result<Option<Bytes>, ReadError>,
}

enum Ready {
    Read(Read),
    Datagram(Bytes),
}

/// Why no connection was opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    #[error("this cannot be connected to")]
    Connect(#[from] quinn::ConnectError),
    #[error("the connection ended before it began")]
    Connection(#[from] ConnectionError),
    #[error(transparent)]
    Protocol(#[from] WrongProtocol),
}

/// What a client offers and takes.
pub(super) fn transport_config() -> quinn::TransportConfig {
    let mut config = quinn::TransportConfig::default();
    config
        .max_concurrent_bidi_streams(0_u32.into())
        .max_concurrent_uni_streams(STREAMS.into())
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(WINDOW.into())
        // More waits in the engine, where it can still be taken back.
        .send_window(4 * OUT_BYTES_MAX as u64)
        .datagram_receive_buffer_size(Some(CHUNK_BYTES))
        .datagram_send_buffer_size(CHUNK_BYTES)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(quinn::IdleTimeout::try_from(IDLE_MAX).ok());
    config
}

impl Connection {
    /// Opens a connection, and its control stream. No token is sent.
    ///
    /// With `known`, an address that worked, and a ticket from there, the connection is ready at once and what is sent leaves
    /// as early data: [`Self::is_established`] says when the node has answered.
    pub(super) async fn open(endpoint: &Endpoint, tls: &Tls, known: Option<SocketAddr>) -> Result<Self, Error> {
        let opened = Self::try_open(endpoint, tls, known).await;
        opened.map_err(|error| match error {
            OpenError::Connection(error) => {
                explain(endpoint, &error).unwrap_or_else(|| fail(endpoint, Arc::new(error)))
            }
            OpenError::Io(error) => fail(endpoint, Arc::new(error)),
            error => fail(endpoint, Arc::new(error)),
        })
    }

    async fn try_open(endpoint: &Endpoint, tls: &Tls, known: Option<SocketAddr>) -> Result<Self, OpenError> {
        let config = tls.quic().await?;
        let (socket, connection, accepted) = first_address(endpoint, known, |address| {
            let config = config.clone();
            async move { connect(endpoint, config, address, known == Some(address)).await }
        })
        .await?;
        let (control, answers) = connection.open_bi().await?;
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let early = accepted.map(|accepted| Early { accepted, frames: Vec::new(), again: None });
        let this = Self {
            path: PathWatch::new(sample(&connection)),
            url: endpoint.clone(),
            endpoint: socket,
            control,
            output: Vec::new(),
            written: 0,
            early,
            demux: Demux::new(),
            reads: FuturesUnordered::new(),
            waiting: HashMap::new(),
            streams_max: STREAMS,
            accepted: accept(&connection),
            datagram: datagram(&connection),
            ready: VecDeque::new(),
            ended: None,
            look,
            connection,
        };
        this.read(CONTROL, answers);
        Ok(this)
    }

    /// Whether the node has answered: a connection with early data is open before.
    pub(super) fn is_established(&self) -> bool {
        self.early.is_none()
    }

    /// Whether it ended.
    pub(super) fn is_over(&self) -> bool {
        self.ended.is_some()
    }

    /// Where the node is.
    pub(super) fn remote_address(&self) -> SocketAddr {
        self.connection.remote_address()
    }

    /// Gives the connection up before the node has answered: what was sent so far is for another one.
    pub(super) fn take_early(&mut self) -> Vec<Vec<u8>> {
        self.connection.close(NORMAL, b"");
        self.early.take().map(|early| early.frames).unwrap_or_default()
    }

    /// Whether more should be written ahead.
    pub(super) fn wants_output(&self) -> bool {
        self.output.len() - self.written < OUT_BYTES_MAX
    }

    /// Queues one frame.
    pub(super) fn push_frame(&mut self, frame: &[u8]) {
        // A ping is answered by its acknowledgement.
        if decode_client(frame).is_ok_and(|frame| matches!(frame.body, ClientBody::Pong)) {
            return;
        }
        self.output.extend_from_slice(frame);
        if let Some(early) = &mut self.early {
            early.frames.push(frame.to_vec());
        }
    }

    /// See [`super::Connection::turn`].
    pub(super) fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.ready.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let was_full = !self.wants_output();
        self.poll_early(cx);
        self.poll_write(cx);
        self.poll_accept(cx);
        while self.ready.len() < TURN_CHUNKS {
            match self.reads.poll_next_unpin(cx) {
                Poll::Ready(Some(read)) => self.ready.push_back(Ready::Read(read)),
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        while self.ready.len() < TURN_CHUNKS {
            match self.datagram.as_mut().poll(cx) {
                Poll::Ready(Ok(bytes)) => {
                    self.ready.push_back(Ready::Datagram(bytes));
                    self.datagram = datagram(&self.connection);
                }
                Poll::Ready(Err(error)) => {
                    self.ended.get_or_insert(error);
                    self.datagram = Box::pin(std::future::pending());
                }
                Poll::Pending => break,
            }
        }
        while self.look.poll_tick(cx).is_ready() {
            self.look_at_path();
        }
        let is_over = self.ended.is_some() && self.reads.is_empty();
        if is_over || !self.ready.is_empty() || was_full && self.wants_output() {
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }

    /// Hands out what was read.
    pub(super) fn take_in(&mut self, mut handle: impl FnMut(Incoming<'_>)) {
        while let Some(ready) = self.ready.pop_front() {
            let result = match ready {
                Ready::Read(read) => self.take_read(read, &mut |frame: &[u8]| handle(Incoming::Frame(frame))),
                Ready::Datagram(bytes) => {
                    // Anything else is ignored, as the protocol says.
                    if decode_server(&bytes).is_ok_and(|frame| matches!(frame.body, ServerBody::Ping)) {
                        handle(Incoming::Frame(&bytes));
                    }
                    Ok(())
                }
            };
            if let Err(error) = result {
                return handle(Incoming::End(error));
            }
        }
        if let Some(error) = self.ended.as_ref().filter(|_| self.reads.is_empty()) {
            handle(Incoming::End(end(&self.url, error)));
        }
    }

    fn take_read(&mut self, read: Read, handle: &mut impl FnMut(&[u8])) -> Result<(), Error> {
        let Read { key, stream, result } = read;
        match result {
            Ok(Some(bytes)) => {
                self.demux.feed(key, bytes, handle)?;
                if self.demux.may_read(key) {
                    self.read(key, stream);
                } else {
                    self.waiting.insert(key, stream);
                }
            }
            Ok(None) => self.demux.finish(key, handle)?,
            Err(ReadError::Reset(code)) => {
                return Err(Error::disconnected(format!("the node cut a stream off with {code}")));
            }
            // The connection's own end says why; the control stream is made anew.
            Err(ReadError::ConnectionLost(_) | ReadError::ZeroRttRejected) => {}
            Err(error @ (ReadError::ClosedStream | ReadError::IllegalOrderedRead)) => {
                return Err(Error::Protocol(Arc::new(error)));
            }
        }
        while let Some(key) = self.demux.poll_released() {
            if let Some(stream) = self.waiting.remove(&key).filter(|_| self.demux.may_read(key)) {
                self.read(key, stream);
            }
        }
        Ok(())
    }

    /// Asks for a stream's next bytes.
    fn read(&self, key: Key, mut stream: RecvStream) {
        self.reads.push(Box::pin(async move {
            let result = stream.read_chunk(CHUNK_BYTES, true).await;
            Read { key, stream, result: result.map(|chunk| chunk.map(|chunk| chunk.bytes)) }
        }));
    }

    fn poll_early(&mut self, cx: &mut Context<'_>) {
        let Some(early) = &mut self.early else { return };
        if early.again.is_none() {
            match Pin::new(&mut early.accepted).poll(cx) {
                Poll::Ready(true) => {
                    self.early = None;
                    return;
                }
                // Or the connection failed, which ends it.
                Poll::Ready(false) => {
                    let connection = self.connection.clone();
                    early.again = Some(Box::pin(async move { connection.open_bi().await }));
                }
                Poll::Pending => return,
            }
        }
        let Some(again) = &mut early.again else { return };
        match again.as_mut().poll(cx) {
            Poll::Ready(Ok((control, answers))) => {
                self.output.clear();
                self.written = 0;
                early.frames.iter().for_each(|frame| self.output.extend_from_slice(frame));
                self.control = control;
                self.early = None;
                // The old stream has the same number: dropped later, it would take the new one's waker with it.
                self.reads.clear();
                self.ready.clear();
                self.read(CONTROL, answers);
            }
            Poll::Ready(Err(error)) => {
                early.again = Some(Box::pin(std::future::pending()));
                self.ended.get_or_insert(error);
            }
            Poll::Pending => {}
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) {
        while self.written < self.output.len() {
            match Pin::new(&mut self.control).poll_write(cx, &self.output[self.written..]) {
                Poll::Ready(Ok(len)) => self.written += len,
                Poll::Ready(Err(WriteError::ConnectionLost(error))) => {
                    self.ended.get_or_insert(error);
                    return;
                }
                // The end of the connection is on its way, or the stream is made anew.
                Poll::Ready(Err(_)) | Poll::Pending => return,
            }
        }
        self.output.clear();
        self.written = 0;
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(accepted) = self.accepted.as_mut().poll(cx) {
            match accepted {
                Ok(stream) => {
                    let key = self.demux.open();
                    if self.demux.may_read(key) {
                        self.read(key, stream);
                    } else {
                        self.waiting.insert(key, stream);
                    }
                    let open = u32::try_from(self.demux.open_streams()).unwrap_or(u32::MAX);
                    if open > self.streams_max / 2 && self.streams_max < STREAMS_MAX {
                        self.streams_max *= 2;
                        self.connection.set_max_concurrent_uni_streams(self.streams_max.into());
                    }
                    self.accepted = accept(&self.connection);
                }
                Err(error) => {
                    self.ended.get_or_insert(error);
                    self.accepted = Box::pin(std::future::pending());
                }
            }
        }
    }

    /// Takes another socket, if the way to the node has changed or is dead. The connection goes on there.
    fn look_at_path(&mut self) {
        if !self.is_established() || self.is_over() {
            return;
        }
        let now = tokio::time::Instant::now().into_std();
        let Some(reason) = self.path.look(now, sample(&self.connection)) else { return };
        match bind(self.connection.remote_address()).and_then(|socket| self.endpoint.rebind(socket)) {
            Ok(()) => tracing::debug!(?reason, "the connection moved to another socket"),
            Err(error) => tracing::debug!(?reason, %error, "no other socket"),
        }
    }

    /// Sends what is queued and an end, and ends. Takes at most [`LINGER`].
    pub(super) async fn close(mut self) {
        let connection = self.connection.clone();
        if connection.close_reason().is_none() && tokio::time::timeout(LINGER, self.flush()).await.is_err() {
            tracing::debug!("the connection ended before all that was sent was acknowledged");
        }
        connection.close(NORMAL, b"");
    }

    async fn flush(&mut self) {
        poll_fn(|cx| {
            self.poll_early(cx);
            self.poll_write(cx);
            let is_done = self.output.is_empty() && self.is_established() || self.is_over();
            if is_done { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        if self.control.finish().is_ok() {
            // The node has all of it, or is gone.
            let _ = self.control.stopped().await;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // A node need not wait for what will not come.
        self.connection.close(NORMAL, b"");
    }
}

type Opened = (quinn::Endpoint, quinn::Connection, Option<quinn::ZeroRttAccepted>);

async fn connect(
    endpoint: &Endpoint,
    config: quinn::ClientConfig,
    address: SocketAddr,
    takes_early: bool,
) -> Result<Opened, OpenError> {
    let runtime = Arc::new(quinn::TokioRuntime);
    let socket = quinn::Endpoint::new(quinn::EndpointConfig::default(), None, bind(address)?, runtime)?;
    let connecting = socket.connect_with(config, address, &endpoint.host)?;
    let connecting = if takes_early {
        match connecting.into_0rtt() {
            Ok((connection, accepted)) => return Ok((socket, connection, Some(accepted))),
            Err(connecting) => connecting,
        }
    } else {
        connecting
    };
    let connection = connecting.await?;
    let data = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
    if data.and_then(|data| data.protocol).as_deref() != Some(SUBPROTOCOL.as_bytes()) {
        connection.close(NORMAL, b"");
        return Err(WrongProtocol.into());
    }
    Ok((socket, connection, None))
}

/// A socket towards an address; the system picks its own address anew for each packet.
fn bind(remote: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if remote.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    UdpSocket::bind((any, 0))
}

/// The address that this machine would send from; nothing is sent.
fn local_address(remote: SocketAddr) -> Option<IpAddr> {
    let socket = bind(remote).ok()?;
    socket.connect(remote).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

fn sample(connection: &quinn::Connection) -> Sample {
    let stats = connection.stats();
    let sent = &stats.frame_tx;
    let elicited = [
        sent.ping,
        sent.immediate_ack,
        sent.stream,
        sent.datagram,
        sent.crypto,
        sent.new_connection_id,
        sent.retire_connection_id,
        sent.path_challenge,
        sent.path_response,
        sent.max_data,
        sent.max_stream_data,
        sent.max_streams_uni,
        sent.max_streams_bidi,
        sent.data_blocked,
        sent.stream_data_blocked,
        sent.stop_sending,
    ];
    Sample {
        local: local_address(connection.remote_address()),
        received: stats.udp_rx.datagrams,
        elicited: elicited.iter().sum(),
        rtt: stats.path.rtt,
    }
}

fn accept(connection: &quinn::Connection) -> BoxFuture<'static, Result<RecvStream, ConnectionError>> {
    let connection = connection.clone();
    Box::pin(async move { connection.accept_uni().await })
}

fn datagram(connection: &quinn::Connection) -> BoxFuture<'static, Result<Bytes, ConnectionError>> {
    let connection = connection.clone();
    Box::pin(async move { connection.read_datagram().await })
}

/// What the end of a connection means.
fn end(url: &Endpoint, error: &ConnectionError) -> Error {
    if let Some(error) = explain(url, error) {
        return error;
    }
    match error {
        ConnectionError::ApplicationClosed(close) => Error::disconnected(format!("closed with {close}")),
        ConnectionError::TimedOut => Error::disconnected("nothing came from the node any more"),
        ConnectionError::Reset => Error::disconnected("the node knows nothing of the connection"),
        error => Error::disconnected(error.to_string()),
    }
}

/// An end that means more than that the connection is gone: the node's own word, or a fault of TLS.
fn explain(url: &Endpoint, error: &ConnectionError) -> Option<Error> {
    let refusal = match error {
        ConnectionError::ApplicationClosed(close) => {
            let code = u16::try_from(close.error_code.into_inner()).ok().filter(|&code| u64::from(code) >= CODE_MIN)?;
            return Some(Error::refused(code, &String::from_utf8_lossy(&close.reason), 0));
        }
        ConnectionError::ConnectionClosed(close) => Refusal::of_quic_code(&url.host, close.error_code.into())?,
        ConnectionError::TransportError(error) => Refusal::of_quic(&url.host, &error.reason, error.code.into())?,
        _ => return None,
    };
    Some(fail(url, Arc::new(refusal)))
}

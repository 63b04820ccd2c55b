//! QUIC for all clients of a fleet: one endpoint of `quinn-proto` and a few sockets that thousands of connections share. No task and no
//! socket for each: a client costs its connection's state, and a turn what came.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use millrace_protocol::stream::FrameReader;
use quinn_proto::{
    ClientConfig, Connection, ConnectionError, ConnectionHandle, DatagramEvent, Dir, Endpoint, EndpointConfig, Event,
    IdleTimeout, ReadError, StreamEvent, StreamId, TransportConfig, VarInt, WriteError,
};

use super::timers::Timers;
use super::udp::{self, Landing, Port};
use super::{Got, Options, Sent};
use crate::transport::Trust;

/// Datagrams of one connection in one send, where the system can cut them apart.
const SEGMENTS_MAX: usize = 10;
/// Batches of datagrams taken from one socket before the others have their turn.
const BATCHES_MAX: usize = 8;
/// The largest frame of a server.
const FRAME_BYTES_MAX: usize = 16 << 20;
/// What a stream may hold that is not read: more than any subject sends at once.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// Longer than any heartbeat.
const IDLE_TIMEOUT: Duration = Duration::from_secs(180);
/// The longest that a peer keeps an acknowledgement back, and a little.
pub(super) const ACKNOWLEDGED_AFTER: Duration = Duration::from_millis(50);

/// One connection.
struct Link {
    inner: Connection,
    /// Whose it is; `None` once that is closed.
    client: Option<usize>,
    port: usize,
    control: Option<StreamId>,
    readers: Vec<(StreamId, FrameReader)>,
    reads: bool,
    armed: Option<Instant>,
    stirred: bool,
    sending: bool,
}

/// What came of a connection.
pub(super) enum Told {
    /// It is open.
    Connected,
    /// A frame of the server.
    Frame,
    Ended(Got),
}

/// The endpoint with its sockets and connections.
pub(super) struct Quic {
    endpoint: Endpoint,
    trust: Trust,
    name: String,
    /// By what differs between clients: streams of the server, and the window.
    configs: HashMap<(u32, u32), ClientConfig>,
    pub(super) ports: Vec<Port>,
    landing: Landing,
    links: Vec<Option<Box<Link>>>,
    opened: usize,
    timers: Timers,
    due: Vec<u32>,
    /// Connections that may have something to tell.
    stirred: VecDeque<u32>,
    /// Connections that may have something to send.
    sending: VecDeque<u32>,
    scratch: Vec<u8>,
    /// Something waits for a socket.
    blocked: bool,
}

impl Quic {
    pub(super) fn new(server: SocketAddr, trust: Trust) -> Result<Self> {
        let now = Instant::now();
        Ok(Self {
            endpoint: Endpoint::new(Arc::new(EndpointConfig::default()), None, false, None),
            name: trust.name.to_str().into_owned(),
            trust,
            configs: HashMap::new(),
            ports: udp::bind(server).context("bind sockets for QUIC")?,
            landing: Landing::new(),
            links: Vec::new(),
            opened: 0,
            timers: Timers::new(now),
            due: Vec::new(),
            stirred: VecDeque::new(),
            sending: VecDeque::new(),
            scratch: Vec::new(),
            blocked: false,
        })
    }

    /// Begins to connect; the server may have so many streams open at a time.
    pub(super) fn connect(
        &mut self,
        server: SocketAddr,
        client: usize,
        streams: u32,
        options: Options,
    ) -> Result<ConnectionHandle> {
        let window = options.receive_bytes.and_then(|bytes| u32::try_from(bytes).ok()).unwrap_or(STREAM_WINDOW_BYTES);
        let trust = &self.trust;
        let config = self.configs.entry((streams, window)).or_insert_with(|| {
            let mut config = ClientConfig::new(trust.quic.clone());
            config.transport_config(Arc::new(transport(streams, window)));
            config
        });
        let now = Instant::now();
        let (handle, inner) = self.endpoint.connect(now, config.clone(), server, &self.name).context("connect")?;
        if self.links.len() <= handle.0 {
            self.links.resize_with(handle.0 + 1, || None);
        }
        let port = self.opened % self.ports.len();
        self.opened += 1;
        self.links[handle.0] = Some(Box::new(Link {
            inner,
            client: Some(client),
            port,
            control: None,
            readers: Vec::new(),
            reads: true,
            armed: None,
            stirred: false,
            sending: false,
        }));
        self.touch(handle);
        Ok(handle)
    }

    fn link(&mut self, handle: ConnectionHandle) -> Option<&mut Link> {
        self.links.get_mut(handle.0)?.as_deref_mut()
    }

    /// It may have something to tell, or to send.
    fn touch(&mut self, handle: ConnectionHandle) {
        let index = index(handle);
        let Some(Some(link)) = self.links.get_mut(handle.0) else { return };
        if !std::mem::replace(&mut link.stirred, true) {
            self.stirred.push_back(index);
        }
        if !std::mem::replace(&mut link.sending, true) {
            self.sending.push_back(index);
        }
    }

    /// Says goodbye, which is sent with the rest of the turn; nothing of the connection is told any more.
    pub(super) fn close(&mut self, handle: ConnectionHandle) {
        let Some(link) = self.link(handle) else { return };
        link.client = None;
        link.inner.close(Instant::now(), VarInt::from_u32(0), Bytes::new());
        self.touch(handle);
    }

    /// Stops or resumes taking what comes; what is not taken fills the windows.
    pub(super) fn set_reading(&mut self, handle: ConnectionHandle, reads: bool) -> Vec<StreamId> {
        let Some(link) = self.link(handle) else { return Vec::new() };
        link.reads = reads;
        if reads { link.readers.iter().map(|(id, _)| *id).collect() } else { Vec::new() }
    }

    /// Takes what has come to a socket.
    pub(super) fn receive(&mut self, port: usize) {
        let now = Instant::now();
        let Self { endpoint, links, ports, landing, scratch, stirred, sending, .. } = self;
        for _ in 0..BATCHES_MAX {
            let more = ports[port].receive(landing, |from, ecn, data| {
                scratch.clear();
                // There is nothing to answer to what belongs to nobody: only a client is here.
                let Some(DatagramEvent::ConnectionEvent(handle, event)) =
                    endpoint.handle(now, from, None, ecn, data, scratch)
                else {
                    return;
                };
                let Some(Some(link)) = links.get_mut(handle.0) else { return };
                link.inner.handle_event(event);
                if !std::mem::replace(&mut link.stirred, true) {
                    stirred.push_back(index(handle));
                }
                if !std::mem::replace(&mut link.sending, true) {
                    sending.push_back(index(handle));
                }
            });
            if !more {
                return;
            }
        }
    }

    /// When timers have to be looked at, if that is before this.
    pub(super) fn next_before(&self, until: Instant) -> Option<Instant> {
        self.timers.next_before(until)
    }

    /// Looks at the timers that are due.
    pub(super) fn handle_timeouts(&mut self, now: Instant) {
        let mut due = std::mem::take(&mut self.due);
        self.timers.advance(now, &mut due);
        for place in due.drain(..) {
            let Some(Some(link)) = self.links.get_mut(place as usize) else { continue };
            if link.armed.is_none_or(|armed| armed > now) {
                continue;
            }
            link.armed = None;
            if link.inner.poll_timeout().is_some_and(|at| at <= now) {
                link.inner.handle_timeout(now);
            }
            self.touch(ConnectionHandle(place as usize));
        }
        self.due = due;
    }

    /// The next connection that may have something to tell, and whose it is; `None` for one that is closed.
    pub(super) fn poll_stirred(&mut self) -> Option<(ConnectionHandle, Option<usize>)> {
        let place = self.stirred.pop_front()? as usize;
        let handle = ConnectionHandle(place);
        let Some(link) = self.link(handle) else { return self.poll_stirred() };
        link.stirred = false;
        Some((handle, link.client))
    }

    /// Takes what a connection has to tell; `told` gets each frame.
    ///
    /// # Errors
    /// When a stream holds no frames, and from `told`.
    pub(super) fn hear(
        &mut self,
        handle: ConnectionHandle,
        mut told: impl FnMut(Told, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let Some(link) = self.links.get_mut(handle.0).and_then(Option::as_deref_mut) else { return Ok(()) };
        let mut acknowledges = false;
        while let Some(event) = link.inner.poll() {
            if link.client.is_none() {
                continue;
            }
            match event {
                Event::Connected => {
                    link.control = link.inner.streams().open(Dir::Bi);
                    link.readers.extend(link.control.map(|id| (id, FrameReader::new())));
                    told(Told::Connected, &[])?;
                }
                Event::Stream(StreamEvent::Opened { dir: Dir::Uni }) => {
                    while let Some(id) = link.inner.streams().accept(Dir::Uni) {
                        link.readers.push((id, FrameReader::new()));
                        acknowledges |= link.read(id, &mut told)?;
                    }
                }
                Event::Stream(StreamEvent::Readable { id }) => acknowledges |= link.read(id, &mut told)?,
                Event::DatagramReceived => {
                    while let Some(datagram) = link.inner.datagrams().recv() {
                        told(Told::Frame, &datagram)?;
                    }
                }
                Event::ConnectionLost { reason } => {
                    link.client = None;
                    told(Told::Ended(ended(&reason)), &[])?;
                }
                Event::Stream(StreamEvent::Stopped { id, .. }) if Some(id) == link.control => {
                    let reason = "the control stream was stopped".to_owned();
                    told(Told::Ended(Got::Closed { code: None, reason }), &[])?;
                }
                Event::HandshakeDataReady | Event::Stream(_) | Event::DatagramsUnblocked => {}
            }
        }
        if acknowledges {
            self.touch(handle);
        }
        self.settle(handle);
        Ok(())
    }

    /// Reads a stream that was not read for a while.
    ///
    /// # Errors
    /// As [`hear`](Self::hear).
    pub(super) fn read(
        &mut self,
        handle: ConnectionHandle,
        id: StreamId,
        mut told: impl FnMut(Told, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let Some(link) = self.link(handle) else { return Ok(()) };
        link.read(id, &mut told)?;
        self.touch(handle);
        Ok(())
    }

    /// What the connection and the endpoint have to tell each other.
    fn settle(&mut self, handle: ConnectionHandle) {
        while let Some(link) = self.links.get_mut(handle.0).and_then(Option::as_deref_mut) {
            let Some(event) = link.inner.poll_endpoint_events() else { return };
            let is_drained = event.is_drained();
            if let Some(answer) = self.endpoint.handle_event(handle, event) {
                link.inner.handle_event(answer);
            }
            if is_drained {
                self.links[handle.0] = None;
            }
        }
    }

    /// Writes to the control stream; how much of it was taken.
    pub(super) fn write(&mut self, handle: ConnectionHandle, bytes: &[u8]) -> Result<(usize, Sent)> {
        let Some(link) = self.link(handle) else { return Ok((bytes.len(), Sent::All)) };
        let Some(control) = link.control else { return Ok((0, Sent::All)) };
        let mut written = 0;
        let sent = loop {
            if written == bytes.len() {
                break Sent::All;
            }
            match link.inner.send_stream(control).write(&bytes[written..]) {
                Ok(count) => written += count,
                Err(WriteError::Blocked) => break Sent::Later,
                // Why it ended is told with the connection's events.
                Err(WriteError::Stopped(_) | WriteError::ClosedStream) => {
                    written = bytes.len();
                    break Sent::All;
                }
            }
        };
        self.touch(handle);
        Ok((written, sent))
    }

    /// Sends what there is to send.
    pub(super) fn transmit(&mut self) {
        let now = Instant::now();
        self.blocked = false;
        for _ in 0..self.sending.len() {
            let Some(place) = self.sending.pop_front() else { break };
            let handle = ConnectionHandle(place as usize);
            let Some(Some(link)) = self.links.get_mut(handle.0) else { continue };
            let port = &mut self.ports[link.port];
            loop {
                if port.is_blocked() {
                    self.sending.push_back(place);
                    self.blocked = true;
                    break;
                }
                self.scratch.clear();
                let Some(transmit) = link.inner.poll_transmit(now, SEGMENTS_MAX, &mut self.scratch) else {
                    link.sending = false;
                    break;
                };
                port.send(transmit, &self.scratch);
            }
            if let Some(due) = link.inner.poll_timeout()
                && link.armed.is_none_or(|armed| due < armed)
            {
                link.armed = Some(self.timers.insert(due, place));
            }
            self.settle(handle);
        }
    }

    /// Whether something waits for a socket.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked
    }
}

impl Link {
    /// Takes all that a stream has; whether the server has to be told of the room that this made.
    fn read(&mut self, id: StreamId, told: &mut impl FnMut(Told, &[u8]) -> Result<()>) -> Result<bool> {
        if !self.reads {
            return Ok(false);
        }
        let Some(place) = self.readers.iter().position(|(of, _)| *of == id) else { return Ok(false) };
        let mut stream = self.inner.recv_stream(id);
        let Ok(mut chunks) = stream.read(true) else { return Ok(false) };
        let reader = &mut self.readers[place].1;
        let is_over = loop {
            match chunks.next(usize::MAX) {
                Ok(Some(chunk)) => {
                    reader.push(chunk.bytes);
                    while let Some(frame) = reader.front(FRAME_BYTES_MAX).context("read a stream")? {
                        told(Told::Frame, frame)?;
                        reader.pop();
                    }
                }
                Err(ReadError::Blocked) => break false,
                Ok(None) | Err(ReadError::Reset(_)) => break true,
            }
        };
        let tells = chunks.finalize().should_transmit();
        if is_over && Some(id) != self.control {
            self.readers.swap_remove(place);
        }
        Ok(tells)
    }
}

fn index(handle: ConnectionHandle) -> u32 {
    u32::try_from(handle.0).unwrap_or(u32::MAX)
}

fn ended(reason: &ConnectionError) -> Got {
    match reason {
        ConnectionError::ApplicationClosed(close) => Got::Closed {
            code: u16::try_from(close.error_code.into_inner()).ok(),
            reason: String::from_utf8_lossy(&close.reason).into_owned(),
        },
        error => Got::Closed { code: None, reason: error.to_string() },
    }
}

/// As little as an idle client needs, on both sides: acknowledgements and their delays are QUIC's own.
fn transport(streams: u32, stream_window: u32) -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(streams))
        .stream_receive_window(VarInt::from_u32(stream_window))
        .receive_window(VarInt::from_u32(stream_window.saturating_mul(4)))
        .max_idle_timeout(IdleTimeout::try_from(IDLE_TIMEOUT).ok())
        .datagram_receive_buffer_size(Some(16 << 10))
        .mtu_discovery_config(None);
    transport
}

//! The world that the tests play in: shards behind one address, a client, and what lies between.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use millrace_core::{Lanes, Place, Taken};
use millrace_protocol::client::SUBPROTOCOL;
use millrace_protocol::stream::FrameReader;
use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::{
    ClientConfig, Connection, ConnectionError, ConnectionHandle, DatagramEvent, Dir, Endpoint, EndpointConfig,
    ReadError, StreamEvent, StreamId, Transmit, TransportConfig, VarInt,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::driver::{Driver, Event, Stats};
use crate::{Input, Keys, Limits, Protocol, Route, Server, Session};

/// Nothing here takes longer in the time of the world.
const PATIENCE: Duration = Duration::from_secs(60);
const FRAME_BYTES_MAX: usize = 1 << 20;

pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// What the network does to a datagram.
#[derive(Clone, Copy)]
pub(super) struct Link {
    pub(super) delay: Duration,
    pub(super) jitter: Duration,
    pub(super) loss_percent: u64,
    /// Smaller ones are not lost.
    pub(super) loses_from_bytes: usize,
}

impl Default for Link {
    fn default() -> Self {
        Self { delay: Duration::from_millis(10), jitter: Duration::ZERO, loss_percent: 0, loses_from_bytes: 0 }
    }
}

struct Packet {
    from: SocketAddr,
    to: SocketAddr,
    data: Vec<u8>,
}

/// A client made of the protocol alone.
pub(super) struct Client {
    endpoint: Endpoint,
    config: ClientConfig,
    handle: ConnectionHandle,
    pub(super) inner: Connection,
    address: SocketAddr,
    control_stream: Option<StreamId>,
    unsent: Bytes,
    finishes: bool,
    readers: BTreeMap<StreamId, FrameReader>,
    /// Frames of the control stream.
    pub(super) control: Vec<Vec<u8>>,
    /// Frames of each stream that the server opened.
    pub(super) streams: BTreeMap<StreamId, Vec<Vec<u8>>>,
    pub(super) finished: Vec<StreamId>,
    /// A stream that it leaves alone.
    pub(super) unread: Option<StreamId>,
    pub(super) lost: Option<ConnectionError>,
    /// All datagrams that it sent before it heard anything.
    pub(super) first_flight: Vec<Vec<u8>>,
    heard: bool,
    /// Nothing that it sends arrives.
    pub(super) is_mute: bool,
}

/// What a shell would know.
#[derive(Default)]
pub(super) struct Shell {
    pub(super) session: Option<Session>,
    pub(super) shard: usize,
    pub(super) frames: Vec<Vec<u8>>,
    /// Events of streams that have something, and of streams that can be opened.
    pub(super) told: (u32, u32),
    pub(super) connected: bool,
    pub(super) goodbyes: u32,
    pub(super) ended: Vec<crate::End>,
    /// Connections that lingered.
    pub(super) parted: Vec<crate::Key>,
}

pub(super) struct World {
    pub(super) now: Instant,
    random: Random,
    pub(super) link: Link,
    limits: Limits,
    server_config: Server,
    pub(super) drivers: Vec<Driver>,
    pub(super) server: Shell,
    pub(super) client: Client,
    /// By arrival; numbers keep the order of those that arrive together.
    packets: BTreeMap<(Instant, u64), Packet>,
    sent: u64,
    /// Datagrams that came to another shard than theirs.
    pub(super) forwarded: u64,
    pub(super) client_stream_window: u32,
    /// The server has no time for strangers.
    pub(super) hears_nobody: bool,
    /// The server is done with who has nothing to tell before the next datagram comes.
    sends_quietly: bool,
}

/// A frame of so many words that bears a number.
pub(super) fn frame(number: u64, words: u32) -> Bytes {
    let mut frame = vec![0; 4];
    frame.extend_from_slice(&words.max(1).to_le_bytes());
    frame.extend_from_slice(&number.to_le_bytes());
    frame.resize(8 + words.max(1) as usize * 8, 0xA5);
    frame.into()
}

pub(super) fn number(frame: &[u8]) -> u64 {
    u64::from_le_bytes(frame[8..16].try_into().unwrap())
}

fn server_address() -> SocketAddr {
    ([198, 51, 100, 1], 443).into()
}

impl World {
    /// A server of so many shards, and a client that does nothing yet.
    pub(super) fn new(seed: u64, shards: u16, limits: Limits, link: Link) -> Self {
        let now = Instant::now();
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let certificate: CertificateDer<'static> = made.cert.der().clone();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let mut tls = rustls::ServerConfig::builder_with_provider(Arc::new(provider.clone()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        tls.alpn_protocols = Protocol::OFFERED.iter().map(|name| name.to_vec()).collect();
        tls.max_early_data_size = u32::MAX;
        let keys = Keys::derive(b"a secret of the world", "n1").unwrap();
        let server_config = Server::new(Arc::new(tls), keys, limits.clone()).unwrap();

        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate).unwrap();
        let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![SUBPROTOCOL.as_bytes().to_vec()];
        tls.enable_early_data = true;
        let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        let mut world = Self {
            now,
            random: Random(seed.wrapping_add(77)),
            link,
            limits,
            server_config,
            drivers: Vec::new(),
            server: Shell::default(),
            client: Client::new(now, config, seed),
            packets: BTreeMap::new(),
            sent: 0,
            forwarded: 0,
            client_stream_window: 1 << 20,
            hears_nobody: false,
            sends_quietly: seed.is_multiple_of(2),
        };
        world.start(shards, seed);
        world
    }

    fn start(&mut self, shards: u16, seed: u64) {
        let driver = |shard| {
            let seed = [seed, u64::from(shard), 3, 4];
            Driver::new(self.now, self.server_config.clone(), shard, shards, seed)
        };
        self.drivers = (0..shards).map(driver).collect();
    }

    /// The server is another process, with the same secret.
    pub(super) fn restart(&mut self) {
        let shards = u16::try_from(self.drivers.len()).unwrap();
        let keys = Keys::derive(b"a secret of the world", "n1").unwrap();
        self.server_config = Server { keys, limits: self.limits.clone(), ..self.server_config.clone() };
        self.start(shards, 4711);
        self.server = Shell::default();
    }

    /// The client begins a handshake.
    pub(super) fn begin(&mut self) {
        let Client { config, address, .. } = &self.client;
        let (mut config, address) = (config.clone(), *address);
        let mut transport = TransportConfig::default();
        transport.stream_receive_window(VarInt::from_u32(self.client_stream_window));
        config.transport_config(Arc::new(transport));
        self.client = Client { address, is_mute: false, ..Client::new(self.now, config, self.random.below(1 << 30)) };
    }

    pub(super) fn connect(&mut self) {
        self.begin();
        self.run_until("connected", |world| world.server.connected);
    }

    /// Again, with whatever ticket there is, and without waiting for anything.
    pub(super) fn reconnect(&mut self) {
        self.server = Shell::default();
        let (config, address) = (self.client.config.clone(), self.client.address);
        self.client = Client { address, is_mute: false, ..Client::new(self.now, config, 99) };
    }

    pub(super) fn close_client(&mut self) {
        self.client.inner.close(self.now, VarInt::from_u32(0), Bytes::new());
        self.run_for(Duration::from_millis(100));
    }

    /// What a client sends first, as one datagram.
    pub(super) fn first_packets(&mut self) -> Vec<u8> {
        self.begin();
        let mut buffer = Vec::new();
        let transmit = self.client.inner.poll_transmit(self.now, 1, &mut buffer).unwrap();
        buffer.truncate(transmit.size);
        // It goes no further.
        self.client.is_mute = true;
        buffer
    }

    pub(super) fn client_writes(&mut self, bytes: &[u8]) {
        let unsent = [&self.client.unsent, bytes].concat();
        self.client.unsent = unsent.into();
        self.client.write();
    }

    pub(super) fn client_finishes(&mut self) {
        self.client.finishes = true;
        self.client.write();
    }

    pub(super) fn client_resets(&mut self) {
        let stream = self.client.control_stream.unwrap();
        self.client.inner.send_stream(stream).reset(VarInt::from_u32(1)).unwrap();
    }

    /// The client looks at all its streams again.
    pub(super) fn client_reads(&mut self) {
        for stream in self.client.readers.keys().copied().collect::<Vec<_>>() {
            self.client.read(stream);
        }
    }

    /// The client has another address from now on, and does not know.
    pub(super) fn move_client(&mut self) {
        let port = u16::try_from(1024 + self.random.below(60_000)).unwrap();
        self.client.address = ([203, 0, 113, 5], port).into();
    }

    /// Offers a frame to the session's streams; whether it was taken.
    pub(super) fn offer(&mut self, place: Place, frame: Bytes) -> bool {
        self.offered(place, frame) == Taken::Whole
    }

    /// The same; what became of it.
    pub(super) fn offered(&mut self, place: Place, frame: Bytes) -> Taken {
        let Shell { session, shard, .. } = &mut self.server;
        let session = session.as_mut().expect("a session");
        session.lanes(&mut self.drivers[*shard]).take(place, || frame)
    }

    /// A datagram of somebody else arrives.
    pub(super) fn datagram(&mut self, from: impl Into<SocketAddr>, data: &[u8]) {
        self.arrive(Packet { from: from.into(), to: server_address(), data: data.to_vec() });
        self.turn();
    }

    /// What is on its way to the server.
    pub(super) fn to_server(&self) -> impl Iterator<Item = &[u8]> {
        self.packets.values().filter(|packet| packet.to == server_address()).map(|packet| &packet.data[..])
    }

    pub(super) fn stats(&self) -> Stats {
        let mut all = Stats::default();
        for stats in self.drivers.iter().map(Driver::stats) {
            all.strays += stats.strays;
            all.handshakes += stats.handshakes;
            all.handshakes_failed += stats.handshakes_failed;
            all.retries += stats.retries;
            all.refused += stats.refused;
            all.resets += stats.resets;
            all.migrations += stats.migrations;
            all.timed_out += stats.timed_out;
            all.losses += stats.losses;
            all.losses_at_window += stats.losses_at_window;
            all.collapses += stats.collapses;
        }
        all
    }

    pub(super) fn open(&self) -> usize {
        self.drivers.iter().map(Driver::open).sum()
    }

    pub(super) fn half_open(&self) -> usize {
        self.drivers.iter().map(Driver::half_open).sum()
    }

    pub(super) fn run_until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = self.now + PATIENCE;
        self.turn();
        while !holds(self) {
            assert!(self.now < deadline && self.step(deadline), "waited in vain until {what}");
        }
    }

    pub(super) fn run_for(&mut self, time: Duration) {
        let deadline = self.now + time;
        self.turn();
        while self.step(deadline) {}
        self.now = deadline;
    }

    /// Goes on to what is next, unless that is after `deadline`.
    fn step(&mut self, deadline: Instant) -> bool {
        let timeouts = self.drivers.iter().map(Driver::poll_timeout).chain([self.client.inner.poll_timeout()]);
        let next = timeouts.flatten().chain(self.packets.keys().next().map(|&(at, _)| at)).min();
        let Some(next) = next.filter(|&next| next <= deadline) else { return false };
        self.now = self.now.max(next);
        while let Some(entry) = self.packets.first_entry()
            && entry.key().0 <= self.now
        {
            let packet = entry.remove();
            self.arrive(packet);
        }
        for driver in &mut self.drivers {
            driver.handle_timeout(self.now);
        }
        self.client.inner.handle_timeout(self.now);
        self.turn();
        true
    }

    fn arrive(&mut self, packet: Packet) {
        let Packet { from, to, data } = packet;
        let bytes = BytesMut::from(&data[..]);
        if to != server_address() {
            self.client.handle_datagram(self.now, to, bytes);
            return;
        }
        // As the kernel does it: by the addresses.
        let shards = self.drivers.len();
        let landed = usize::from(from.port()) % shards;
        let shard = match self.drivers[landed].route(&data) {
            Route::Here => landed,
            Route::Shard(shard) => {
                self.forwarded += 1;
                usize::from(shard)
            }
            Route::Nobody => return,
        };
        self.drivers[shard].handle_datagram(self.now, from, None, None, bytes);
        let mut buffer = Vec::new();
        while self.sends_quietly
            && let Some(transmit) = self.drivers[shard].poll_quiet_transmit(self.now, &mut buffer)
        {
            self.send(server_address(), &transmit, &buffer);
        }
    }

    /// Everyone does what there is to do at this time.
    fn turn(&mut self) {
        for shard in 0..self.drivers.len() {
            loop {
                while let Some(event) = self.drivers[shard].poll_event(self.now) {
                    self.server.handle(&mut self.drivers[shard], shard, event);
                }
                if self.hears_nobody || !self.drivers[shard].hear_stranger(self.now) {
                    break;
                }
            }
            let mut buffer = Vec::new();
            while let Some(transmit) = self.drivers[shard].poll_transmit(self.now, &mut buffer) {
                self.send(server_address(), &transmit, &buffer);
            }
        }
        self.client.poll();
        let mut buffer = Vec::new();
        while let Some(transmit) = self.client.inner.poll_transmit(self.now, 1, &mut buffer) {
            if !self.client.heard {
                self.client.first_flight.push(buffer[..transmit.size].to_vec());
            }
            let address = self.client.address;
            if !self.client.is_mute {
                self.send(address, &transmit, &buffer);
            }
            buffer.clear();
        }
    }

    fn send(&mut self, from: SocketAddr, transmit: &Transmit, buffer: &[u8]) {
        let size = transmit.segment_size.unwrap_or(transmit.size).max(1);
        for data in buffer[..transmit.size].chunks(size) {
            if self.random.below(100) < self.link.loss_percent && data.len() >= self.link.loses_from_bytes {
                continue;
            }
            let jitter_us = u64::try_from(self.link.jitter.as_micros()).unwrap();
            let jitter = Duration::from_micros(self.random.below(jitter_us + 1));
            self.sent += 1;
            let packet = Packet { from, to: transmit.destination, data: data.to_vec() };
            self.packets.insert((self.now + self.link.delay + jitter, self.sent), packet);
        }
    }
}

impl Shell {
    fn handle(&mut self, driver: &mut Driver, shard: usize, event: Event) {
        self.told.0 += u32::from(matches!(event, Event::Readable(..)));
        self.told.1 += u32::from(matches!(event, Event::Openable(_)));
        let Self { session, frames, .. } = self;
        let keep = |frame: &[u8]| frames.push(frame.to_vec());
        let input = match (event, session) {
            (Event::Chosen(key, protocol), session) => {
                *session = Some(Session::new(key, protocol));
                self.shard = shard;
                self.connected = false;
                return;
            }
            (_, None) => return,
            (Event::Connected(key), Some(session)) if session.key() == key => {
                self.connected = true;
                session.handle_connected(driver, keep)
            }
            (Event::Readable(key, stream), Some(session)) if session.key() == key => {
                session.handle_readable(driver, stream, keep)
            }
            (Event::Writable(key, stream), Some(session)) if session.key() == key => {
                session.handle_writable(driver, stream);
                return;
            }
            (Event::Ended(key, end), Some(session)) if session.key() == key => {
                self.ended.push(end);
                return;
            }
            (Event::Parted(key), Some(_)) => {
                self.parted.push(key);
                return;
            }
            _ => return,
        };
        let Some(key) = self.session.as_ref().map(Session::key) else { return };
        match input {
            Input::Done => {}
            Input::Goodbye => {
                self.goodbyes += 1;
                driver.close(key, 0, "");
            }
            Input::Fault(code, reason) => driver.close(key, code.number().into(), reason),
            Input::Http(error) => panic!("{error}"),
        }
    }
}

impl Client {
    fn new(now: Instant, config: ClientConfig, seed: u64) -> Self {
        let mut bytes = [7; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let mut endpoint_config = EndpointConfig::default();
        endpoint_config.rng_seed(Some(bytes));
        let mut endpoint = Endpoint::new(Arc::new(endpoint_config), None, false, None);
        let (handle, inner) = endpoint.connect(now, config.clone(), server_address(), "localhost").expect("connect");
        Self {
            endpoint,
            config,
            handle,
            inner,
            address: ([203, 0, 113, 5], 5000).into(),
            control_stream: None,
            unsent: Bytes::new(),
            finishes: false,
            readers: BTreeMap::new(),
            control: Vec::new(),
            streams: BTreeMap::new(),
            finished: Vec::new(),
            unread: None,
            lost: None,
            first_flight: Vec::new(),
            heard: false,
            // One that nobody asked for yet says nothing.
            is_mute: true,
        }
    }

    /// The code that the server's application closed with.
    pub(super) fn closed_with(&self) -> Option<u64> {
        match self.lost.as_ref()? {
            ConnectionError::ApplicationClosed(close) => Some(close.error_code.into_inner()),
            _ => None,
        }
    }

    fn handle_datagram(&mut self, now: Instant, to: SocketAddr, data: BytesMut) {
        if to != self.address {
            return;
        }
        self.heard = true;
        let mut buffer = Vec::new();
        match self.endpoint.handle(now, server_address(), None, None, data, &mut buffer) {
            Some(DatagramEvent::ConnectionEvent(handle, event)) if handle == self.handle => {
                self.inner.handle_event(event);
            }
            _ => {}
        }
    }

    fn poll(&mut self) {
        loop {
            if let Some(event) = self.inner.poll() {
                match event {
                    quinn_proto::Event::Connected => self.write(),
                    quinn_proto::Event::ConnectionLost { reason } => self.lost = Some(reason),
                    quinn_proto::Event::Stream(StreamEvent::Opened { dir }) => {
                        while let Some(stream) = self.inner.streams().accept(dir) {
                            self.streams.insert(stream, Vec::new());
                            self.read(stream);
                        }
                    }
                    quinn_proto::Event::Stream(StreamEvent::Readable { id }) => self.read(id),
                    quinn_proto::Event::Stream(StreamEvent::Writable { .. }) => self.write(),
                    _ => {}
                }
            } else if let Some(event) = self.inner.poll_endpoint_events() {
                let drained = event.is_drained();
                if let Some(answer) = self.endpoint.handle_event(self.handle, event) {
                    self.inner.handle_event(answer);
                }
                if drained {
                    return;
                }
            } else {
                return;
            }
        }
    }

    fn write(&mut self) {
        if self.control_stream.is_none() {
            self.control_stream = self.inner.streams().open(Dir::Bi);
        }
        let Some(stream) = self.control_stream else { return };
        let mut to = self.inner.send_stream(stream);
        while !self.unsent.is_empty() {
            match to.write_chunks(std::slice::from_mut(&mut self.unsent)) {
                Ok(_) => {}
                Err(_) => return,
            }
        }
        if std::mem::take(&mut self.finishes) {
            to.finish().unwrap();
        }
    }

    fn read(&mut self, stream: StreamId) {
        if self.unread == Some(stream) {
            return;
        }
        let reader = self.readers.entry(stream).or_default();
        let frames = self.streams.get_mut(&stream).unwrap_or(&mut self.control);
        let mut from = self.inner.recv_stream(stream);
        let Ok(mut chunks) = from.read(true) else { return };
        loop {
            match chunks.next(usize::MAX) {
                Ok(Some(chunk)) => {
                    reader.push(chunk.bytes);
                    while let Some(frame) = reader.front(FRAME_BYTES_MAX).expect("frames") {
                        frames.push(frame.to_vec());
                        reader.pop();
                    }
                }
                Ok(None) => {
                    assert!(reader.is_between_frames(), "a stream ends behind a frame");
                    self.finished.push(stream);
                    break;
                }
                Err(ReadError::Blocked | ReadError::Reset(_)) => break,
            }
        }
        let _ = chunks.finalize();
    }
}

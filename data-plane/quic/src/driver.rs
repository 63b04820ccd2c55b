//! One shard's endpoint and its connections, without a socket and without a clock: datagrams and time go in, datagrams and events
//! come out.
//!
//! A turn: [`Driver::handle_datagram`] for all that came and [`Driver::handle_timeout`] if it is due; [`Driver::poll_event`] until
//! there is none, acting on each; [`Driver::hear_stranger`] for as many as the turn has time for, each followed by the events that it
//! brings; [`Driver::poll_transmit`] until there is none.
//!
//! A connection is a stranger's until [`Driver::signed_in`]: what strangers have to tell waits until it is asked for.

mod connection;
mod connections;
mod event;
mod quiet;

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use quinn_proto::{ConnectionHandle, DatagramEvent, EcnCodepoint, Endpoint, Incoming, StreamId, Transmit, VarInt};

use self::connection::Connection;
pub use self::connection::{End, Read, Write};
use self::connections::Connections;
pub use self::event::{Event, Key, Outgoing, Stats};
use crate::admission::{Admission, Verdict};
use crate::cid::LastCid;
use crate::congestion::{Congestion, Counts};
use crate::route::{Route, Stage, route, stage};
use crate::wheel::Wheel;
use crate::{Limits, Server};

/// One shard's endpoint.
pub struct Driver {
    server: Server,
    shard: u16,
    shards: u16,
    endpoint: Endpoint,
    /// By handle.
    connections: Connections,
    generation: u32,
    open: usize,
    /// Handshakes under way, and connections whose handshake has failed, by the id that we gave the connection for it.
    half_open: HashMap<u64, u32>,
    last_cid: LastCid,
    /// Connections whose goodbye is not said.
    parting: usize,
    /// Those of them whose goodbye waits for the client's.
    lingering: usize,
    accepting: bool,
    admission: Admission,
    wheel: Wheel,
    due: Vec<u64>,
    /// Connections that were sent something, and have not been looked at since; none of strangers.
    fresh: VecDeque<u32>,
    /// Connections that may have something to tell, but for those of strangers.
    stirred: VecDeque<u32>,
    /// Those of strangers.
    stirred_strangers: VecDeque<u32>,
    /// Connections that may have something to send.
    sending: VecDeque<u32>,
    events: VecDeque<Event>,
    /// Of the connection that tells something now.
    told: Told,
    /// What the endpoint itself answers.
    responses: VecDeque<(Transmit, Vec<u8>)>,
    scratch: Vec<u8>,
    congestion: Arc<Congestion>,
    stats: Stats,
}

/// Strangers without anything to tell that are heard as one who has something.
const SILENT_MAX: usize = 1024;

/// What need not be told again before it is acted on: each frame of a stream is news to the connection, of which a datagram holds hundreds.
#[derive(Default)]
struct Told {
    /// A few: no more than may be open at a time.
    readable: Vec<StreamId>,
    openable: bool,
}

/// Datagrams of one connection in one send, where the system can cut them apart (GSO).
const SEGMENTS_MAX: usize = 10;

impl Driver {
    /// The endpoint of shard `shard` of `shards`. `seed` must be random in production, and is told to nobody.
    pub fn new(now: Instant, server: Server, shard: u16, shards: u16, seed: [u64; 4]) -> Self {
        let own = u8::try_from(shard).unwrap_or(u8::MAX);
        let last_cid = LastCid::default();
        let config = Arc::new(server.endpoint(own, seed, &last_cid));
        let congestion = Arc::<Congestion>::default();
        let endpoint = Endpoint::new(config, Some(server.config(&congestion)), false, None);
        let admission = Admission::new(now, &server.limits, seed[2] ^ seed[3].rotate_left(9));
        Self {
            server,
            shard,
            shards,
            endpoint,
            connections: Connections::default(),
            generation: 0,
            open: 0,
            half_open: HashMap::new(),
            last_cid,
            parting: 0,
            lingering: 0,
            accepting: true,
            admission,
            wheel: Wheel::new(now),
            due: Vec::new(),
            fresh: VecDeque::new(),
            stirred: VecDeque::new(),
            stirred_strangers: VecDeque::new(),
            sending: VecDeque::new(),
            events: VecDeque::new(),
            told: Told::default(),
            responses: VecDeque::new(),
            scratch: Vec::new(),
            congestion,
            stats: Stats::default(),
        }
    }

    /// Where a datagram belongs. Ask before [`handle_datagram`](Self::handle_datagram), which would answer another shard's with a
    /// reset.
    pub fn route(&mut self, datagram: &[u8]) -> Route {
        let to = route(&self.server.keys.cid, self.shard, self.shards, datagram);
        self.stats.strays += u64::from(to == Route::Nobody);
        to
    }

    /// Whether a datagram may begin a connection or goes on with a handshake, which is dear, or is of a connection that is open.
    ///
    /// What a client sends behind the end of its handshake cannot be read before that: it has to be handled in the order in which it came.
    pub fn stage(&self, datagram: &[u8]) -> Stage {
        stage(&self.server.keys.cid, datagram, |cid| {
            let connection = self.half_open.get(&cid).and_then(|&index| self.connections.get(index));
            connection.is_some_and(|connection| connection.inner.is_handshaking())
        })
    }

    /// Takes in a datagram that belongs here.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        from: SocketAddr,
        to: Option<IpAddr>,
        ecn: Option<EcnCodepoint>,
        data: BytesMut,
    ) {
        self.stats.datagrams_in += 1;
        self.stats.bytes_in += data.len() as u64;
        let mut buffer = std::mem::take(&mut self.scratch);
        buffer.clear();
        match self.endpoint.handle(now, from, to, ecn, data, &mut buffer) {
            None => {}
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some(connection) = self.connections.get_mut(index_of(handle)) {
                    connection.inner.handle_event(event);
                    let remote = connection.inner.remote_address();
                    if remote != connection.remote {
                        connection.remote = remote;
                        self.stats.migrations += 1;
                    }
                    if connection.is_stranger {
                        self.touch(index_of(handle));
                    } else if !std::mem::replace(&mut connection.fresh, true) {
                        self.fresh.push_back(index_of(handle));
                    }
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => self.admit(now, incoming, &mut buffer),
            Some(DatagramEvent::Response(transmit)) => {
                // Only a reset looks like a packet of an open connection.
                let is_reset = buffer.first().is_some_and(|first| first & 0x80 == 0);
                if !is_reset || self.admission.may_reset(now, from.ip()) {
                    self.stats.resets += u64::from(is_reset);
                    self.respond(transmit, &buffer);
                }
            }
        }
        self.scratch = buffer;
    }

    fn admit(&mut self, now: Instant, incoming: Incoming, buffer: &mut Vec<u8>) {
        let Limits { connections_max, .. } = self.server.limits;
        if !self.accepting || self.open >= connections_max {
            self.stats.refused += 1;
            let transmit = self.endpoint.refuse(incoming, buffer);
            return self.respond(transmit, buffer);
        }
        let (from, validated) = (incoming.remote_address().ip(), incoming.remote_address_validated());
        match self.admission.judge(now, from, validated, self.half_open.len(), &self.server.limits) {
            Verdict::Accept => {}
            Verdict::Ignore => {
                self.stats.ignored += 1;
                return self.endpoint.ignore(incoming);
            }
            Verdict::Retry => {
                self.stats.retries += 1;
                return match self.endpoint.retry(incoming, buffer) {
                    Ok(transmit) => self.respond(transmit, buffer),
                    Err(error) => self.endpoint.ignore(error.into_incoming()),
                };
            }
        }
        self.stats.handshakes_begun += 1;
        match self.endpoint.accept(incoming, now, buffer, None) {
            Ok((handle, inner)) => {
                self.generation = self.generation.wrapping_add(1);
                let key = Key { index: index_of(handle), generation: self.generation };
                let handshake_by = now + self.server.limits.handshake_timeout;
                let cid = self.last_cid.get();
                self.connections.insert(key.index, Connection::new(key, inner, handshake_by, cid));
                self.open += 1;
                self.half_open.insert(cid, key.index);
                self.touch(key.index);
            }
            Err(error) => {
                self.stats.handshakes_failed += 1;
                if let Some(transmit) = error.response {
                    self.respond(transmit, buffer);
                }
            }
        }
    }

    fn respond(&mut self, transmit: Transmit, buffer: &[u8]) {
        if self.responses.len() >= self.server.limits.responses_max {
            self.stats.responses_dropped += 1;
            return;
        }
        let bytes = buffer[..transmit.size].to_vec();
        self.responses.push_back((transmit, bytes));
    }

    /// The time of [`poll_timeout`](Self::poll_timeout) has come; harmless when it has not.
    pub fn handle_timeout(&mut self, now: Instant) {
        let mut due = std::mem::take(&mut self.due);
        self.wheel.advance(now, &mut due);
        for value in due.drain(..) {
            let key = Key::from_value(value);
            let Some(connection) = self.connection_mut(key) else { continue };
            connection.armed = None;
            let is_due = connection.next_look().is_some_and(|at| at <= now);
            if !is_due {
                // What it was put in for has gone by: an acknowledgement came, or the idle timeout moved on.
                self.arm(key.index);
                continue;
            }
            if connection.inner.poll_timeout().is_some_and(|at| at <= now) {
                connection.inner.handle_timeout(now);
            }
            if connection.handshake_by.is_some_and(|by| by <= now) {
                connection.handshake_by = None;
                connection.inner.close(now, VarInt::from_u32(0), Bytes::from_static(b"no handshake in time"));
                self.end(key, End::TimedOut);
            }
            self.touch(key.index);
        }
        self.due = due;
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.wheel.next()
    }

    /// The next thing that happened, or `None`. What strangers have to tell comes after [`hear_stranger`](Self::hear_stranger).
    pub fn poll_event(&mut self, now: Instant) -> Option<Event> {
        self.age();
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            let index = self.stirred.pop_front()?;
            self.hear(now, index);
        }
    }

    /// Hears the stranger who has waited longest and has something to tell; whether there may be another one.
    pub fn hear_stranger(&mut self, now: Instant) -> bool {
        // Most have nothing: they were sent something, which may have brought news.
        for _ in 0..SILENT_MAX {
            let Some(index) = self.stirred_strangers.pop_front() else { return false };
            self.hear(now, index);
            if !self.events.is_empty() {
                break;
            }
        }
        true
    }

    fn hear(&mut self, now: Instant, index: u32) {
        if let Some(connection) = self.connections.get_mut(index) {
            connection.stirred = false;
            self.stir(now, index);
        }
    }

    /// The next datagram to send, or `None`; up to 10 of one connection in one, where `Transmit::segment_size` says how to cut
    /// them. `buffer` is emptied first. What the socket does not take must be kept, and nothing more asked for until it does.
    pub fn poll_transmit(&mut self, now: Instant, buffer: &mut Vec<u8>) -> Option<Outgoing> {
        buffer.clear();
        if let Some((transmit, bytes)) = self.responses.pop_front() {
            buffer.extend_from_slice(&bytes);
            self.count_out(&transmit);
            return Some(transmit);
        }
        self.age();
        while let Some(&index) = self.sending.front() {
            if let Some(transmit) = self.transmit_of(now, index, buffer) {
                return Some(transmit);
            }
            self.sending.pop_front();
        }
        None
    }

    /// The next datagram of one connection; `None` when it has no more, and its goodbye is said if that was due.
    fn transmit_of(&mut self, now: Instant, index: u32, buffer: &mut Vec<u8>) -> Option<Outgoing> {
        loop {
            let connection = self.connections.get_mut(index)?;
            if let Some(transmit) = connection.inner.poll_transmit(now, SEGMENTS_MAX, buffer) {
                self.count_out(&transmit);
                return Some(transmit);
            }
            let (lingered, key) = (connection.lingers(), connection.key);
            if connection.part(now) {
                self.parting -= 1;
                if lingered {
                    self.parted(key);
                }
                continue;
            }
            connection.sending = false;
            // To send may have brought events of its own.
            if connection.is_stranger {
                self.touch_to_hear(index);
            } else {
                self.stir(now, index);
            }
            self.arm(index);
            return None;
        }
    }

    fn count_out(&mut self, transmit: &Transmit) {
        let segments = transmit.segment_size.map_or(1, |size| transmit.size.div_ceil(size.max(1)));
        self.stats.datagrams_out += segments as u64;
        self.stats.bytes_out += transmit.size as u64;
    }

    /// Whether [`hear_stranger`](Self::hear_stranger) may bring something.
    pub fn strangers_stirred(&self) -> bool {
        !self.stirred_strangers.is_empty()
    }

    /// Whether something is left to do without a further event.
    pub fn has_work(&self) -> bool {
        let stirred = !self.stirred.is_empty() || !self.stirred_strangers.is_empty();
        stirred
            || !self.fresh.is_empty()
            || !self.events.is_empty()
            || !self.sending.is_empty()
            || !self.responses.is_empty()
    }

    /// Takes no new connections any more: they are refused.
    pub fn stop_accepting(&mut self) {
        self.accepting = false;
    }

    /// What was counted.
    pub fn stats(&self) -> Stats {
        let Counts { losses, full, collapses, lost_bytes } = self.congestion.counts();
        Stats { losses, losses_at_window: full, collapses, lost_bytes, ..self.stats }
    }

    /// Connections, those included that are being opened or closed.
    pub fn open(&self) -> usize {
        self.open
    }

    /// Handshakes under way.
    pub fn half_open(&self) -> usize {
        self.half_open.len()
    }

    /// Connections whose session is over, and whose client has not been sent all that it is to be told: it waits for room, for the end of
    /// the handshake, or for the client, which may still be reading why.
    pub fn parting(&self) -> usize {
        self.parting
    }

    /// Those of them whose client may still be reading why.
    pub fn lingering(&self) -> usize {
        self.lingering
    }

    fn connection_mut(&mut self, key: Key) -> Option<&mut Connection> {
        self.connections.get_mut(key.index).filter(|connection| connection.key == key)
    }

    /// It may have something to tell, to send, or another time to be looked at.
    fn touch(&mut self, index: u32) {
        self.touch_to_hear(index);
        self.touch_to_send(index);
    }

    fn touch_to_hear(&mut self, index: u32) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        if !std::mem::replace(&mut connection.stirred, true) {
            let queue = if connection.is_stranger { &mut self.stirred_strangers } else { &mut self.stirred };
            queue.push_back(index);
        }
    }

    fn touch_to_send(&mut self, index: u32) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        if !std::mem::replace(&mut connection.sending, true) {
            self.sending.push_back(index);
        }
    }

    /// Takes what a connection has to tell to us and to the endpoint.
    fn stir(&mut self, now: Instant, index: u32) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        let key = connection.key;
        self.told.readable.clear();
        self.told.openable = false;
        loop {
            let Some(connection) = self.connections.get_mut(index) else { return };
            if let Some(event) = connection.inner.poll() {
                self.happened(now, key, event);
                continue;
            }
            let Some(event) = connection.inner.poll_endpoint_events() else { return };
            let drained = event.is_drained();
            if let Some(answer) = self.endpoint.handle_event(key.handle(), event) {
                connection.inner.handle_event(answer);
                self.touch_to_send(index);
            }
            if drained {
                self.end(key, End::Lost);
                self.end_linger(key);
                if let Some(gone) = self.connections.get_mut(index) {
                    self.parting -= usize::from(gone.parts());
                    if let Some(cid) = gone.half_open {
                        self.half_open.remove(&cid);
                    }
                    if let Some(armed) = gone.armed {
                        self.wheel.remove(armed);
                    }
                }
                self.connections.remove(index);
                self.open -= 1;
                return;
            }
        }
    }

    fn happened(&mut self, now: Instant, key: Key, event: quinn_proto::Event) {
        use quinn_proto::{Dir, StreamEvent};
        let Some(connection) = self.connection_mut(key) else { return };
        match event {
            quinn_proto::Event::ConnectionLost { reason } => {
                let end = End::of(&reason);
                self.stats.timed_out += u64::from(end == End::TimedOut);
                self.end_linger(key);
                self.end(key, end);
            }
            quinn_proto::Event::Connected => {
                connection.handshake_by = None;
                let (cid, told_end) = (connection.half_open.take(), connection.told_end);
                cid.and_then(|cid| self.half_open.remove(&cid));
                self.stats.handshakes += 1;
                if told_end {
                    // Its end waited for this.
                    self.touch_to_send(key.index);
                } else {
                    self.events.push_back(Event::Connected(key));
                }
            }
            _ if connection.told_end => {}
            quinn_proto::Event::HandshakeDataReady => match connection.protocol() {
                Some(protocol) => self.events.push_back(Event::Chosen(key, protocol)),
                // rustls has ended the handshake of a client with which there is none in common.
                None => {
                    connection.told_end = true;
                    connection.inner.close(now, VarInt::from_u32(0), Bytes::from_static(b"no protocol in common"));
                    self.settle(key);
                    self.touch_to_send(key.index);
                }
            },
            quinn_proto::Event::DatagramReceived => self.events.push_back(Event::Datagrams(key)),
            quinn_proto::Event::DatagramsUnblocked => {}
            quinn_proto::Event::Stream(event) => match event {
                StreamEvent::Opened { dir } => {
                    while let Some(stream) = self.accept(key, dir) {
                        self.tell_readable(key, stream);
                    }
                }
                StreamEvent::Readable { id } => self.tell_readable(key, id),
                StreamEvent::Writable { id } => self.events.push_back(Event::Writable(key, id)),
                StreamEvent::Available { dir: Dir::Uni } => {
                    if !std::mem::replace(&mut self.told.openable, true) {
                        self.events.push_back(Event::Openable(key));
                    }
                }
                StreamEvent::Stopped { id, .. } => self.events.push_back(Event::Stopped(key, id)),
                StreamEvent::Available { dir: Dir::Bi } | StreamEvent::Finished { .. } => {}
            },
        }
    }

    fn tell_readable(&mut self, key: Key, stream: StreamId) {
        if !self.told.readable.contains(&stream) {
            self.told.readable.push(stream);
            self.events.push_back(Event::Readable(key, stream));
        }
    }

    fn accept(&mut self, key: Key, dir: quinn_proto::Dir) -> Option<StreamId> {
        self.connection_mut(key)?.inner.streams().accept(dir)
    }

    /// Tells the end of a connection, once.
    fn end(&mut self, key: Key, end: End) {
        let Some(connection) = self.connection_mut(key) else { return };
        if !std::mem::replace(&mut connection.told_end, true) {
            self.events.push_back(Event::Ended(key, end));
        }
        self.settle(key);
    }

    /// It is closed, and lingers no more if it did.
    fn end_linger(&mut self, key: Key) {
        if self.connection_mut(key).is_some_and(Connection::end_linger) {
            self.parting -= 1;
            self.parted(key);
        }
    }

    fn parted(&mut self, key: Key) {
        self.lingering -= 1;
        self.events.push_back(Event::Parted(key));
    }

    /// Its handshake comes to nothing, if it is not complete. It counts as under way until it is gone: for seconds it costs as much as
    /// before, and newcomers may not take its place meanwhile.
    fn settle(&mut self, key: Key) {
        let Some(connection) = self.connection_mut(key) else { return };
        connection.handshake_by = None;
        if connection.half_open.is_some() && !std::mem::replace(&mut connection.has_failed, true) {
            self.stats.handshakes_failed += 1;
        }
    }

    /// Sees to it that the wheel looks at a connection in time.
    fn arm(&mut self, index: u32) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        let Some(next) = connection.next_look() else { return };
        match connection.armed {
            Some(armed) if !self.wheel.is_before(next, armed) => return,
            Some(armed) => self.wheel.remove(armed),
            None => {}
        }
        connection.armed = Some(self.wheel.insert(next, connection.key.value()));
    }
}

fn index_of(handle: ConnectionHandle) -> u32 {
    u32::try_from(handle.0).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;

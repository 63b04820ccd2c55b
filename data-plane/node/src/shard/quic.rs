//! QUIC in a shard: its socket, its endpoint, and which connection carries which session.

mod transmit;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Instant;

use millrace_core::{Now, SessionKey};
use millrace_protocol::Code;
use millrace_quic::{Driver, Event, Input, Key, Protocol, Route, Server, Session, StreamId};

use super::admission::{Admission, Place};
use super::lingering::Lingering;
use super::room::{Held, InputRoom};
use super::waiting::{Taken, Waiting};
use super::{STRANGER_WORK_BYTES, Shard};
use crate::poller::{Interest, Poller, Ready};
use crate::report::ShellStats;
use crate::ring::Forwards;
use crate::udp::{Datagram, Sent, UdpPort};

/// Token of the socket.
pub(super) const SOCKET: u64 = u64::MAX - 8;

/// Sends in a turn, of up to 10 datagrams each. The rest goes in the next one, when acknowledgements have had their turn.
const SENDS_MAX: usize = 1024;
const NONE: u32 = u32::MAX;

/// What a shard needs for QUIC.
pub(crate) struct QuicSetup {
    pub(crate) socket: UdpSocket,
    pub(crate) server: Server,
    /// From and to other shards: datagrams that landed on the wrong one.
    pub(crate) forwards: Forwards<Datagram>,
    pub(crate) seed: [u64; 4],
}

/// A session's place.
struct Peer {
    session: SessionKey,
    streams: Session,
    /// What it counts for in the room for unfinished input.
    held: Held,
    standing: Standing,
}

/// How far somebody has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// In a handshake that may be for another's address. It takes no place at the door: that would be a place of the other's.
    Arriving,
    /// Known to be where it says, and not signed in.
    AtTheDoor(Place),
    SignedIn,
}

impl Peer {
    fn sign_in(&mut self, driver: &mut Driver, admission: &mut Admission) {
        if let Standing::AtTheDoor(place) = self.standing {
            admission.leave(place, self.session.as_u64());
        }
        self.standing = Standing::SignedIn;
        driver.signed_in(self.streams.key());
    }
}

/// What is counted beside what the endpoint counts.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct QuicStats {
    pub(super) forwarded: u64,
    pub(super) forward_full: u64,
    pub(super) useless_datagrams: u64,
    pub(super) faults: u64,
    /// HTTP/3 connections whose session is not over.
    pub(super) web: u64,
    pub(super) web_sessions: u64,
    pub(super) web_refused: u64,
    pub(super) web_faults: u64,
    /// Datagrams of handshakes for which there was no room to wait.
    pub(super) waiting_full: u64,
}

pub(super) struct Quic {
    pub(super) driver: Driver,
    pub(super) port: UdpPort,
    forwards: Forwards<Datagram>,
    /// Of handshakes, beyond what a turn takes.
    waiting: Waiting,
    /// What datagrams weighed that came.
    heard_bytes: u64,
    /// Bytes of those that were not dealt with at once.
    set_aside_bytes: u64,
    /// By the connection's index.
    peers: Vec<Option<Peer>>,
    /// Index of the connection, by the session's.
    connections: Vec<u32>,
    /// Strangers that are being told why their sessions ended.
    lingering: Lingering<Key>,
    pub(super) open: usize,
    pub(super) stats: QuicStats,
    sends_left: usize,
    interest: Interest,
}

impl Quic {
    pub(super) fn new(now: Instant, shard: u16, shards: u16, setup: QuicSetup, poller: &Poller) -> io::Result<Self> {
        let QuicSetup { socket, server, forwards, seed } = setup;
        let port = UdpPort::new(socket)?;
        poller.add(&port, SOCKET, Interest::Read)?;
        Ok(Self {
            driver: Driver::new(now, server, shard, shards, seed),
            port,
            forwards,
            waiting: Waiting::new(),
            heard_bytes: 0,
            set_aside_bytes: 0,
            peers: Vec::new(),
            connections: Vec::new(),
            lingering: Lingering::new(),
            open: 0,
            stats: QuicStats::default(),
            sends_left: SENDS_MAX,
            interest: Interest::Read,
        })
    }

    /// When the endpoint is to be looked at.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.driver.poll_timeout()
    }

    /// Whether another turn has something to do without a further event.
    pub(super) fn has_work(&self) -> bool {
        (self.driver.has_work() || !self.waiting.is_empty()) && !self.port.is_blocked()
    }

    /// Whether somebody waits who has not signed in.
    pub(super) fn has_strangers(&self) -> bool {
        !self.waiting.is_empty() || self.driver.strangers_stirred()
    }

    /// Whether there are no sessions, and nobody is to be told anything any more. It may take as long as a handshake, and the node does not
    /// wait longer than it is told to drain.
    pub(super) fn has_parted(&self) -> bool {
        self.open + self.driver.parting() == 0 && !self.port.is_blocked()
    }

    /// What datagrams weighed that came, in bytes read.
    pub(super) fn heard_bytes(&self) -> u64 {
        self.heard_bytes
    }

    /// Whether no shard has forwarded anything.
    pub(super) fn nothing_waits(&self) -> bool {
        self.forwards.nothing_waits()
    }

    /// Where a session's client is, if it is here.
    pub(super) fn remote(&self, session: SessionKey) -> Option<SocketAddr> {
        self.driver.remote(self.peer(session)?.streams.key())
    }

    fn peer(&self, session: SessionKey) -> Option<&Peer> {
        let place = *self.connections.get(session.index())?;
        let peer = self.peers.get(usize::try_from(place).ok()?)?.as_ref()?;
        (peer.session == session).then_some(peer)
    }

    /// A shard's numbers, with this transport's.
    pub(super) fn told_in(&self, shell: ShellStats) -> ShellStats {
        let (of, ours) = (self.driver.stats(), &self.stats);
        ShellStats {
            quic_connections: self.driver.open() as u64,
            quic_half_open: self.driver.half_open() as u64,
            quic_waiting: self.waiting.len() as u64,
            quic_waiting_full_total: ours.waiting_full,
            quic_handshakes_total: of.handshakes,
            quic_handshakes_failed_total: of.handshakes_failed,
            quic_retries_total: of.retries,
            quic_refused_total: of.refused,
            quic_ignored_total: of.ignored,
            quic_strays_total: of.strays,
            quic_forwarded_total: ours.forwarded,
            quic_forward_full_total: ours.forward_full,
            quic_resets_total: of.resets,
            quic_responses_dropped_total: of.responses_dropped,
            quic_migrations_total: of.migrations,
            quic_timed_out_total: of.timed_out,
            quic_losses_total: of.losses,
            quic_losses_at_window_total: of.losses_at_window,
            quic_collapses_total: of.collapses,
            quic_lost_bytes_total: of.lost_bytes,
            quic_faults_total: ours.faults,
            // Nothing else lingers.
            webtransport_connections: ours.web + self.driver.lingering() as u64,
            webtransport_sessions_total: ours.web_sessions,
            webtransport_refused_total: ours.web_refused,
            webtransport_faults_total: ours.web_faults,
            quic_datagrams_ignored_total: ours.useless_datagrams,
            udp_received_total: of.datagrams_in,
            udp_received_bytes_total: of.bytes_in,
            udp_sent_total: of.datagrams_out,
            udp_sent_bytes_total: of.bytes_out,
            udp_sends_total: self.port.sends,
            udp_send_errors_total: self.port.send_errors,
            ..shell
        }
    }

    fn insert(&mut self, key: Key, protocol: Protocol, session: SessionKey) {
        if self.peers.len() <= key.index() {
            self.peers.resize_with(key.index() + 1, || None);
        }
        if self.connections.len() <= session.index() {
            self.connections.resize(session.index() + 1, NONE);
        }
        let mut streams = Session::new(key, protocol);
        streams.begin(&mut self.driver);
        self.stats.web += u64::from(protocol == Protocol::Http3);
        let standing = Standing::Arriving;
        self.peers[key.index()] = Some(Peer { session, streams, held: Held::default(), standing });
        self.connections[session.index()] = u32::try_from(key.index()).unwrap_or(NONE);
        self.open += 1;
    }

    fn remove(&mut self, key: Key, room: &mut InputRoom, admission: &mut Admission) -> Option<SessionKey> {
        let slot = self.peers.get_mut(key.index())?;
        let Peer { session, streams, mut held, standing } = slot.take_if(|peer| peer.streams.key() == key)?;
        self.stats.web -= u64::from(streams.protocol() == Protocol::Http3);
        self.connections[session.index()] = NONE;
        self.open -= 1;
        room.give_back(&mut held);
        if let Standing::AtTheDoor(place) = standing {
            // It is there as before, and counts at the door for as long.
            if self.driver.lingers(key) {
                self.lingering.insert(key, place, session.as_u64());
            } else {
                admission.leave(place, session.as_u64());
            }
        }
        Some(session)
    }

    /// The session's hello was accepted, if it is here.
    pub(super) fn sign_in(&mut self, session: SessionKey, admission: &mut Admission) {
        if let Some(key) = self.peer(session).map(|peer| peer.streams.key())
            && let Some(peer) = peer_of(&mut self.peers, key)
        {
            peer.sign_in(&mut self.driver, admission);
        }
    }

    /// Ends who lingers without a place any more; whether it did linger.
    pub(super) fn end_lingering(&mut self, who: u64) -> bool {
        let connection = self.lingering.displace(who);
        if let Some(key) = connection {
            self.driver.part_now(key);
        }
        connection.is_some()
    }

    /// Takes a datagram that landed here.
    fn landed(&mut self, now: Instant, datagram: Datagram) {
        match self.driver.route(&datagram.data) {
            Route::Here => self.take(now, datagram),
            Route::Nobody => {}
            Route::Shard(shard) => {
                self.stats.forwarded += 1;
                // A datagram may be lost; its sender sends it again.
                self.stats.forward_full += u64::from(!self.forwards.push(shard, datagram));
            }
        }
    }

    /// Takes a datagram of ours: at once if its connection is open, and in its part of the turn if it is of a handshake.
    fn take(&mut self, now: Instant, datagram: Datagram) {
        let bytes = datagram.data.len() as u64;
        match self.waiting.take(self.driver.stage(&datagram.data), datagram) {
            Taken::Now(datagram) => return self.handle(now, datagram),
            Taken::Waits => {}
            Taken::Lost => self.stats.waiting_full += 1,
        }
        self.set_aside_bytes += bytes;
    }

    fn handle(&mut self, now: Instant, Datagram { from, to, ecn, data }: Datagram) {
        self.driver.handle_datagram(now, from, to, ecn, data);
    }
}

impl Shard {
    /// Whether QUIC carries the session.
    pub(super) fn is_quic(&self, session: SessionKey) -> bool {
        self.quic.as_ref().is_some_and(|quic| quic.peer(session).is_some())
    }

    /// The socket has datagrams, of which this turn takes what weighs so many bytes; or it takes some again.
    pub(super) fn quic_ready(&mut self, now: Now, ready: Ready, work_bytes_max: u64) {
        let Some(quic) = &mut self.quic else { return };
        if ready.writable && quic.port.resume() == Sent::Done {
            quic.transmit_all(now.instant, &self.poller);
        }
        if ready.readable {
            let mut came = std::mem::take(&mut self.datagrams);
            let end = quic.heard_bytes + work_bytes_max;
            while quic.heard_bytes < end {
                let received = quic.port.receive(|datagram| came.push(datagram));
                quic.heard_bytes += received.work_bytes;
                let before = quic.set_aside_bytes;
                for datagram in came.drain(..) {
                    quic.landed(now.instant, datagram);
                }
                // To set one aside is little work: behind a thousand first packets there may be one of a session.
                quic.heard_bytes -= (quic.set_aside_bytes - before).min(received.work_bytes) / 8 * 7;
                quic.transmit_quiet(now.instant);
                if !received.goes_on {
                    break;
                }
            }
            self.datagrams = came;
        }
    }

    /// Takes what other shards forwarded.
    pub(super) fn take_forwarded(&mut self, now: Now) {
        let Some(quic) = &mut self.quic else { return };
        for _ in 0..self.turn.ring_items_max {
            let Some(datagram) = quic.forwards.pop() else { return };
            quic.take(now.instant, datagram);
        }
    }

    /// Goes on with handshakes, as far as the turn's steps go: the same that TLS takes them from, but a fourth of them in any case.
    pub(super) fn take_handshakes(&mut self, now: Now) {
        let Some(quic) = &mut self.quic else { return };
        let steps = self.handshakes_left.max(self.turn.handshakes_max.div_ceil(4));
        for _ in 0..steps {
            if quic.port.is_blocked() {
                return;
            }
            let Some(datagram) = quic.waiting.pop() else { return };
            self.handshakes_left = self.handshakes_left.saturating_sub(1);
            quic.handle(now.instant, datagram);
        }
    }

    /// What sessions' connections have to tell, told to the core.
    pub(super) fn take_quic_events(&mut self, now: Now) {
        let Some(quic) = &mut self.quic else { return };
        quic.sends_left = SENDS_MAX;
        if quic.driver.poll_timeout().is_some_and(|at| at <= now.instant) {
            quic.driver.handle_timeout(now.instant);
        }
        while let Some(event) = self.quic.as_mut().and_then(|quic| quic.driver.poll_event(now.instant)) {
            self.quic_event(now, event);
        }
    }

    /// The same of strangers: of as many as the turn may hear, and of a fourth of that in any case.
    pub(super) fn hear_quic_strangers(&mut self, now: Now) {
        let strangers_max = (self.turn.read_bytes_max as u64 / STRANGER_WORK_BYTES).max(1);
        let heard = self.strangers_heard - self.strangers_heard_before;
        let mut left = strangers_max.saturating_sub(heard).max(strangers_max.div_ceil(4));
        let mut cost = 0;
        loop {
            let before = self.strangers_heard;
            while let Some(event) = self.quic.as_mut().and_then(|quic| quic.driver.poll_event(now.instant)) {
                self.quic_event(now, event);
            }
            // Whoever has several streams to be read takes the time of several.
            left = left.saturating_sub(cost.max(self.strangers_heard - before));
            cost = 1;
            if left == 0 || !self.quic.as_mut().is_some_and(|quic| quic.driver.hear_stranger(now.instant)) {
                return;
            }
        }
    }

    /// Wakes shards that were given datagrams.
    pub(super) fn quic_flush_rings(&mut self) {
        if let Some(quic) = &mut self.quic {
            quic.forwards.flush();
        }
    }

    fn quic_event(&mut self, now: Now, event: Event) {
        match event {
            Event::Chosen(key, protocol) => self.quic_welcome(now, key, protocol),
            Event::Connected(key) => self.quic_connected(now, key),
            Event::Readable(key, stream) => self.quic_input(now, key, Some(stream)),
            Event::Datagrams(key) => {
                let Self { core, quic: Some(quic), .. } = self else { return };
                let Quic { driver, peers, stats, .. } = quic;
                let Some(peer) = peer_of(peers, key) else { return };
                let session = peer.session;
                let on_frame = |frame: &[u8]| core.handle_frame(now, session, frame);
                let (input, useless) = peer.streams.handle_datagrams(driver, on_frame);
                stats.useless_datagrams += useless;
                self.quic_consequence(now, key, input);
            }
            Event::Writable(key, stream) => {
                let Self { quic: Some(quic), .. } = self else { return };
                let Some(peer) = peer_of(&mut quic.peers, key) else { return };
                peer.streams.handle_writable(&mut quic.driver, stream);
                let session = peer.session;
                self.quic_write(now, session);
            }
            Event::Openable(key) => {
                let Self { quic: Some(quic), .. } = self else { return };
                let Some(peer) = peer_of(&mut quic.peers, key) else { return };
                peer.streams.begin(&mut quic.driver);
                let session = peer.session;
                self.quic_write(now, session);
            }
            Event::Stopped(key, stream) => {
                let Self { quic: Some(quic), .. } = self else { return };
                let Some(peer) = peer_of(&mut quic.peers, key) else { return };
                let input = peer.streams.handle_stopped(stream);
                self.quic_consequence(now, key, input);
            }
            Event::Ended(key, _) => self.quic_gone(now, key),
            Event::Parted(key) => {
                if let Some(quic) = &mut self.quic {
                    quic.lingering.remove(key, &mut self.admission);
                }
            }
        }
    }

    fn quic_welcome(&mut self, now: Now, key: Key, protocol: Protocol) {
        let Some(quic) = &mut self.quic else { return };
        self.stats.connections_accepted_total += 1;
        match self.core.handle_connected_in_lanes(now) {
            Ok(session) => quic.insert(key, protocol, session),
            Err(code) => {
                self.stats.connections_refused_busy_total += 1;
                let mut refused = Session::new(key, protocol);
                refused.close(&mut quic.driver, now.instant, code.number().into(), code.meaning().trim());
            }
        }
    }

    /// The handshake is complete, so the client is where it says: it takes a place at the door, unless it has signed in already.
    fn quic_connected(&mut self, now: Now, key: Key) {
        let Some(quic) = &mut self.quic else { return };
        let address = quic.driver.remote(key).map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |remote| remote.ip());
        let Some(peer) = peer_of(&mut quic.peers, key) else { return };
        if peer.standing == Standing::Arriving {
            let session = peer.session;
            let Some(place) = self.enter(now, address, session) else {
                let code = Code::Busy;
                return self.quic_end(now, key, code.number().into(), code.meaning().trim());
            };
            if let Some(peer) = self.quic.as_mut().and_then(|quic| peer_of(&mut quic.peers, key)) {
                peer.standing = Standing::AtTheDoor(place);
            }
        }
        self.quic_input(now, key, None);
    }

    /// A stream has bytes, or, without a stream, frames may go on that waited for the handshake.
    fn quic_input(&mut self, now: Now, key: Key, stream: Option<StreamId>) {
        let Self { core, quic: Some(quic), input_room, admission, stats, .. } = self else { return };
        let Quic { driver, peers, stats: web, .. } = quic;
        let Some(peer) = peer_of(peers, key) else { return };
        let session = peer.session;
        let is_stranger = peer.standing != Standing::SignedIn;
        let mut bytes = 0;
        let on_frame = |frame: &[u8]| {
            bytes += frame.len();
            core.handle_frame(now, session, frame);
        };
        let input = match stream {
            Some(stream) => peer.streams.handle_readable(driver, stream, on_frame),
            None => peer.streams.handle_connected(driver, on_frame),
        };
        stats.read_bytes_total += bytes as u64;
        // The end of a handshake for which nothing waited is no work.
        self.strangers_heard += u64::from(is_stranger && (stream.is_some() || bytes > 0));
        let counts = peer.streams.take_web_counts();
        web.web_sessions += counts.opened;
        web.web_refused += counts.refused;
        let held = peer.streams.held_bytes();
        if is_stranger && core.is_welcomed(session) {
            peer.sign_in(driver, admission);
        }
        let full = !input_room.count(&mut peer.held, held, peer.standing == Standing::SignedIn);
        if input == Input::Done && full {
            self.stats.input_room_ends_total += 1;
            self.quic_fault(now, key, Code::Busy, "too much unfinished input, try again later");
        } else {
            self.quic_consequence(now, key, input);
        }
    }

    /// Ends a connection as its input asks for.
    fn quic_consequence(&mut self, now: Now, key: Key, input: Input) {
        match input {
            Input::Done => {}
            Input::Goodbye => self.quic_end(now, key, 0, ""),
            Input::Fault(code, reason) => self.quic_fault(now, key, code, reason),
            Input::Http(error) => {
                if let Some(quic) = &mut self.quic {
                    quic.stats.web_faults += 1;
                    quic.driver.close(key, error.code.number(), error.reason);
                }
                self.quic_gone(now, key);
            }
        }
    }

    fn quic_write(&mut self, now: Now, session: SessionKey) {
        let Self { core, quic: Some(quic), stats, .. } = self else { return };
        let Some(key) = quic.peer(session).map(|peer| peer.streams.key()) else { return };
        let Quic { driver, peers, .. } = quic;
        let Some(peer) = peer_of(peers, key) else { return };
        let before = core.outbound(session).map_or(0, millrace_core::Outbound::queued_bytes);
        core.write_lanes(now, session, &mut peer.streams.lanes(driver));
        let after = core.outbound(session).map_or(0, millrace_core::Outbound::queued_bytes);
        stats.writes_total += 1;
        stats.written_bytes_total += before.saturating_sub(after) as u64;
        stats.short_writes_total += u64::from(after > 0);
        if peer.streams.is_broken() {
            self.quic_fault(now, key, Code::BadFrame, "a stream was stopped");
        }
    }

    /// The core ends a session: what waits goes first, as far as the client takes it.
    pub(super) fn quic_close(&mut self, now: Now, session: SessionKey, code: Code, reason: &str) {
        self.quic_write(now, session);
        let key = self.quic.as_ref().and_then(|quic| quic.peer(session)).map(|peer| peer.streams.key());
        if let Some(key) = key {
            self.quic_end(now, key, code.number().into(), reason);
        }
    }

    fn quic_fault(&mut self, now: Now, key: Key, code: Code, reason: &str) {
        if let Some(quic) = &mut self.quic {
            quic.stats.faults += 1;
        }
        self.quic_end(now, key, code.number().into(), reason);
    }

    fn quic_end(&mut self, now: Now, key: Key, code: u32, reason: &str) {
        if let Some(quic) = &mut self.quic
            && let Some(peer) = peer_of(&mut quic.peers, key)
        {
            peer.streams.close(&mut quic.driver, now.instant, code, reason);
        }
        self.quic_gone(now, key);
    }

    fn quic_gone(&mut self, now: Now, key: Key) {
        let Some(quic) = &mut self.quic else { return };
        if let Some(session) = quic.remove(key, &mut self.input_room, &mut self.admission) {
            self.core.handle_disconnected(now, session);
        }
    }
}

fn peer_of(peers: &mut [Option<Peer>], key: Key) -> Option<&mut Peer> {
    peers.get_mut(key.index())?.as_mut().filter(|peer| peer.streams.key() == key)
}

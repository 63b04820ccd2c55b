//! How connections come in: in batches, within the node's limit, and not at all while no descriptor is left.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use millrace_core::{Now, SessionKey};
use millrace_protocol::Code;
use millrace_protocol::ws::handshake::HEAD_BYTES_MAX;
use rustls::ServerConfig;

use super::Shard;
use super::admission::{Entry, Place};
use super::connection::{Connection, full};
use super::parting::{Origin, Parting};
use super::traffic::receive;
use crate::listener::{Accepted, Listener};
use crate::poller::{Interest, Poller};
use crate::tls::TlsSession;

/// After running out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections above the limit that are told so, at one time; more are closed without a word.
const REFUSED_MAX: usize = 32;

/// Where clients knock.
pub(super) struct Door {
    /// What the poller knows it by.
    token: u64,
    /// What those who come in here are to speak, if it is TLS.
    tls: Option<Arc<ServerConfig>>,
    /// `None` once the node drains.
    listener: Option<Listener>,
    /// Nobody is let in before: no descriptor was left.
    paused_until: Option<Instant>,
    crowd: Crowd,
}

/// How many connections to expect behind a ready listener. To ask for one too many is dear: the kernel makes a socket and a descriptor
/// before it looks whether anybody waits. To ask for too few costs a turn, since the listener stays ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Crowd {
    expected: usize,
    /// The last turn that took all it expected.
    filled_in: u64,
}

impl Crowd {
    const NONE: Self = Self { expected: 1, filled_in: 0 };

    /// A turn took so many, and `more` may wait.
    fn took(&mut self, turn: u64, taken: usize, more: bool) {
        if !more {
            self.expected = taken.max(1);
        } else {
            // Full in two turns that follow each other: it is a crowd, and nobody who came alone twice.
            if self.filled_in + 1 == turn {
                self.expected = taken.saturating_mul(2);
            }
            self.filled_in = turn;
        }
    }
}

impl Door {
    pub(super) fn new(
        poller: &Poller,
        token: u64,
        listener: Listener,
        tls: Option<Arc<ServerConfig>>,
    ) -> io::Result<Self> {
        poller.add_behind(&listener, token, Interest::Read)?;
        Ok(Self { token, tls, listener: Some(listener), paused_until: None, crowd: Crowd::NONE })
    }

    /// Lets nobody in any more.
    pub(super) fn close(&mut self) {
        self.listener = None;
        self.paused_until = None;
    }

    /// When [`Door::resume`] is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.paused_until
    }

    fn pause(&mut self, poller: &Poller, now: Instant) -> io::Result<()> {
        if let Some(listener) = &self.listener {
            poller.remove(listener)?;
            self.paused_until = Some(now + ACCEPT_PAUSE);
        }
        Ok(())
    }

    /// Ends a pause whose time has come.
    pub(super) fn resume(&mut self, poller: &Poller, now: Instant) {
        if let Some(listener) = &self.listener
            && self.paused_until.is_some_and(|until| until <= now)
        {
            let again = poller.add_behind(listener, self.token, Interest::Read);
            // Without memory for the watch the pause goes on.
            self.paused_until = again.is_err().then(|| now + ACCEPT_PAUSE);
        }
    }
}

impl Shard {
    /// Takes as many connections from a door as a turn may.
    ///
    /// # Errors
    /// From the operating system, if the listener itself is broken.
    pub(super) fn accept(&mut self, now: Now, door: usize) -> io::Result<()> {
        let turn = self.stats.turns_total;
        let Some(expected) = self.doors.get(door).map(|door| door.crowd.expected.min(self.turn.accepts_max)) else {
            return Ok(());
        };
        for taken in 0..expected {
            let Some(listener) = &self.doors[door].listener else { return Ok(()) };
            match listener.accept()? {
                Accepted::Nobody => {
                    self.doors[door].crowd.took(turn, taken, false);
                    return Ok(());
                }
                Accepted::Connection(fd, address) => {
                    let tls = self.doors[door].tls.clone();
                    self.welcome(now, fd, address, tls);
                }
                Accepted::NoDescriptors => {
                    self.stats.accept_pauses_total += 1;
                    if self.stats.accept_pauses_total == 1 {
                        tracing::warn!("no descriptor or memory is left, accepting pauses; told once, counted always");
                    }
                    return self.doors[door].pause(&self.poller, now.instant);
                }
            }
        }
        self.doors[door].crowd.took(turn, expected, true);
        Ok(())
    }

    fn welcome(&mut self, now: Now, fd: OwnedFd, address: IpAddr, tls: Option<Arc<ServerConfig>>) {
        self.stats.connections_accepted_total += 1;
        if self.node_connections.fetch_add(1, Ordering::Relaxed) >= self.connections_max {
            self.node_connections.fetch_sub(1, Ordering::Relaxed);
            self.stats.connections_refused_full_total += 1;
            self.refuse(now, fd, tls.is_some());
            return;
        }
        let session = match self.core.handle_connected(now) {
            Ok(session) => session,
            Err(_busy_or_going_away) => {
                self.node_connections.fetch_sub(1, Ordering::Relaxed);
                self.stats.connections_refused_busy_total += 1;
                self.refuse(now, fd, tls.is_some());
                return;
            }
        };
        let Some(place) = self.enter(now, address, session) else {
            self.forget(now, session);
            self.refuse(now, fd, tls.is_some());
            return;
        };
        // Most clients have sent their request by now. To read it before the set knows the socket saves a round through the set;
        // a longer one is no request, and its rest comes in its turn.
        let request = match tls {
            None => receive(&fd, &mut self.buffer[..HEAD_BYTES_MAX]),
            Some(_) => None,
        };
        if self.poller.add_behind(&fd, session.as_u64(), Interest::Read).is_err() {
            self.admission.leave(place, session.as_u64());
            self.forget(now, session);
            return;
        }
        if self.connections.len() <= session.index() {
            self.connections.resize_with(session.index() + 1, || None);
        }
        let is_sealed = tls.is_some();
        let tls = tls.map(|config| Box::new(TlsSession::new(config)));
        let mut connection = Connection::new(fd, session, tls);
        connection.place = Some(place);
        self.connections[session.index()] = Some(connection);
        self.open += 1;
        if is_sealed {
            self.stats.tls_connections += 1;
            self.read_sealed(now, session);
        } else if let Some(input) = request {
            self.take_in(now, session, input);
        }
    }

    /// A place at the door for a session's connection, of whatever transport; perhaps that of another one, who ends.
    pub(super) fn enter(&mut self, now: Now, address: IpAddr, session: SessionKey) -> Option<Place> {
        match self.admission.enter(now.instant, address, session.as_u64()) {
            Entry::In(place) => Some(place),
            Entry::Instead(place, other) => {
                self.stats.strangers_ended_total += 1;
                if Parting::is_token(other) {
                    let gone = self.parting.end(other, &mut self.admission);
                    self.count_gone(gone);
                    return Some(place);
                }
                if self.quic.as_mut().is_some_and(|quic| quic.end_lingering(other)) {
                    return Some(place);
                }
                let other = SessionKey::from_u64(other);
                if self.is_quic(other) {
                    self.quic_close(now, other, Code::HandshakeTimeout, "no hello, and somebody else needs the place");
                } else {
                    self.drop_connection(now, other);
                }
                Some(place)
            }
            Entry::Refused => {
                self.stats.strangers_refused_total += 1;
                None
            }
        }
    }

    /// Tells a connection that there is no place for it, while not too many are being told. One that speaks TLS would need a
    /// handshake to be told anything: it is closed.
    fn refuse(&mut self, now: Now, fd: OwnedFd, is_sealed: bool) {
        if !is_sealed && self.parting.refused() < REFUSED_MAX {
            let Self { parting, poller, admission, .. } = self;
            parting.insert(now.instant, poller, admission, fd, full(), Origin::Refused, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_is_noticed_and_forgotten() {
        let mut crowd = Crowd::NONE;
        let mut check = |turn: u64, taken: usize, more: bool, expect: usize| {
            crowd.took(turn, taken, more);
            assert_eq!(crowd.expected, expect, "turn {turn}");
        };
        // One now and then: never one too many is asked for.
        check(10, 1, true, 1);
        check(12, 1, true, 1);
        check(20, 1, true, 1);
        check(21, 1, true, 2);
        check(22, 2, true, 4);
        check(23, 4, true, 8);
        check(24, 5, false, 5);
        check(25, 5, true, 5);
        check(26, 5, true, 10);
        check(40, 0, false, 1);
    }
}

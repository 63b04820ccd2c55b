//! Connections over TLS: their bytes go through the connection's [`TlsSession`] on their way in and out, by buffers that the
//! shard's connections share.

use std::os::fd::AsFd;

use millrace_core::{Now, SessionKey};
use rustix::io::Errno;
use rustix::net::send;

use super::Shard;
use super::connection::SEND_FLAGS;
use super::traffic::{Input, receive};
use crate::poller::Interest;
use crate::report::ShellStats;
use crate::tls::{Failure, Opened, SEAL_BYTES_MAX, Sealed, TlsSession};

/// Buffers for what is opened and sealed, one connection at a time.
pub(super) struct Scratch {
    /// Clear input; changes places with the shard's buffer.
    opened: Box<[u8]>,
    /// Clear output of one write.
    joined: Vec<u8>,
    sealed: Sealed,
    /// What is sealed is not sent: it is this session's, and leaves with the answer to what came with it.
    carried: Option<SessionKey>,
}

impl Scratch {
    /// `read_bytes` is the length of the shard's buffer, or 0 where nobody speaks TLS.
    pub(super) fn new(read_bytes: usize) -> Self {
        Self {
            opened: vec![0; read_bytes].into_boxed_slice(),
            joined: Vec::new(),
            sealed: Sealed::default(),
            carried: None,
        }
    }

    /// Begins a write.
    pub(super) fn begin(&mut self) {
        self.joined.clear();
        if self.carried.is_none() {
            self.sealed.clear();
        }
    }

    /// What is carried for a session that ends goes before its last words.
    pub(super) fn put_down(&mut self, session: SessionKey, tls: &mut TlsSession) {
        if self.carried.take_if(|of| *of == session).is_some() {
            tls.keep_unsent(self.sealed.bytes());
        }
    }

    /// Adds as many of these clear bytes as a write may have.
    pub(super) fn join(&mut self, clear: &[u8]) -> usize {
        let part = clear.len().min(SEAL_BYTES_MAX - self.joined.len().min(SEAL_BYTES_MAX));
        self.joined.extend_from_slice(&clear[..part]);
        part
    }

    /// Seals what was joined and sends it once. What the socket does not take stays in the connection.
    pub(super) fn send(&mut self, tls: &mut TlsSession, fd: impl AsFd) -> Result<(), Errno> {
        if self.joined.is_empty() {
            return Ok(());
        }
        if !tls.seal(&self.joined, &mut self.sealed) {
            return Err(Errno::PIPE);
        }
        self.send_sealed(tls, fd)
    }

    fn send_sealed(&mut self, tls: &mut TlsSession, fd: impl AsFd) -> Result<(), Errno> {
        self.carried = None;
        // What waits is older.
        let sent = if tls.unsent().is_empty() { send_some(fd, self.sealed.bytes())? } else { 0 };
        let rest = &self.sealed.bytes()[sent..];
        if !rest.is_empty() {
            tls.keep_unsent(rest);
        }
        Ok(())
    }

    /// Sends once of what the socket did not take before; how much it took.
    pub(super) fn resend(&mut self, tls: &mut TlsSession, fd: impl AsFd) -> Result<usize, Errno> {
        let sent = send_some(fd, tls.unsent())?;
        tls.handle_sent(sent);
        Ok(sent)
    }

    /// Seals and sends an answer of a few bytes. `false` if the connection is of no use.
    pub(super) fn answer(&mut self, tls: &mut TlsSession, fd: impl AsFd, clear: &[u8]) -> bool {
        self.begin();
        self.join(clear);
        self.send(tls, fd).is_ok()
    }
}

/// Bytes taken; 0 also when the socket takes none now.
fn send_some(fd: impl AsFd, bytes: &[u8]) -> Result<usize, Errno> {
    match send(fd, bytes, SEND_FLAGS) {
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        sent => sent,
    }
}

impl ShellStats {
    fn count_failure(&mut self, failure: Failure) {
        *match failure {
            Failure::ClearHttp => &mut self.tls_failures_clear_http_total,
            Failure::NotTls => &mut self.tls_failures_not_tls_total,
            Failure::Incompatible => &mut self.tls_failures_incompatible_total,
            Failure::Certificate => &mut self.tls_failures_certificate_total,
            Failure::Alert => &mut self.tls_failures_alert_total,
            Failure::Malformed => &mut self.tls_failures_malformed_total,
            Failure::Oversize => &mut self.tls_failures_oversize_total,
        } += 1;
    }
}

impl Shard {
    /// Reads a socket once, opens what came, and takes in what is clear.
    pub(super) fn read_sealed(&mut self, now: Now, session: SessionKey) {
        let Some(Some(connection)) = self.connections.get(session.index()) else { return };
        let Some(tls) = &connection.tls else { return };
        if tls.is_handshaking() {
            // It stays readable, and is next when this turn's output is on its way.
            if self.handshakes_left == 0 {
                return;
            }
            self.handshakes_left -= 1;
        }
        // What came of the last record stands before what comes now.
        let unfinished = tls.unfinished();
        match receive(&connection.fd, &mut self.buffer[unfinished.len()..]) {
            None => {}
            Some(Input::End) => self.drop_connection(now, session),
            Some(Input::Bytes(bytes)) => {
                self.stats.read_bytes_total += bytes as u64;
                self.buffer[..unfinished.len()].copy_from_slice(unfinished);
                let bytes = unfinished.len() + bytes;
                self.take_in_sealed(now, session, bytes);
            }
        }
    }

    fn take_in_sealed(&mut self, now: Now, session: SessionKey, bytes: usize) {
        let Self { connections, buffer, scratch, input_room, stats, .. } = self;
        let Some(Some(connection)) = connections.get_mut(session.index()) else { return };
        let Some(tls) = &mut connection.tls else { return };
        let unfinished_before = tls.unfinished().len();
        scratch.carried = None;
        scratch.sealed.clear();
        let (opened, clear_bytes) = tls.open(&mut buffer[..bytes], &mut scratch.opened, &mut scratch.sealed);
        let held = connection.held.bytes - unfinished_before + tls.unfinished().len();
        // The end of a handshake came with a first request: the ticket leaves with the answer.
        if clear_bytes > 0 && !scratch.sealed.is_empty() && matches!(opened, Opened::Established { .. }) {
            scratch.carried = Some(session);
        } else if !scratch.sealed.is_empty() && scratch.send_sealed(tls, &connection.fd).is_err() {
            self.drop_connection(now, session);
            return;
        }
        let is_blocked = !tls.unsent().is_empty();
        let has_room = connection.holds(held, input_room);
        match opened {
            Opened::GoOn | Opened::End => {}
            Opened::Established { resumed } => {
                stats.tls_handshakes_total += 1;
                stats.tls_resumed_total += u64::from(resumed);
            }
            Opened::Failed(failure) => {
                stats.count_failure(failure);
                // The alert waits in the connection or is sent; nothing else can be sealed.
                self.part(now, session, |_, _| Vec::new());
                return;
            }
        }
        if !has_room {
            let consequence = connection.no_room();
            match connection.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) {
                // Nothing can be said yet.
                true => {
                    stats.input_room_ends_total += 1;
                    self.drop_connection(now, session);
                }
                false => self.end_by(now, session, consequence),
            }
            return;
        }
        if is_blocked {
            self.await_writable(now, session);
        }
        if clear_bytes > 0 {
            std::mem::swap(&mut self.buffer, &mut self.scratch.opened);
            self.take_in_clear(now, session, clear_bytes);
        }
        if self.scratch.carried.take().is_some() {
            self.send_carried(now, session);
        }
        if opened == Opened::End {
            self.drop_connection(now, session);
        }
    }

    /// Nothing was answered: what was to go with it goes alone.
    fn send_carried(&mut self, now: Now, session: SessionKey) {
        let Self { connections, scratch, .. } = self;
        let Some(Some(connection)) = connections.get_mut(session.index()) else { return };
        let Some(tls) = connection.tls.as_mut().filter(|_| connection.session == session) else { return };
        let sent = scratch.send_sealed(tls, &connection.fd);
        let is_blocked = !tls.unsent().is_empty();
        if sent.is_err() {
            self.drop_connection(now, session);
        } else if is_blocked {
            self.await_writable(now, session);
        }
    }

    /// Tells a connection for which there are no words that its end is one and no cut, if its socket takes that.
    pub(super) fn tell_end(&mut self, session: SessionKey) {
        let Some(connection) = self.connection(session) else { return };
        if let Some(tls) = connection.tls.as_mut().filter(|tls| !tls.is_handshaking()) {
            let _ = send_some(&connection.fd, &tls.last_words(&[]));
        }
    }

    /// The socket did not take all of a handshake's flight.
    fn await_writable(&mut self, now: Now, session: SessionKey) {
        let Some(Some(connection)) = self.connections.get_mut(session.index()) else { return };
        if connection.interest != Interest::ReadWrite {
            connection.interest = Interest::ReadWrite;
            if self.poller.change(&connection.fd, session.as_u64(), Interest::ReadWrite).is_err() {
                self.drop_connection(now, session);
            }
        }
    }
}

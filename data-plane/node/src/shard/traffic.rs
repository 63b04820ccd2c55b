//! Bytes of connections: in to the core, out of its queues, and the ways in which a connection ends.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;

use millrace_core::{Now, SessionKey, Written};
use millrace_protocol::Code;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::batch::BATCH_LEAST;
use super::connection::{CloseCause, Connection, Consequence, Seen, WriteOutcome, close_frame};
use super::parting::{Gone, Origin};
use super::{Flow, Shard};
use crate::poller::Interest;

/// What a socket gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    /// So many bytes, at least one.
    Bytes(usize),
    /// No more will come.
    End,
}

/// Reads a socket once without waiting; `None` if there is nothing now.
pub(super) fn receive(fd: impl AsFd, buffer: &mut [u8]) -> Option<Input> {
    match recv(fd, buffer, RecvFlags::DONTWAIT) {
        Ok((_, 0)) => Some(Input::End),
        Ok((_, bytes)) => Some(Input::Bytes(bytes)),
        Err(Errno::AGAIN | Errno::INTR) => None,
        // Gone without a word, which is common.
        Err(_) => Some(Input::End),
    }
}

impl Shard {
    /// The session's connection, unless the key is an old one.
    pub(super) fn connection(&mut self, session: SessionKey) -> Option<&mut Connection> {
        self.connections.get_mut(session.index())?.as_mut().filter(|connection| connection.session == session)
    }

    pub(super) fn read(&mut self, now: Now, session: SessionKey) {
        let Some(Some(connection)) = self.connections.get(session.index()) else { return };
        if connection.session != session {
            return;
        }
        if connection.tls.is_some() {
            self.read_sealed(now, session);
            return;
        }
        if let Some(input) = receive(&connection.fd, &mut self.buffer) {
            self.take_in(now, session, input);
        }
    }

    /// Takes in what was received from a connection into the shard's buffer.
    pub(super) fn take_in(&mut self, now: Now, session: SessionKey, input: Input) {
        let Input::Bytes(bytes) = input else {
            self.drop_connection(now, session);
            return;
        };
        self.stats.read_bytes_total += bytes as u64;
        self.take_in_clear(now, session, bytes);
    }

    /// Takes in the first bytes of the shard's buffer, which a connection sent in clear or which were opened.
    pub(super) fn take_in_clear(&mut self, now: Now, session: SessionKey, bytes: usize) {
        let Self { core, connections, buffer, scratch, input_room, compression, admission, poller, stats, .. } = self;
        let Some(Some(connection)) = connections.get_mut(session.index()) else { return };
        self.strangers_heard += u64::from(connection.place.is_some());
        let mut seen = Seen::default();
        let inflater = compression.as_mut().map(|compression| &mut compression.inflater);
        let input = &mut buffer[..bytes];
        let consequence = connection.handle_input(input, inflater, input_room, scratch, &mut seen, |frame| {
            core.handle_frame(now, session, frame);
        });
        if let Some(compression) = compression {
            stats.inflated_bytes_total = compression.inflater.inflated_bytes();
        }
        if let Some(window) = seen.agreed {
            stats.compression_agreed_total += 1;
            core.handle_agreed(session, window);
        }
        stats.upgrades_total += seen.upgrades;
        stats.ws_pings_total += seen.pings;
        stats.ws_pings_dropped_total += seen.pings_dropped;
        let consequence = match consequence {
            Consequence::None if connection.place.is_some() && core.is_welcomed(session) => {
                connection.sign_in(admission, poller)
            }
            consequence => consequence,
        };
        let owes_reply = connection.owes_reply();
        if consequence != Consequence::None {
            self.end_by(now, session, consequence);
        } else if owes_reply {
            self.flush(now, session);
        }
    }

    /// A session's hello was accepted, which had waited.
    pub(super) fn signed_in(&mut self, now: Now, session: SessionKey) {
        let Self { connections, quic, admission, poller, .. } = self;
        if let Some(quic) = quic {
            quic.sign_in(session, admission);
        }
        let connection = connections.get_mut(session.index()).and_then(Option::as_mut);
        if let Some(connection) = connection.filter(|connection| connection.session == session) {
            let consequence = connection.sign_in(admission, poller);
            self.end_by(now, session, consequence);
        }
    }

    /// Ends a connection as its input asks for.
    pub(super) fn end_by(&mut self, now: Now, session: SessionKey, consequence: Consequence) {
        let stats = &mut self.stats;
        match consequence {
            Consequence::None => {}
            Consequence::Refused(answer) => {
                stats.http_refused_total += 1;
                self.part(now, session, |_, _| answer);
            }
            Consequence::Close { frame, cause } => {
                match cause {
                    CloseCause::Peer => {}
                    CloseCause::Framing => stats.ws_errors_total += 1,
                    CloseCause::Text => stats.text_messages_total += 1,
                    CloseCause::Room => stats.input_room_ends_total += 1,
                }
                self.part(now, session, |connection, outbound| {
                    let mut rest = connection.rest(outbound, false);
                    rest.extend_from_slice(&frame);
                    rest
                });
            }
            Consequence::Broken => self.drop_connection(now, session),
        }
    }

    /// Writes to all sessions that wait for it: to those with one piece together, where there are several.
    pub(super) fn flush_all(&mut self, now: Now) {
        let mut flushes = std::mem::take(&mut self.flushes);
        let together = self.batch.is_some() && flushes.len() >= BATCH_LEAST;
        for session in flushes.drain(..) {
            if together && self.piece(session).is_some() {
                self.batched.push(session);
            } else {
                self.flush(now, session);
            }
        }
        self.flushes = flushes;
        self.flush_batch(now);
    }

    /// All that waits for a session, if it is one piece that its socket can be given as it is.
    fn piece(&self, session: SessionKey) -> Option<(BorrowedFd<'_>, &[u8])> {
        let connection = self.connections.get(session.index())?.as_ref()?;
        if connection.session != session {
            return None;
        }
        Some((connection.fd.as_fd(), connection.piece(self.core.outbound(session)?)?))
    }

    fn flush_batch(&mut self, now: Now) {
        let Some(mut batch) = self.batch.take_if(|_| !self.batched.is_empty()) else { return };
        let mut batched = std::mem::take(&mut self.batched);
        // Nothing has changed since they were chosen. If it had for one, it and those behind it go by themselves.
        let results = batch.send(batched.iter().map_while(|&session| self.piece(session)));
        self.stats.write_batches_total += 1;
        let alone = batched.split_off(results.len());
        for (session, &result) in batched.drain(..).zip(results) {
            let Some(Some(connection)) = self.connections.get_mut(session.index()) else { continue };
            let Some(outbound) = self.core.outbound(session) else { continue };
            let wrote = connection.wrote(outbound, result);
            if self.settle(now, session, wrote) == Flow::GoOn {
                self.flush(now, session);
            }
        }
        for session in alone {
            self.flush(now, session);
        }
        self.batched = batched;
        self.batch = Some(batch);
    }

    /// Writes until nothing waits or the socket takes no more.
    pub(super) fn flush(&mut self, now: Now, session: SessionKey) {
        loop {
            let Self { core, connections, scratch, .. } = self;
            let Some(Some(connection)) = connections.get_mut(session.index()) else { return };
            if connection.session != session || !connection.may_write() {
                return;
            }
            let wrote = connection.write(core.outbound(session), scratch);
            if self.settle(now, session, wrote) == Flow::Stop {
                return;
            }
        }
    }

    /// Tells the core what became of a write. `GoOn` when there is more to write.
    fn settle(&mut self, now: Now, session: SessionKey, wrote: WriteOutcome) -> Flow {
        let Self { core, connections, poller, stats, .. } = self;
        let Some(Some(connection)) = connections.get_mut(session.index()) else { return Flow::Stop };
        stats.writes_total += u64::from(wrote != WriteOutcome::Taken(0));
        let interest = match wrote {
            WriteOutcome::Broken => {
                self.drop_connection(now, session);
                return Flow::Stop;
            }
            WriteOutcome::Taken(bytes) => {
                stats.written_bytes_total += bytes as u64;
                core.handle_written(now, session, Written { bytes, blocked: false });
                if connection.owes_reply() || core.outbound(session).is_some_and(|outbound| !outbound.is_empty()) {
                    return Flow::GoOn;
                }
                Interest::Read
            }
            WriteOutcome::Blocked(bytes) => {
                stats.written_bytes_total += bytes as u64;
                stats.short_writes_total += 1;
                core.handle_written(now, session, Written { bytes, blocked: true });
                Interest::ReadWrite
            }
            WriteOutcome::Moved => {
                // The peer reads, although nothing of the queue moves: it is not stalled, and it is blocked.
                core.handle_written(now, session, Written { bytes: 0, blocked: false });
                core.handle_written(now, session, Written { bytes: 0, blocked: true });
                Interest::ReadWrite
            }
        };
        if connection.interest != interest {
            connection.interest = interest;
            if poller.change(&connection.fd, session.as_u64(), interest).is_err() {
                self.drop_connection(now, session);
            }
        }
        Flow::Stop
    }

    /// The core ends a session.
    pub(super) fn close(&mut self, now: Now, session: SessionKey, code: Code, reason: &str) {
        match self.connection(session).map(|connection| connection.is_open()) {
            Some(true) => self.part(now, session, |connection, outbound| {
                let mut rest = connection.rest(outbound, true);
                rest.extend_from_slice(&close_frame(Some(code.number()), reason));
                rest
            }),
            // It never spoke WebSocket: there are no words for it.
            Some(false) => {
                self.tell_end(session);
                self.drop_connection(now, session);
            }
            None => {}
        }
    }

    /// Moves a connection to those that are over, with its last bytes.
    pub(super) fn part(
        &mut self,
        now: Now,
        session: SessionKey,
        rest: impl FnOnce(&Connection, Option<&millrace_core::Outbound>) -> Vec<u8>,
    ) {
        let Some(mut connection) = self.connections.get_mut(session.index()).and_then(Option::take) else { return };
        // Its descriptor is there for as long as it lingers, so a stranger has its place at the door until then.
        let origin = match connection.place.take() {
            None => Origin::Counted,
            Some(place) => Origin::Stranger(place, session.as_u64()),
        };
        self.let_go(&mut connection);
        let rest = rest(&connection, self.core.outbound(session));
        let Connection { fd, interest, tls, .. } = connection;
        let rest = match tls {
            None => rest,
            Some(mut tls) => {
                self.scratch.put_down(session, &mut tls);
                tls.last_words(&rest)
            }
        };
        self.core.handle_disconnected(now, session);
        let Self { parting, poller, admission, .. } = self;
        let gone = parting.insert(now.instant, poller, admission, fd, rest, origin, Some(interest));
        self.count_gone(gone);
    }

    /// A connection is gone, or of no use.
    pub(super) fn drop_connection(&mut self, now: Now, session: SessionKey) {
        if self.connection(session).is_none() {
            return;
        }
        if let Some(mut connection) = self.connections[session.index()].take() {
            self.let_go(&mut connection);
            self.forget(now, session);
        }
    }

    fn let_go(&mut self, connection: &mut Connection) {
        self.open -= 1;
        if let Some(tls) = &connection.tls {
            self.stats.tls_connections -= 1;
            self.stats.tls_handshakes_abandoned_total += u64::from(tls.is_handshaking());
        }
        self.input_room.give_back(&mut connection.held);
        if let Some(place) = connection.place.take() {
            self.admission.leave(place, connection.session.as_u64());
        }
    }

    pub(super) fn forget(&mut self, now: Now, session: SessionKey) {
        self.core.handle_disconnected(now, session);
        self.node_connections.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn count_gone(&mut self, gone: Gone) {
        self.stats.resets_total += gone.resets;
        if gone.counted > 0 {
            self.node_connections.fetch_sub(gone.counted, Ordering::Relaxed);
        }
    }
}

//! What can be done with one connection: read, write, open, look.

use std::any::Any;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use quinn_proto::{ConnectionError, Dir, ReadError, StreamId, VarInt, WriteError};

use super::{Driver, Key};
use crate::Protocol;
use crate::handshake::Chosen;
use crate::wheel::Armed;

pub(super) struct Connection {
    pub(super) inner: quinn_proto::Connection,
    pub(super) key: Key,
    /// Where its client was last seen.
    pub(super) remote: SocketAddr,
    /// When its handshake has to be done.
    pub(super) handshake_by: Option<Instant>,
    /// The id that it is known by until its handshake is complete.
    pub(super) half_open: Option<u64>,
    /// Acknowledgements that had come when that was asked for last.
    acknowledgements: u64,
    /// Its handshake will not be.
    pub(super) has_failed: bool,
    /// Its entry in the wheel.
    pub(super) armed: Option<Armed>,
    /// Nobody has signed in on it.
    pub(super) is_stranger: bool,
    /// It is among those that were sent something just now.
    pub(super) fresh: bool,
    /// It is among those that may have something to tell.
    pub(super) stirred: bool,
    /// It is among those that may have something to send.
    pub(super) sending: bool,
    /// Its end has been told, or was ours: no event comes any more.
    pub(super) told_end: bool,
    /// What is said last, behind everything that can be sent.
    goodbye: Option<Goodbye>,
}

struct Goodbye {
    code: VarInt,
    reason: Bytes,
    /// Until then the client may say it first.
    not_before: Option<Instant>,
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The client closed it, with this code.
    Closed(u64),
    /// The client, or what it runs on, broke the transport's rules or was lost with them; or the client found us at fault.
    Lost,
    /// Nothing came from the client for too long.
    TimedOut,
}

impl End {
    pub(super) fn of(reason: &ConnectionError) -> Self {
        match reason {
            ConnectionError::ApplicationClosed(close) => Self::Closed(close.error_code.into_inner()),
            ConnectionError::TimedOut => Self::TimedOut,
            _ => Self::Lost,
        }
    }
}

/// What a stream gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// These bytes come next.
    Chunk(Bytes),
    /// Nothing for now.
    Blocked,
    /// The client has sent all it had to.
    Finished,
    /// The client broke it off, or it is gone.
    Gone,
}

/// What a stream took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// Everything.
    Taken,
    /// A part; the rest is left in place, and `Writable` tells when to go on.
    Blocked,
    /// It takes nothing any more.
    Gone,
}

impl Connection {
    pub(super) fn new(key: Key, inner: quinn_proto::Connection, handshake_by: Instant, cid: u64) -> Self {
        let remote = inner.remote_address();
        Self {
            inner,
            key,
            remote,
            handshake_by: Some(handshake_by),
            half_open: Some(cid),
            acknowledgements: 0,
            has_failed: false,
            armed: None,
            is_stranger: true,
            fresh: false,
            stirred: false,
            sending: false,
            told_end: false,
            goodbye: None,
        }
    }

    /// Everything is sent that can be: says goodbye, if that is to be said and can be understood. Whether there is more to send now.
    pub(super) fn part(&mut self, now: Instant) -> bool {
        // Before the handshake is complete a client would be told an error without our code and words (RFC 9000 §10.2.3).
        let is_due = |goodbye: &mut Goodbye| goodbye.not_before.is_none_or(|at| at <= now);
        let Some(Goodbye { code, reason, .. }) =
            self.goodbye.take_if(|goodbye| is_due(goodbye) && !self.inner.is_handshaking())
        else {
            return false;
        };
        self.inner.close(now, code, reason);
        true
    }

    /// Whether its goodbye waits for the client's.
    pub(super) fn lingers(&self) -> bool {
        self.goodbye.as_ref().is_some_and(|goodbye| goodbye.not_before.is_some())
    }

    /// Whether it has a goodbye to say.
    pub(super) fn parts(&self) -> bool {
        self.goodbye.is_some()
    }

    /// It is closed already; whether its goodbye waited for that.
    pub(super) fn end_linger(&mut self) -> bool {
        self.goodbye.take_if(|goodbye| goodbye.not_before.is_some()).is_some()
    }

    /// It waits for the client's goodbye no more; whether it did.
    fn end_wait(&mut self) -> bool {
        self.goodbye.as_mut().is_some_and(|goodbye| goodbye.not_before.take().is_some())
    }

    /// When it has to be looked at.
    pub(super) fn next_look(&mut self) -> Option<Instant> {
        [self.inner.poll_timeout(), self.handshake_by, self.parts_at()].into_iter().flatten().min()
    }

    /// When [`part`](Self::part) is to be asked without another reason.
    fn parts_at(&self) -> Option<Instant> {
        // While a handshake is under way, its end is the reason.
        self.goodbye.as_ref().filter(|_| !self.inner.is_handshaking())?.not_before
    }

    pub(super) fn protocol(&self) -> Option<Protocol> {
        let data: Box<dyn Any> = self.inner.crypto_session().handshake_data()?;
        data.downcast::<Chosen>().ok()?.0
    }
}

impl Driver {
    /// Ends a connection: no event of it comes any more. What was written goes first, as far as the client's windows let it; while the
    /// handshake is under way the end waits for that, and no longer than a handshake may take.
    pub fn close(&mut self, key: Key, code: u32, reason: &str) {
        let Some(connection) = self.connection_mut(key) else { return };
        if !std::mem::replace(&mut connection.told_end, true) {
            let reason = Bytes::copy_from_slice(reason.as_bytes());
            connection.goodbye = Some(Goodbye { code: VarInt::from_u32(code), reason, not_before: None });
            self.parting += 1;
        }
        self.touch(key.index);
    }

    /// The same, but that the client has [`Limits::linger`](crate::Limits::linger) to read what was written, and to close the connection
    /// itself. [`Event::Parted`](crate::Event::Parted) says when it is closed.
    pub fn linger(&mut self, now: Instant, key: Key, code: u32) {
        let until = now + self.server.limits.linger;
        let Some(connection) = self.connection_mut(key) else { return };
        if !std::mem::replace(&mut connection.told_end, true) {
            let (code, not_before) = (VarInt::from_u32(code), Some(until));
            connection.goodbye = Some(Goodbye { code, reason: Bytes::new(), not_before });
            self.parting += 1;
            self.lingering += 1;
        }
        self.touch(key.index);
    }

    /// Whether it lingers.
    pub fn lingers(&self, key: Key) -> bool {
        let connection = self.connections.get(key.index);
        connection.is_some_and(|connection| connection.key == key && connection.lingers())
    }

    /// Ends at once a connection that lingers: somebody else needs its place.
    pub fn part_now(&mut self, key: Key) {
        let Some(connection) = self.connection_mut(key) else { return };
        if connection.end_wait() {
            self.parted(key);
            self.touch_to_send(key.index);
        }
    }

    /// Somebody has signed in on it: what it has to tell comes before what strangers have, and it may send more at a time.
    pub fn signed_in(&mut self, key: Key) {
        let window = VarInt::from_u32(self.server.limits.receive_window_bytes);
        let Some(connection) = self.connection_mut(key) else { return };
        connection.is_stranger = false;
        connection.inner.set_receive_window(window);
        // It may wait among strangers.
        connection.stirred = false;
        self.touch(key.index);
    }

    /// Whether what comes now is early data.
    pub fn is_early(&mut self, key: Key) -> bool {
        self.connection_mut(key).is_some_and(|connection| connection.inner.is_handshaking())
    }

    /// Whether the client has acknowledged anything since this was asked last: it got what it was sent.
    pub fn has_acknowledged(&mut self, key: Key) -> bool {
        let Some(connection) = self.connection_mut(key) else { return false };
        let come = connection.inner.stats().frame_rx.acks;
        come > std::mem::replace(&mut connection.acknowledgements, come)
    }

    /// Where the client is.
    pub fn remote(&self, key: Key) -> Option<SocketAddr> {
        let connection = self.connections.get(key.index)?;
        (connection.key == key).then_some(connection.remote)
    }

    /// Reads from a stream of the client, at most `bytes_max`.
    pub fn read(&mut self, key: Key, stream: StreamId, bytes_max: usize) -> Read {
        let Some(connection) = self.connection_mut(key) else { return Read::Gone };
        let mut stream = connection.inner.recv_stream(stream);
        let Ok(mut chunks) = stream.read(true) else { return Read::Gone };
        let read = match chunks.next(bytes_max) {
            Ok(Some(chunk)) => Read::Chunk(chunk.bytes),
            Ok(None) => Read::Finished,
            Err(ReadError::Blocked) => Read::Blocked,
            Err(ReadError::Reset(_)) => Read::Gone,
        };
        // Room that was made may have to be told.
        if chunks.finalize().should_transmit() {
            self.touch(key.index);
        }
        read
    }

    /// Opens a stream to the client; `None` if it allows no more for now.
    pub fn open_stream(&mut self, key: Key) -> Option<StreamId> {
        self.connection_mut(key)?.inner.streams().open(Dir::Uni)
    }

    /// Writes to a stream of ours or the control stream. What is taken leaves `bytes`, without a copy.
    pub fn write(&mut self, key: Key, stream: StreamId, bytes: &mut Bytes) -> Write {
        let Some(connection) = self.connection_mut(key) else { return Write::Gone };
        let mut to = connection.inner.send_stream(stream);
        let outcome = loop {
            if bytes.is_empty() {
                break Write::Taken;
            }
            match to.write_chunks(std::slice::from_mut(bytes)) {
                // A part that was taken has left the piece; a whole piece is replaced by an empty one.
                Ok(_) => {}
                // Asked again after a part, so that the connection knows that somebody waits.
                Err(WriteError::Blocked) => break Write::Blocked,
                Err(WriteError::Stopped(_) | WriteError::ClosedStream) => break Write::Gone,
            }
        };
        self.touch(key.index);
        outcome
    }

    /// Ends a stream of ours behind what was written to it.
    pub fn finish(&mut self, key: Key, stream: StreamId) {
        let Some(connection) = self.connection_mut(key) else { return };
        // A stream that was stopped, or is at its end, has nothing to be told.
        let _ = connection.inner.send_stream(stream).finish();
        self.touch(key.index);
    }

    /// Reads no more of a stream of the client, and asks it to stop.
    pub fn stop(&mut self, key: Key, stream: StreamId, code: u32) {
        let Some(connection) = self.connection_mut(key) else { return };
        // One that is at its end has nothing to be told.
        let _ = connection.inner.recv_stream(stream).stop(VarInt::from_u32(code));
        self.touch(key.index);
    }

    /// Breaks off what is written to a stream.
    pub fn reset(&mut self, key: Key, stream: StreamId, code: u32) {
        let Some(connection) = self.connection_mut(key) else { return };
        let _ = connection.inner.send_stream(stream).reset(VarInt::from_u32(code));
        self.touch(key.index);
    }

    /// Takes a datagram of the client.
    pub fn read_datagram(&mut self, key: Key) -> Option<Bytes> {
        self.connection_mut(key)?.inner.datagrams().recv()
    }

    /// Sends a datagram that may be lost; older ones that wait make room for it. `false` if the client takes none, or none so long.
    pub fn send_datagram(&mut self, key: Key, datagram: Bytes) -> bool {
        let Some(connection) = self.connection_mut(key) else { return false };
        let sent = connection.inner.datagrams().send(datagram, true).is_ok();
        self.touch(key.index);
        sent
    }

    /// Lets the client have so many streams open at a time.
    pub fn allow_streams(&mut self, key: Key, bidirectional: u32, unidirectional: u32) {
        let Some(connection) = self.connection_mut(key) else { return };
        connection.inner.set_max_concurrent_streams(Dir::Bi, VarInt::from_u32(bidirectional));
        connection.inner.set_max_concurrent_streams(Dir::Uni, VarInt::from_u32(unidirectional));
        self.touch(key.index);
    }
}

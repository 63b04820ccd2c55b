//! One client's connection as the shell sees it: a socket, what has come in of the handshake or of a WebSocket message, and
//! how a write stands. What is to be written is the core's.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use millrace_core::{Outbound, SessionKey};
use millrace_protocol::client::{CLIENT_FRAME_BYTES_MAX, CONNECT_PATH, SUBPROTOCOL};
use millrace_protocol::ws::deflate::{Inflater, Window};
use millrace_protocol::ws::handshake::{Endpoint, ServerHandshake};
use millrace_protocol::ws::{Decoder, Event, Limits, MessageKind, Opcode, Role, close, encode};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, send, sendmsg};

use super::admission::{Admission, Place};
use super::room::{Held, InputRoom};
use super::secure::Scratch;
use crate::poller::{Interest, Poller};
use crate::tls::TlsSession;

const ENDPOINT: Endpoint<'_> = Endpoint { path: Some(CONNECT_PATH), subprotocols: &[SUBPROTOCOL] };

#[expect(clippy::cast_possible_truncation, reason = "a constant far below 4 GiB")]
const LIMITS: Limits = Limits { message_bytes_max: CLIENT_FRAME_BYTES_MAX as u32 };

/// A close code of the IANA registry: overload, reconnect later.
const TRY_AGAIN_LATER: u16 = 1013;

/// Pieces of one vectored write. More wait for the next write of the same turn.
const PIECES_MAX: usize = 64;

/// Longest control frame of a server: header 2, payload 125.
const CONTROL_FRAME_BYTES_MAX: usize = 127;

/// A connection of a session.
pub(super) struct Connection {
    pub(super) fd: OwnedFd,
    pub(super) session: SessionKey,
    /// What its bytes are sealed with; `None` on the listener in clear.
    pub(super) tls: Option<Box<TlsSession>>,
    stage: Stage,
    /// A whole frame came: it is more than a stranger who sends the beginning of one.
    greeted: bool,
    /// Its messages may be compressed.
    deflated: bool,
    /// What it counts for in the room for unfinished input.
    pub(super) held: Held,
    /// Its place at the door, until it has signed in.
    pub(super) place: Option<Place>,
    /// The newest ping's answer, if it waits.
    reply: Option<Box<Reply>>,
    /// The last write ended inside a segment of the core's queue, so inside a frame.
    split: bool,
    /// What the poller waits for.
    pub(super) interest: Interest,
}

enum Stage {
    Handshake(ServerHandshake),
    Open(Decoder),
}

struct Reply {
    frame: Vec<u8>,
    sent: usize,
}

/// What input leads to, beside frames for the core.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Consequence {
    /// Nothing.
    None,
    /// The request is refused with this answer.
    Refused(Vec<u8>),
    /// The WebSocket ends with this close frame.
    Close {
        /// The whole frame.
        frame: Vec<u8>,
        /// Who is at fault.
        cause: CloseCause,
    },
    /// The socket is broken.
    Broken,
}

/// Why the shell, and not the core, ends a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CloseCause {
    /// The peer asked for it.
    Peer,
    /// The peer broke the framing or a size limit.
    Framing,
    /// The peer sent text.
    Text,
    /// There is no room for more unfinished frames.
    Room,
}

/// What was seen in the input, for the counters.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Seen {
    pub(super) upgrades: u64,
    /// What was agreed to in the handshake.
    pub(super) agreed: Option<Window>,
    pub(super) pings: u64,
    /// Pings that get no answer.
    pub(super) pings_dropped: u64,
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WriteOutcome {
    /// So many bytes of the core's queue were taken, and more may be.
    Taken(usize),
    /// So many were taken, and no more for now.
    Blocked(usize),
    /// None were taken, because what was sealed before went first, a part of it.
    Moved,
    /// The peer is gone.
    Broken,
}

impl Connection {
    pub(super) fn new(fd: OwnedFd, session: SessionKey, tls: Option<Box<TlsSession>>) -> Self {
        Self {
            fd,
            session,
            tls,
            stage: Stage::Handshake(ServerHandshake::new()),
            greeted: false,
            deflated: false,
            held: Held::default(),
            place: None,
            reply: None,
            split: false,
            interest: Interest::Read,
        }
    }

    /// Whether frames can go out: the handshake is done.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open(_))
    }

    /// Takes in what was read, in clear. `on_frame` gets each binary message. What stays unfinished must find `room`; `scratch` is
    /// for what a sealed connection answers. With an `inflater` compression is agreed to when it is offered.
    pub(super) fn handle_input(
        &mut self,
        input: &mut [u8],
        inflater: Option<&mut Inflater>,
        room: &mut InputRoom,
        scratch: &mut Scratch,
        seen: &mut Seen,
        on_frame: impl FnMut(&[u8]),
    ) -> Consequence {
        let bytes = input.len();
        let consequence = self.take_in(input, inflater, scratch, seen, on_frame);
        if consequence != Consequence::None {
            return consequence;
        }
        let held = match &self.stage {
            // It keeps what it was fed until the head is whole.
            Stage::Handshake(_) => self.held.bytes + bytes,
            Stage::Open(decoder) => decoder.heap_bytes() + self.tls.as_ref().map_or(0, |tls| tls.unfinished().len()),
        };
        if self.holds(held, room) { Consequence::None } else { self.no_room() }
    }

    /// What a connection is told whose unfinished input finds no room.
    pub(super) fn no_room(&self) -> Consequence {
        match self.stage {
            Stage::Handshake(_) => Consequence::Refused(full()),
            Stage::Open(_) => Consequence::Close {
                frame: close_frame(Some(TRY_AGAIN_LATER), "too much unfinished input, try again later"),
                cause: CloseCause::Room,
            },
        }
    }

    /// Counts so many bytes of its unfinished input in place of those before; whether there is room for more of them.
    pub(super) fn holds(&mut self, held: usize, room: &mut InputRoom) -> bool {
        room.count(&mut self.held, held, self.greeted)
    }

    fn take_in(
        &mut self,
        input: &mut [u8],
        inflater: Option<&mut Inflater>,
        scratch: &mut Scratch,
        seen: &mut Seen,
        mut on_frame: impl FnMut(&[u8]),
    ) -> Consequence {
        let mut frames = input;
        if let Stage::Handshake(handshake) = &mut self.stage {
            match handshake.feed(frames, &ENDPOINT) {
                Ok(None) => return Consequence::None,
                Ok(Some(mut request)) => {
                    if inflater.is_some() {
                        seen.agreed = request.agree().map(|agreement| agreement.window);
                        self.deflated = seen.agreed.is_some();
                    }
                    // Fresh sockets take some hundred bytes; one that does not is of no use.
                    let response = request.response();
                    let sent = match &mut self.tls {
                        None => send(&self.fd, &response, SEND_FLAGS) == Ok(response.len()),
                        Some(tls) => scratch.answer(tls, &self.fd, &response),
                    };
                    if !sent {
                        return Consequence::Broken;
                    }
                    frames = &mut frames[request.consumed..];
                    self.stage = Stage::Open(Decoder::new(Role::Server, LIMITS));
                    seen.upgrades += 1;
                }
                Err(error) => {
                    tracing::debug!(session = ?self.session, %error, "request refused");
                    return Consequence::Refused(error.response());
                }
            }
        }
        let Stage::Open(decoder) = &mut self.stage else { return Consequence::None };
        let mut feed = match inflater.filter(|_| self.deflated) {
            Some(inflater) => decoder.feed_deflated(frames, inflater),
            None => decoder.feed(frames),
        };
        loop {
            match feed.next_event() {
                Ok(None) => return Consequence::None,
                Ok(Some(Event::Message { kind: MessageKind::Binary, payload })) => {
                    self.greeted = true;
                    on_frame(payload);
                }
                Ok(Some(Event::Message { kind: MessageKind::Text, .. })) => {
                    let reason = "frames are binary";
                    return Consequence::Close {
                        frame: close_frame(Some(close::UNSUPPORTED_DATA), reason),
                        cause: CloseCause::Text,
                    };
                }
                Ok(Some(Event::Ping(payload))) => {
                    seen.pings += 1;
                    if !keep_reply(&mut self.reply, payload) {
                        seen.pings_dropped += 1;
                    }
                }
                Ok(Some(Event::Pong(_))) => {}
                Ok(Some(Event::Close { code, .. })) => {
                    return Consequence::Close { frame: close_frame(code, ""), cause: CloseCause::Peer };
                }
                Err(error) => {
                    tracing::debug!(session = ?self.session, %error, "websocket ended");
                    return Consequence::Close {
                        frame: close_frame(Some(error.close_code()), &error.to_string()),
                        cause: CloseCause::Framing,
                    };
                }
            }
        }
    }

    /// Whether a ping's answer waits to be written.
    pub(super) fn owes_reply(&self) -> bool {
        self.reply.is_some()
    }

    /// Writes once: what waits in the core's queue, or before it what must come first. Call it again until it is blocked or
    /// nothing waits.
    ///
    /// Invariant: every segment of an [`Outbound`] ends where a frame ends, so an answer may go between two of them.
    pub(super) fn write(&mut self, outbound: Option<&Outbound>, scratch: &mut Scratch) -> WriteOutcome {
        if self.tls.is_some() {
            return self.write_sealed(outbound, scratch);
        }
        if !self.split
            && let Some(reply) = &mut self.reply
        {
            match send(&self.fd, &reply.frame[reply.sent..], SEND_FLAGS) {
                Ok(bytes) => reply.sent += bytes,
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => return WriteOutcome::Broken,
            }
            if reply.sent < reply.frame.len() {
                return WriteOutcome::Blocked(0);
            }
            self.reply = None;
        }
        let Some(outbound) = outbound else { return WriteOutcome::Taken(0) };
        // A segment that is partly written goes alone if an answer is to follow it.
        let pieces_max = if self.reply.is_some() { 1 } else { PIECES_MAX };
        let mut pieces = [IoSlice::new(&[]); PIECES_MAX];
        let mut count = 0;
        for (piece, segment) in pieces[..pieces_max].iter_mut().zip(outbound.segments()) {
            *piece = IoSlice::new(segment);
            count += 1;
        }
        let pieces = &pieces[..count];
        let Ok(taken) = write_vectored(&self.fd, pieces) else { return WriteOutcome::Broken };
        let total: usize = pieces.iter().map(|piece| piece.len()).sum();
        if taken == total {
            self.split = false;
            return WriteOutcome::Taken(taken);
        }
        self.split = taken > 0 && !ends_between(pieces, taken) || taken == 0 && self.split;
        WriteOutcome::Blocked(taken)
    }

    /// All that waits in the core's queue, if it is one piece, nothing comes before it, and it goes out as it is.
    pub(super) fn piece<'a>(&self, outbound: &'a Outbound) -> Option<&'a [u8]> {
        if !self.is_open() || self.owes_reply() || self.tls.is_some() {
            return None;
        }
        let mut segments = outbound.segments();
        segments.next().filter(|_| segments.next().is_none())
    }

    /// What became of the write of a [`piece`](Self::piece).
    pub(super) fn wrote(&mut self, outbound: &Outbound, result: Result<usize, Errno>) -> WriteOutcome {
        let taken = match result {
            Ok(bytes) => bytes,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(_) => return WriteOutcome::Broken,
        };
        if taken == outbound.queued_bytes() {
            self.split = false;
            return WriteOutcome::Taken(taken);
        }
        self.split = taken > 0 || self.split;
        WriteOutcome::Blocked(taken)
    }

    /// As [`write`](Self::write): first what was sealed and not taken, then up to two records of what waits, in one send.
    fn write_sealed(&mut self, outbound: Option<&Outbound>, scratch: &mut Scratch) -> WriteOutcome {
        let Some(tls) = &mut self.tls else { return WriteOutcome::Taken(0) };
        if !tls.unsent().is_empty() {
            match scratch.resend(tls, &self.fd) {
                Ok(0) => return WriteOutcome::Blocked(0),
                Ok(_) if !tls.unsent().is_empty() => return WriteOutcome::Moved,
                Ok(_) => {}
                Err(_) => return WriteOutcome::Broken,
            }
        }
        scratch.begin();
        if !self.split
            && let Some(reply) = self.reply.take()
        {
            scratch.join(&reply.frame);
        }
        let (mut taken, mut split) = (0, self.split);
        for segment in outbound.into_iter().flat_map(Outbound::segments) {
            let part = scratch.join(segment);
            taken += part;
            split = if part == 0 { split } else { part < segment.len() };
            // An answer that waits goes behind the frame that it must not split.
            if part < segment.len() || self.reply.is_some() {
                break;
            }
        }
        self.split = split;
        match scratch.send(tls, &self.fd) {
            Err(_) => WriteOutcome::Broken,
            Ok(()) if tls.unsent().is_empty() => WriteOutcome::Taken(taken),
            Ok(()) => WriteOutcome::Blocked(taken),
        }
    }

    /// Its hello was accepted: its place at the door is free, and it is waited for with sessions.
    pub(super) fn sign_in(&mut self, admission: &mut Admission, poller: &Poller) -> Consequence {
        let Some(place) = self.place.take() else { return Consequence::None };
        admission.leave(place, self.session.as_u64());
        match poller.move_ahead(&self.fd, self.session.as_u64(), self.interest) {
            Ok(()) => Consequence::None,
            // Nobody would hear it any more.
            Err(_) => Consequence::Broken,
        }
    }

    /// Whether something can be written: frames, or what TLS still owes its peer.
    pub(super) fn may_write(&self) -> bool {
        self.is_open() || self.tls.as_ref().is_some_and(|tls| !tls.unsent().is_empty())
    }

    /// What must still go out before a close frame may: the rest of a frame that is partly written. With `all`, also the rest
    /// of the core's queue.
    pub(super) fn rest(&self, outbound: Option<&Outbound>, all: bool) -> Vec<u8> {
        let mut rest = Vec::new();
        if let Some(reply) = self.reply.as_ref().filter(|reply| reply.sent > 0) {
            rest.extend_from_slice(&reply.frame[reply.sent..]);
        }
        let segments = outbound.into_iter().flat_map(Outbound::segments);
        let count = if all { usize::MAX } else { usize::from(self.split) };
        segments.take(count).for_each(|segment| rest.extend_from_slice(segment));
        rest
    }
}

/// Never waits, and a peer that is gone is an error and not a signal.
pub(super) const SEND_FLAGS: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);

/// Bytes taken; 0 also when the socket takes none now.
fn write_vectored(fd: impl AsFd, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    if pieces.is_empty() {
        return Ok(0);
    }
    let written = match pieces {
        // The usual case, and the cheaper call.
        [piece] => send(fd, piece, SEND_FLAGS),
        _ => {
            let mut none: [MaybeUninit<u8>; 0] = [];
            sendmsg(fd, pieces, &mut SendAncillaryBuffer::new(&mut none), SEND_FLAGS)
        }
    };
    match written {
        Ok(bytes) => Ok(bytes),
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// Whether the first `taken` bytes of the pieces end where a piece ends.
fn ends_between(pieces: &[IoSlice<'_>], taken: usize) -> bool {
    let mut end = 0;
    pieces.iter().any(|piece| {
        end += piece.len();
        end == taken
    })
}

/// Keeps the newest ping's answer, which is all that RFC 6455 §5.5.3 asks for. `false` if one is partly written: then this
/// ping gets none.
fn keep_reply(reply: &mut Option<Box<Reply>>, payload: &[u8]) -> bool {
    if reply.as_ref().is_some_and(|reply| reply.sent > 0) {
        return false;
    }
    let mut frame = Vec::with_capacity(CONTROL_FRAME_BYTES_MAX);
    encode::frame(Opcode::Pong, payload, None, &mut frame);
    // An answer that is replaced unsent was not asked for any more.
    *reply = Some(Box::new(Reply { frame, sent: 0 }));
    true
}

/// The answer to a connection for which there is no place.
pub(super) fn full() -> Vec<u8> {
    let body = "this node takes no more connections now, try again in a few seconds\n";
    let len = body.len();
    format!(
        "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 5\r\n\
         Content-Type: text/plain; charset=utf-8\r\nContent-Length: {len}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// A whole close frame.
pub(super) fn close_frame(code: Option<u16>, reason: &str) -> Vec<u8> {
    let mut frame = Vec::new();
    encode::close(code, reason, None, &mut frame);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_ends_between_segments_or_inside_one() {
        let pieces = [IoSlice::new(b"abc"), IoSlice::new(b"de")];
        let check = |taken: usize, expect: bool| assert_eq!(ends_between(&pieces, taken), expect, "{taken}");
        check(2, false);
        check(3, true);
        check(4, false);
        check(5, true);
    }

    #[test]
    fn an_idle_connection_is_small() {
        // Twice a cache line and a bit: the budget of 1 KiB is for the core's session, the allocator and this.
        assert!(size_of::<Option<Connection>>() <= 160, "{}", size_of::<Option<Connection>>());
    }
}

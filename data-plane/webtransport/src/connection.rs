//! One client's HTTP/3 connection, on which it may open one session.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

use crate::capsule::{self, Close};
use crate::error::{Error, ErrorCode};
use crate::items::{Items, Part, Treat};
use crate::qpack::{self, Cancellations};
use crate::request::{self, DATA, FIELDS_BYTES_MAX, HEADERS, Refusal};
use crate::settings::{self, SETTINGS, SETTINGS_BYTES_MAX};
use crate::varint;

/// Kinds of a client's unidirectional streams.
pub(crate) const CONTROL: u64 = 0x0;
const PUSH: u64 = 0x1;
const ENCODER: u64 = 0x2;
const DECODER: u64 = 0x3;
const SESSION_UNI: u64 = 0x54;
/// What a bidirectional stream of a session begins with, where others have the kind of a frame.
const SESSION_BIDI: u64 = 0x41;

/// Streams of a client, beside those that every connection has, before it is taken for a flood: requests, and streams that are of no
/// use, as they are of unknown kinds, of no session, or end before they say what they are.
pub const STREAMS_MAX: u32 = 32;

/// What to do. Streams have the numbers of QUIC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Write on a stream of the client, and end it behind that if `last`.
    Write {
        /// Which.
        stream: u64,
        /// What.
        bytes: Bytes,
        /// Nothing follows.
        last: bool,
    },
    /// Read no more of a stream: ask the client to stop it, with this code.
    Stop {
        /// Which.
        stream: u64,
        /// Why.
        code: ErrorCode,
    },
    /// The same, and if it has a direction to the client, break that off.
    Reject {
        /// Which.
        stream: u64,
        /// Why.
        code: ErrorCode,
    },
    /// The session is open. Its request's stream may hold bytes that were not wanted until now.
    Open,
    /// A request was refused.
    Refused(Refusal),
    /// A stream of the session: these are its first bytes, and whatever else is read from it is the session's, too. It must not be
    /// handed in here any more.
    Stream {
        /// Which.
        stream: u64,
        /// Bytes that were read already.
        first: Bytes,
    },
    /// The client has closed the session, or, without words, broken it off.
    Closed(Option<Close>),
}

/// The server's side of one connection. Hand in what comes; then do what [`poll_action`](Self::poll_action) gives, until `None`.
///
/// An idle one with its session open owns about 300 bytes of heap.
#[derive(Debug)]
pub struct Connection {
    path: &'static str,
    /// The client's settings have come: before that no session is opened.
    settled: bool,
    /// Which of the streams that every connection has were opened: control, encoder, decoder.
    opened: [bool; 3],
    /// Requests, and streams that were of no use, so far.
    others: u32,
    /// Streams of which nothing more is wanted, as many as were counted: QUIC may still tell of what came before it was said so.
    done: Vec<u64>,
    session: Session,
    streams: Vec<(u64, Stream)>,
    actions: VecDeque<Action>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Session {
    /// No request for one has come.
    None,
    /// Its request has come, and waits for the client's settings.
    Asked(u64),
    Open(u64),
    Over,
}

/// What is known of a stream of the client.
#[derive(Debug)]
enum Stream {
    /// What it is stands in its first bytes, of which these have come.
    Untold {
        head: [u8; 16],
        len: usize,
    },
    Control {
        items: Items,
        is_first: bool,
    },
    /// QPACK's encoder: it has no table to fill.
    Encoder,
    /// QPACK's decoder.
    Decoder(Cancellations),
    Request(Items),
    /// The request of a session, which waits for the client's settings; what came behind it.
    Asked {
        rest: Bytes,
    },
    /// The request of the session that is open.
    Session(Box<SessionStream>),
    /// Of a session whose request has not come yet.
    Early {
        session: u64,
        first: Bytes,
    },
}

#[derive(Debug, Default)]
struct SessionStream {
    frames: Items,
    capsules: Items,
}

/// Why a frame of a request is not read.
enum Unfit {
    Refused(Refusal),
    Wrong(Error),
}

/// What a stream's first bytes say.
enum Told {
    Session(u64),
    Kind(u64),
}

impl Connection {
    /// A new connection, on which a session may be opened at `path`.
    pub fn new(path: &'static str) -> Self {
        Self {
            path,
            settled: false,
            opened: [false; 3],
            others: 0,
            done: Vec::new(),
            session: Session::None,
            streams: Vec::new(),
            actions: VecDeque::new(),
        }
    }

    /// What to write on a unidirectional stream of ours, which stays open: the settings.
    pub fn control_stream() -> Bytes {
        settings::control_stream().into()
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The stream of the open session's request, which is also the session's number.
    pub fn session(&self) -> Option<u64> {
        match self.session {
            Session::Open(stream) => Some(stream),
            _ => None,
        }
    }

    /// What a unidirectional stream of the session begins with.
    pub fn stream_prefix(session: u64) -> Bytes {
        let mut prefix = Vec::new();
        varint::encode(SESSION_UNI, &mut prefix);
        varint::encode(session, &mut prefix);
        prefix.into()
    }

    /// Bytes of requests, settings and streams that have come in part or too early.
    pub fn held_bytes(&self) -> usize {
        let held = |(_, stream): &(u64, Stream)| match stream {
            Stream::Untold { .. } | Stream::Encoder | Stream::Decoder(_) => 0,
            Stream::Control { items, .. } | Stream::Request(items) => items.held_bytes(),
            Stream::Session(session) => session.capsules.held_bytes(),
            Stream::Asked { rest: bytes } | Stream::Early { first: bytes, .. } => bytes.len(),
        };
        self.streams.iter().map(held).sum()
    }

    /// Whether bytes of a stream are to be read now. Those of a session that there is not yet wait where they are, and those of its
    /// request: read them once it is open. Of a stream that was stopped or rejected nothing more is to be read.
    pub fn wants(&self, stream: u64) -> bool {
        let waits = |known: &Stream| matches!(known, Stream::Early { .. } | Stream::Asked { .. });
        !self.done.contains(&stream) && !self.streams.iter().any(|(id, known)| *id == stream && waits(known))
    }

    /// Takes what came on a stream of the client, new or known.
    ///
    /// # Errors
    /// What the connection is to be closed with.
    pub fn handle_bytes(&mut self, stream: u64, bytes: Bytes) -> Result<(), Error> {
        if self.done.contains(&stream) {
            return Ok(());
        }
        let at = self.streams.iter().position(|(id, _)| *id == stream);
        let known = at.map(|at| self.streams.swap_remove(at).1);
        let known = known.unwrap_or(Stream::Untold { head: [0; 16], len: 0 });
        if let Some(next) = self.read(stream, known, bytes)? {
            self.streams.push((stream, next));
        }
        Ok(())
    }

    /// A stream of the client has come to its end.
    ///
    /// # Errors
    /// What the connection is to be closed with.
    pub fn handle_end(&mut self, stream: u64) -> Result<(), Error> {
        match self.take(stream) {
            Some(Stream::Session(session)) => {
                if !session.frames.is_between() {
                    return Err(Error::new(ErrorCode::Frame, "the session's stream ends within a frame"));
                }
                if !session.capsules.is_between() {
                    return Err(Error::new(ErrorCode::Message, "the session's stream ends within a capsule"));
                }
                // RFC 9297: without a capsule it is a clean end without a word.
                self.closed(Some(Close { code: 0, reason: String::new() }));
            }
            known => self.ended(stream, known)?,
        }
        Ok(())
    }

    /// A stream of the client was broken off, or is no longer read.
    ///
    /// # Errors
    /// What the connection is to be closed with.
    pub fn handle_reset(&mut self, stream: u64) -> Result<(), Error> {
        match self.take(stream) {
            Some(Stream::Session(_)) => self.closed(None),
            known => self.ended(stream, known)?,
        }
        Ok(())
    }

    /// The client wants no more of what we write on its stream.
    pub fn handle_stopped(&mut self, stream: u64) {
        if self.session() == Some(stream) {
            self.take(stream);
            self.closed(None);
        }
    }

    /// The payload of a datagram of the open session; `None` if it is another's.
    ///
    /// # Errors
    /// What the connection is to be closed with: it does not say whose it is (RFC 9297 §2.1).
    pub fn datagram(&self, datagram: &Bytes) -> Result<Option<Bytes>, Error> {
        let wrong = Error::new(ErrorCode::Datagram, "a datagram of no stream");
        let (quarter, len) = varint::decode(datagram).ok_or(wrong)?;
        let stream = quarter.checked_mul(4).filter(|&stream| stream <= varint::MAX).ok_or(wrong)?;
        Ok((self.session() == Some(stream)).then(|| datagram.slice(len..)))
    }

    /// Closes the open session: what to write as the last on its request's stream.
    pub fn close(&mut self, code: u32, reason: &str) -> Option<(u64, Bytes)> {
        let stream = self.session()?;
        self.session = Session::Over;
        Some((stream, Close::encoded(code, reason).into()))
    }

    fn take(&mut self, stream: u64) -> Option<Stream> {
        let at = self.streams.iter().position(|(id, _)| *id == stream)?;
        Some(self.streams.swap_remove(at).1)
    }

    /// The end of a stream that is not the session's.
    fn ended(&mut self, stream: u64, known: Option<Stream>) -> Result<(), Error> {
        if self.done.contains(&stream) {
            return Ok(());
        }
        match known {
            Some(Stream::Control { .. } | Stream::Encoder | Stream::Decoder(_)) => {
                return Err(Error::new(ErrorCode::ClosedCriticalStream, "a stream ended that has no end"));
            }
            Some(Stream::Request(_) | Stream::Asked { .. }) => {
                if self.session == Session::Asked(stream) {
                    self.session = Session::None;
                }
                self.reject_early_of(stream)?;
            }
            Some(Stream::Session(_)) => {}
            // It ends before it has said or done anything.
            Some(Stream::Untold { .. } | Stream::Early { .. }) | None => self.count_other()?,
        }
        if is_bidirectional(stream) {
            self.reject(stream, ErrorCode::RequestIncomplete);
        } else {
            self.done.push(stream);
        }
        Ok(())
    }

    /// Nothing more is wanted of a stream, which was counted.
    fn reject(&mut self, stream: u64, code: ErrorCode) {
        self.done.push(stream);
        self.actions.push_back(Action::Reject { stream, code });
    }

    fn stop(&mut self, stream: u64, code: ErrorCode) {
        self.done.push(stream);
        self.actions.push_back(Action::Stop { stream, code });
    }

    fn closed(&mut self, close: Option<Close>) {
        if self.session != Session::Over {
            self.session = Session::Over;
            self.actions.push_back(Action::Closed(close));
        }
    }

    /// Reads a stream on; what it is afterwards, or `None` if nothing more of it comes in here.
    fn read(&mut self, stream: u64, known: Stream, mut bytes: Bytes) -> Result<Option<Stream>, Error> {
        match known {
            Stream::Untold { mut head, mut len } => loop {
                if let Some(told) = told(is_bidirectional(stream), &head[..len]) {
                    return self.begin(stream, told, &head[..len], bytes);
                }
                if bytes.is_empty() {
                    return Ok(Some(Stream::Untold { head, len }));
                }
                // Two numbers have at most 16 bytes.
                head[len] = bytes.get_u8();
                len += 1;
            },
            Stream::Control { mut items, mut is_first } => {
                self.read_control(&mut items, &mut is_first, &bytes)?;
                Ok(Some(Stream::Control { items, is_first }))
            }
            Stream::Encoder => qpack::check_encoder(&bytes).map(|()| Some(Stream::Encoder)),
            Stream::Decoder(mut cancellations) => {
                cancellations.check(&bytes)?;
                Ok(Some(Stream::Decoder(cancellations)))
            }
            Stream::Request(items) => self.read_request(stream, items, &bytes),
            Stream::Session(mut session) => {
                let goes_on = self.read_session(&mut session, &bytes)?;
                Ok(goes_on.then_some(Stream::Session(session)))
            }
            // They were not to be read; what was is kept all the same.
            Stream::Asked { rest } => Ok(Some(Stream::Asked { rest: joined(rest, bytes) })),
            Stream::Early { session, first } => Ok(Some(Stream::Early { session, first: joined(first, bytes) })),
        }
    }

    /// A stream has told what it is.
    fn begin(&mut self, stream: u64, told: Told, head: &[u8], rest: Bytes) -> Result<Option<Stream>, Error> {
        match told {
            Told::Session(session) => self.begin_of_session(stream, session, rest),
            Told::Kind(_) if is_bidirectional(stream) => {
                self.count_other()?;
                match self.read_request(stream, Items::default(), head)? {
                    Some(Stream::Request(items)) => self.read_request(stream, items, &rest),
                    other => Ok(other),
                }
            }
            Told::Kind(kind @ (CONTROL | ENCODER | DECODER)) => {
                let place = [CONTROL, ENCODER, DECODER].iter().position(|&other| other == kind).unwrap_or(0);
                if std::mem::replace(&mut self.opened[place], true) {
                    return Err(Error::new(ErrorCode::StreamCreation, "a stream of which there is one"));
                }
                let next = match kind {
                    CONTROL => Stream::Control { items: Items::default(), is_first: true },
                    ENCODER => Stream::Encoder,
                    _ => Stream::Decoder(Cancellations::default()),
                };
                self.read(stream, next, rest)
            }
            Told::Kind(PUSH) => Err(Error::new(ErrorCode::StreamCreation, "a client pushes nothing")),
            // RFC 9114 §9: unknown kinds are no error.
            Told::Kind(_) => {
                self.count_other()?;
                self.stop(stream, ErrorCode::StreamCreation);
                Ok(None)
            }
        }
    }

    fn begin_of_session(&mut self, stream: u64, session: u64, first: Bytes) -> Result<Option<Stream>, Error> {
        if !is_bidirectional(session) || !is_clients(session) {
            return Err(Error::new(ErrorCode::Id, "a session has the number of its request"));
        }
        let code = match self.session {
            Session::Open(open) if open == session => {
                self.actions.push_back(Action::Stream { stream, first });
                return Ok(None);
            }
            Session::None | Session::Asked(_) if !self.done.contains(&session) => {
                return Ok(Some(Stream::Early { session, first }));
            }
            Session::Over => ErrorCode::SessionGone,
            Session::None | Session::Asked(_) | Session::Open(_) => ErrorCode::StreamRejected,
        };
        self.count_other()?;
        self.reject(stream, code);
        Ok(None)
    }

    fn count_other(&mut self) -> Result<(), Error> {
        self.others += 1;
        if self.others > STREAMS_MAX {
            return Err(Error::new(ErrorCode::ExcessiveLoad, "a session needs fewer streams"));
        }
        Ok(())
    }

    fn read_control(&mut self, items: &mut Items, is_first: &mut bool, mut input: &[u8]) -> Result<(), Error> {
        loop {
            let part = items.next(&mut input, |kind, len| match (std::mem::take(is_first), kind) {
                (true, SETTINGS) if len > SETTINGS_BYTES_MAX => {
                    Err(Error::new(ErrorCode::ExcessiveLoad, "too many settings"))
                }
                (true, SETTINGS) => Ok(Treat::Keep),
                (true, _) => Err(Error::new(ErrorCode::MissingSettings, "the control stream begins with settings")),
                // And those that mean something in HTTP/2 (RFC 9114 §7.2.8).
                (false, DATA | HEADERS | SETTINGS | 0x2 | 0x5 | 0x6 | 0x8 | 0x9 | SESSION_BIDI) => {
                    Err(Error::new(ErrorCode::FrameUnexpected, "no frame for the control stream"))
                }
                // GOAWAY, MAX_PUSH_ID and CANCEL_PUSH among them.
                (false, _) => Ok(Treat::Skip),
            })?;
            let Some(Part::Whole(_, value)) = part else { return Ok(()) };
            settings::check(&value)?;
            self.settled = true;
            if let Session::Asked(stream) = self.session
                && let Some(Stream::Asked { rest }) = self.take(stream)
            {
                self.open(stream)?;
                let mut session = Box::<SessionStream>::default();
                if self.read_session(&mut session, &rest)? {
                    self.streams.push((stream, Stream::Session(session)));
                }
            }
        }
    }

    fn read_request(&mut self, stream: u64, mut items: Items, mut input: &[u8]) -> Result<Option<Stream>, Error> {
        let part = items.next(&mut input, |kind, len| match kind {
            HEADERS if len > u64::from(FIELDS_BYTES_MAX) => Err(Unfit::Refused(Refusal::TooLarge)),
            HEADERS => Ok(Treat::Keep),
            DATA | SETTINGS | 0x2 | 0x3 | 0x5..=0x9 | 0xd | SESSION_BIDI => {
                Err(Unfit::Wrong(Error::new(ErrorCode::FrameUnexpected, "a request begins with its fields")))
            }
            _ => Ok(Treat::Skip),
        });
        let part = match part {
            Ok(part) => part,
            Err(Unfit::Refused(refusal)) => return self.refuse(stream, refusal).map(|()| None),
            Err(Unfit::Wrong(error)) => return Err(error),
        };
        let Some(Part::Whole(_, section)) = part else { return Ok(Some(Stream::Request(items))) };
        let refusal = match request::judge(&section, self.path)? {
            None if self.session != Session::None => Some(Refusal::Second),
            judged => judged,
        };
        if let Some(refusal) = refusal {
            return self.refuse(stream, refusal).map(|()| None);
        }
        if !self.settled {
            self.session = Session::Asked(stream);
            return Ok(Some(Stream::Asked { rest: Bytes::copy_from_slice(input) }));
        }
        self.open(stream)?;
        let mut session = Box::<SessionStream>::default();
        let goes_on = self.read_session(&mut session, input)?;
        Ok(goes_on.then_some(Stream::Session(session)))
    }

    fn refuse(&mut self, stream: u64, refusal: Refusal) -> Result<(), Error> {
        self.actions.push_back(Action::Refused(refusal));
        self.actions.push_back(Action::Write { stream, bytes: refusal.encoded().into(), last: true });
        // The rest of the request is not needed (RFC 9114 §4.1).
        self.stop(stream, ErrorCode::NoError);
        self.reject_early_of(stream)
    }

    /// Lets the client in.
    fn open(&mut self, stream: u64) -> Result<(), Error> {
        self.session = Session::Open(stream);
        self.actions.push_back(Action::Write { stream, bytes: request::welcome().into(), last: false });
        self.actions.push_back(Action::Open);
        // Streams that came before their session are given to it, or back.
        for (early, session, first) in self.take_early(|_| true) {
            if session == stream {
                self.actions.push_back(Action::Stream { stream: early, first });
            } else {
                self.count_other()?;
                self.reject(early, ErrorCode::StreamRejected);
            }
        }
        Ok(())
    }

    /// Gives back streams of a session that there will not be.
    fn reject_early_of(&mut self, request: u64) -> Result<(), Error> {
        for (early, ..) in self.take_early(|session| session == request) {
            self.count_other()?;
            self.reject(early, ErrorCode::StreamRejected);
        }
        Ok(())
    }

    /// Takes streams that came before their session, by its number, in the order in which the client opened them: each, its session,
    /// its first bytes.
    fn take_early(&mut self, of: impl Fn(u64) -> bool) -> Vec<(u64, u64, Bytes)> {
        let mut early = Vec::new();
        self.streams.retain_mut(|(id, known)| match known {
            Stream::Early { session, first } if of(*session) => {
                early.push((*id, *session, std::mem::take(first)));
                false
            }
            _ => true,
        });
        early.sort_unstable_by_key(|&(stream, ..)| stream);
        early
    }

    /// Reads the session's own stream; `false` once it says that the session is closed.
    fn read_session(&mut self, session: &mut SessionStream, mut input: &[u8]) -> Result<bool, Error> {
        loop {
            let part = session.frames.next(&mut input, |kind, _| match kind {
                DATA => Ok(Treat::Pass),
                HEADERS | SETTINGS | 0x2 | 0x3 | 0x5..=0x9 | 0xd | SESSION_BIDI => {
                    Err(Error::new(ErrorCode::FrameUnexpected, "a session's stream has DATA alone"))
                }
                _ => Ok(Treat::Skip),
            })?;
            let Some(Part::Bytes(bytes)) = part else { return Ok(true) };
            if let Some(close) = capsule::read(&mut session.capsules, bytes)? {
                self.closed(Some(close));
                return Ok(false);
            }
        }
    }
}

/// What a stream's first bytes say, once they say it.
fn told(is_bidirectional: bool, head: &[u8]) -> Option<Told> {
    let (kind, len) = varint::decode(head)?;
    let of_session = if is_bidirectional { SESSION_BIDI } else { SESSION_UNI };
    if kind == of_session { Some(Told::Session(varint::decode(&head[len..])?.0)) } else { Some(Told::Kind(kind)) }
}

fn joined(one: Bytes, other: Bytes) -> Bytes {
    if one.is_empty() { other } else { [one, other].concat().into() }
}

fn is_bidirectional(stream: u64) -> bool {
    stream & 2 == 0
}

fn is_clients(stream: u64) -> bool {
    stream & 1 == 0
}

#[cfg(test)]
mod tests;

//! A session's frames on the streams of a connection: the control stream that the client opens, and a stream of ours for each
//! subscription that carries messages (`SPEC.md` §1.2). With HTTP/3 around it, streams of both begin with a few bytes more (§1.3); that is
//! all the difference.

use std::time::Instant;

use bytes::Bytes;
use millrace_core::{Lanes, Place, Taken};
use millrace_protocol::client::{CLIENT_FRAME_BYTES_MAX, ClientBody, decode_client};
use millrace_protocol::stream::FrameReader;
use millrace_protocol::{ChannelId, Code};
use quinn_proto::{Dir, Side, StreamId};

use crate::web::{Step, Web};
use crate::{Driver, Key, Protocol, Read, WebCounts, Write};

/// What frames may wait in that streams have not taken, besides the one frame that goes over: more stays in the session's queue.
const RESTS_BYTES_MAX: usize = 64 << 10;
/// Bytes taken from a stream at a time: as much as its window.
pub(crate) const READ_BYTES_MAX: usize = 64 << 10;

/// One session's streams. While idle, 16 bytes of heap for each subscription.
#[derive(Debug)]
pub struct Session {
    key: Key,
    /// HTTP/3, if that is spoken.
    web: Option<Box<Web>>,
    control: Option<StreamId>,
    reader: FrameReader,
    /// A frame waits in the reader for the end of the handshake.
    waits: bool,
    /// Streams of channels, in no order.
    lanes: Vec<(ChannelId, StreamId)>,
    writes: Writes,
}

/// What was taken and not written whole.
#[derive(Debug, Default)]
pub(crate) struct Writes {
    /// At most one for each stream.
    rests: Vec<Rest>,
    rests_bytes: usize,
    broken: bool,
}

/// Whose stream it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    Control,
    Channel(ChannelId),
    /// No frames of ours are on it. That the client does not want it is no fault.
    Http,
}

/// What is left of a frame that a stream took in part.
#[derive(Debug)]
struct Rest {
    stream: StreamId,
    owner: Owner,
    bytes: Bytes,
    /// It is the last one of its stream.
    last: bool,
}

/// What reading led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Nothing more for now.
    Done,
    /// The client has said all that it had to: a clean goodbye.
    Goodbye,
    /// The connection has to be closed with this code.
    Fault(Code, &'static str),
    /// The client broke the rules of HTTP/3, which is told in HTTP/3's words.
    Http(millrace_webtransport::Error),
}

impl Session {
    /// A session on this connection, before its client has opened the control stream.
    pub fn new(key: Key, protocol: Protocol) -> Self {
        let web = match protocol {
            Protocol::Millrace => None,
            Protocol::Http3 => Some(Box::new(Web::new())),
        };
        Self {
            key,
            web,
            control: None,
            reader: FrameReader::new(),
            waits: false,
            lanes: Vec::new(),
            writes: Writes::default(),
        }
    }

    /// Opens what a connection of this protocol has from the beginning, as far as the client allows; again when it allows more.
    pub fn begin(&mut self, driver: &mut Driver) {
        if let Some(web) = &mut self.web {
            web.begin(driver, self.key, &mut self.writes);
        }
    }

    /// What its protocol is.
    pub fn protocol(&self) -> Protocol {
        if self.web.is_some() { Protocol::Http3 } else { Protocol::Millrace }
    }

    /// Its connection.
    pub fn key(&self) -> Key {
        self.key
    }

    /// Bytes of unfinished frames from the client, and of those that wait for the end of the handshake.
    pub fn held_bytes(&self) -> usize {
        self.reader.held_bytes() + self.web.as_ref().map_or(0, |web| web.held_bytes())
    }

    /// What was counted of HTTP/3 since this was asked last.
    pub fn take_web_counts(&mut self) -> WebCounts {
        self.web.as_mut().map(|web| web.take_counts()).unwrap_or_default()
    }

    /// A stream of the client has bytes: takes them all. `on_frame` gets each frame.
    ///
    /// What comes before the handshake is complete may be somebody's recording: frames that change nothing are taken, the first other one
    /// waits, with all behind it.
    pub fn handle_readable(&mut self, driver: &mut Driver, stream: StreamId, on_frame: impl FnMut(&[u8])) -> Input {
        if self.web.is_some() && self.control != Some(stream) {
            return self.read_web(driver, stream, on_frame);
        }
        self.enter(stream).unwrap_or_else(|| self.read(driver, on_frame))
    }

    /// A stream of the session that the client has opened; `Some` if it may not.
    fn enter(&mut self, stream: StreamId) -> Option<Input> {
        if stream.initiator() != Side::Client || stream.dir() != Dir::Bi {
            return Some(Input::Fault(Code::BadFrame, "a client opens one stream, in both directions"));
        }
        match self.control {
            None => self.control = Some(stream),
            Some(control) if control == stream => {}
            Some(_) => return Some(Input::Fault(Code::BadFrame, "a client opens one stream")),
        }
        None
    }

    fn read_web(&mut self, driver: &mut Driver, stream: StreamId, mut on_frame: impl FnMut(&[u8])) -> Input {
        let Self { key, web: Some(web), writes, .. } = self else { return Input::Done };
        let mut steps = Vec::new();
        let outcome = web.read(driver, *key, stream, writes, |step| steps.push(step));
        for step in steps {
            let input = match step {
                Step::Closed => Input::Goodbye,
                Step::Stream(stream, first) => match self.enter(stream) {
                    Some(fault) => fault,
                    None => {
                        self.reader.push(first);
                        self.read(driver, &mut on_frame)
                    }
                },
            };
            if input != Input::Done {
                return input;
            }
        }
        outcome.map_or_else(Input::Http, |()| Input::Done)
    }

    /// The client wants no more of a stream of ours.
    pub fn handle_stopped(&mut self, stream: StreamId) -> Input {
        const FAULT: Input = Input::Fault(Code::BadFrame, "a stream was stopped");
        let is_ours = self.control == Some(stream) || self.lanes.iter().any(|&(_, lane)| lane == stream);
        match &mut self.web {
            Some(web) if !is_ours => match web.handle_stopped(stream) {
                Ok(Some(_closed)) => Input::Goodbye,
                Ok(None) => {
                    self.writes.drop_rest_on(stream);
                    Input::Done
                }
                Err(error) => Input::Http(error),
            },
            _ => FAULT,
        }
    }

    /// Ends the session with a code and a reason: what the client was not sent yet is lost but, with HTTP/3, what was written.
    pub fn close(&mut self, driver: &mut Driver, now: Instant, code: u32, reason: &str) {
        match &mut self.web {
            None => driver.close(self.key, code, reason),
            Some(web) => web.close(driver, now, self.key, &self.writes, (code, reason)),
        }
    }

    /// The handshake is complete: frames that waited for it go on.
    pub fn handle_connected(&mut self, driver: &mut Driver, on_frame: impl FnMut(&[u8])) -> Input {
        if std::mem::take(&mut self.waits) { self.read(driver, on_frame) } else { Input::Done }
    }

    fn read(&mut self, driver: &mut Driver, mut on_frame: impl FnMut(&[u8])) -> Input {
        let Some(stream) = self.control else { return Input::Done };
        loop {
            loop {
                let early = driver.is_early(self.key);
                match self.reader.front(CLIENT_FRAME_BYTES_MAX) {
                    Ok(None) => break,
                    Ok(Some(frame)) if early && !is_harmless(frame) => {
                        self.waits = true;
                        return Input::Done;
                    }
                    Ok(Some(frame)) => on_frame(frame),
                    Err(error) => return Input::Fault(error.code(), "the stream holds no frame"),
                }
                self.reader.pop();
            }
            match driver.read(self.key, stream, READ_BYTES_MAX) {
                Read::Chunk(chunk) => self.reader.push(chunk),
                Read::Blocked => return Input::Done,
                Read::Finished if self.reader.is_between_frames() => return Input::Goodbye,
                Read::Finished => return Input::Fault(Code::BadFrame, "the stream ends within a frame"),
                Read::Gone => return Input::Fault(Code::BadFrame, "the control stream was broken off"),
            }
        }
    }

    /// Takes the datagrams that wait: only a `pong` may come in one. Gives also the number of those that are of no use.
    pub fn handle_datagrams(&mut self, driver: &mut Driver, mut on_frame: impl FnMut(&[u8])) -> (Input, u64) {
        let mut useless = 0;
        while let Some(datagram) = driver.read_datagram(self.key) {
            let datagram = match &self.web {
                None => Some(datagram),
                Some(web) => match web.datagram(&datagram) {
                    Ok(datagram) => datagram,
                    Err(error) => return (Input::Http(error), useless + 1),
                },
            };
            match datagram.as_deref().map(|frame| (frame, decode_client(frame))) {
                Some((bytes, Ok(frame))) if matches!(frame.body, ClientBody::Pong) => on_frame(bytes),
                _ => useless += 1,
            }
        }
        (Input::Done, useless)
    }

    /// A stream takes bytes again, or more of them may be opened. The core's queue is to be offered again.
    pub fn handle_writable(&mut self, driver: &mut Driver, stream: StreamId) {
        self.writes.go_on(driver, self.key, stream);
    }

    /// The client stopped a stream that carries frames it asked for, or a write found one gone.
    pub fn is_broken(&self) -> bool {
        self.writes.broken
    }

    /// What takes frames out of the core's queue.
    pub fn lanes<'a>(&'a mut self, driver: &'a mut Driver) -> impl Lanes + 'a {
        Writer { session: self, driver }
    }

    fn write(&mut self, driver: &mut Driver, stream: StreamId, owner: Owner, bytes: Bytes, last: bool) {
        self.writes.write(driver, self.key, stream, owner, bytes, last);
    }

    /// The first frame of a stream of ours, with what stands before it.
    fn first(&self, frame: Bytes) -> Bytes {
        match &self.web {
            None => frame,
            Some(web) => [&web.prefix[..], &frame].concat().into(),
        }
    }

    fn has_rest(&self, owner: Owner) -> bool {
        self.writes.rests.iter().any(|rest| rest.owner == owner)
    }

    fn lane(&self, channel: ChannelId) -> Option<StreamId> {
        self.lanes.iter().find(|(of, _)| *of == channel).map(|&(_, stream)| stream)
    }

    /// Takes the channel's stream away.
    fn forget(&mut self, channel: ChannelId) -> Option<StreamId> {
        let at = self.lanes.iter().position(|(of, _)| *of == channel)?;
        let (_, stream) = self.lanes.swap_remove(at);
        if self.lanes.is_empty() {
            self.lanes = Vec::new();
        }
        Some(stream)
    }
}

impl Writes {
    pub(crate) fn write(
        &mut self,
        driver: &mut Driver,
        key: Key,
        stream: StreamId,
        owner: Owner,
        mut bytes: Bytes,
        last: bool,
    ) {
        match driver.write(key, stream, &mut bytes) {
            Write::Taken if last => driver.finish(key, stream),
            Write::Taken => {}
            Write::Blocked => {
                self.rests_bytes += bytes.len();
                self.rests.push(Rest { stream, owner, bytes, last });
            }
            Write::Gone => self.broken |= owner != Owner::Http,
        }
    }

    /// Whose rest is the longest, if all of them are as much as there may be.
    fn full_of(&self) -> Option<Owner> {
        let longest = self.rests.iter().max_by_key(|rest| rest.bytes.len())?;
        (self.rests_bytes >= RESTS_BYTES_MAX).then_some(longest.owner)
    }

    pub(crate) fn has_rest_on(&self, stream: StreamId) -> bool {
        self.rests.iter().any(|rest| rest.stream == stream)
    }

    fn drop_rest_on(&mut self, stream: StreamId) {
        let Some(at) = self.rests.iter().position(|rest| rest.stream == stream) else { return };
        self.rests_bytes -= self.rests.swap_remove(at).bytes.len();
    }

    fn go_on(&mut self, driver: &mut Driver, key: Key, stream: StreamId) {
        let Some(at) = self.rests.iter().position(|rest| rest.stream == stream) else { return };
        let rest = &mut self.rests[at];
        let before = rest.bytes.len();
        let outcome = driver.write(key, stream, &mut rest.bytes);
        self.rests_bytes -= before - rest.bytes.len();
        match outcome {
            Write::Blocked => {}
            Write::Gone => {
                self.broken |= rest.owner != Owner::Http;
                self.drop_rest_on(stream);
            }
            Write::Taken => {
                let Rest { last, .. } = self.rests.swap_remove(at);
                if last {
                    driver.finish(key, stream);
                }
            }
        }
        if self.rests.is_empty() {
            self.rests = Vec::new();
        }
    }
}

struct Writer<'a> {
    session: &'a mut Session,
    driver: &'a mut Driver,
}

impl Lanes for Writer<'_> {
    fn take(&mut self, place: Place, frame: impl FnOnce() -> Bytes) -> Taken {
        let Self { session, driver } = self;
        let Some(control) = session.control else { return Taken::LaneFull };
        let lane = place.channel().and_then(|channel| session.lane(channel));
        let owner = place.channel().map_or(Owner::Control, Owner::Channel);
        // What goes on the control stream although it is a channel's waits for that, too.
        let on_control = matches!(place, Place::Attached(_)) || matches!(place, Place::Closing(_)) && lane.is_none();
        if session.has_rest(owner) || on_control && session.has_rest(Owner::Control) {
            return Taken::LaneFull;
        }
        if let Some(owner) = session.writes.full_of() {
            return match owner {
                Owner::Channel(channel) => Taken::FullOf(Some(channel)),
                Owner::Control | Owner::Http => Taken::FullOf(None),
            };
        }
        match place {
            Place::Control => session.write(driver, control, owner, frame(), false),
            Place::Channel(_) => match lane {
                Some(stream) => session.write(driver, stream, owner, frame(), false),
                // A channel's first frame opens its stream.
                None => debug_assert!(false, "messages of a channel without a stream"),
            },
            Place::Opening(channel) => {
                let key = session.key;
                let Some(stream) = driver.open_stream(key) else { return Taken::LaneFull };
                if let Some(earlier) = session.forget(channel) {
                    driver.finish(key, earlier);
                }
                if session.lanes.is_empty() {
                    // Most sessions have few: no spare room for the first.
                    session.lanes.reserve_exact(1);
                }
                session.lanes.push((channel, stream));
                let first = session.first(frame());
                session.write(driver, stream, owner, first, false);
            }
            Place::Closing(channel) | Place::Attached(channel) => {
                let stream = session.forget(channel);
                match stream {
                    Some(stream) if !on_control => session.write(driver, stream, owner, frame(), true),
                    stream => {
                        if let Some(stream) = stream {
                            driver.finish(session.key, stream);
                        }
                        session.write(driver, control, Owner::Control, frame(), false);
                    }
                }
            }
        }
        Taken::Whole
    }
}

/// Whether a frame that comes twice does nothing that it would not do once: it asks, or says hello.
fn is_harmless(frame: &[u8]) -> bool {
    // What cannot be decoded ends the connection, but later, as it is not known who sent it.
    decode_client(frame).is_ok_and(|frame| match frame.body {
        ClientBody::Hello(_)
        | ClientBody::Subscribe(_)
        | ClientBody::Unsubscribe { .. }
        | ClientBody::History(_)
        | ClientBody::MarkRead { .. }
        | ClientBody::Pong => true,
        ClientBody::Publish(_) | ClientBody::Refresh { .. } | ClientBody::Unknown => false,
    })
}

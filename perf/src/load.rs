//! The load generator: one thread, one epoll set, thousands of clients of whatever [`Dialect`], over WebSocket or QUIC.
//!
//! It must cost less than what it measures: one read buffer for all, no task and no allocation per message, and payloads found by search.
//! A turn takes what is ready, hands it on, and writes what the dialects had to say.

mod client;
mod quic;
mod timers;
mod tls;
mod udp;

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use quinn_proto::ConnectionHandle;
use rustix::event::{Timespec, epoll};
use slab::Slab;

use crate::dialect::{Dialect, Event, Framing, Outbox, Plan, Session};
use crate::stamp::{self, Stamps};
use crate::transport::Way;
use quic::{Quic, Told};

/// Events taken from the system at a time.
const EVENTS_MAX: usize = 1024;
/// Bytes read from a client at a time: at saturation a turn of the server is long.
const READ_BYTES: usize = 256 << 10;
/// Tokens of sockets that many clients share come after all clients.
const PORTS: u64 = 1 << 48;
/// Streams that a server may open beside those of a plan's channels: one that a new subscription of the same channel opens.
const MORE_STREAMS: u32 = 2;

/// Clients of all fleets so far: a subject that knows its publishers by their number would take the first messages of a second fleet for
/// those of the first again.
static NUMBERS: AtomicU32 = AtomicU32::new(0);

/// What a run makes of what comes in.
pub(crate) trait Sink {
    /// A payload reached a client. Times in nanoseconds since the fleet's origin.
    fn delivered(&mut self, client: usize, intended_ns: u64, now_ns: u64);

    /// A dialect has something to tell.
    ///
    /// # Errors
    /// To end the run.
    fn event(&mut self, client: usize, event: Event, now_ns: u64) -> Result<()>;

    /// The subject asks a client to come back after so many milliseconds, and ends. An error, unless a run expects it.
    ///
    /// # Errors
    /// To end the run.
    fn busy(&mut self, client: usize, after_ms: u32) -> Result<()> {
        anyhow::bail!("client {client} was asked to come back in {after_ms} ms: the server is busy")
    }

    /// A connection ended. An error, unless a run expects it.
    ///
    /// # Errors
    /// To end the run.
    fn closed(&mut self, client: usize, code: Option<u16>, reason: &str) -> Result<()> {
        Err(Closed { client, code, reason: reason.to_owned() }.into())
    }
}

/// A connection ended that was to stay.
#[derive(Debug)]
pub(crate) struct Closed {
    client: usize,
    code: Option<u16>,
    reason: String,
}

impl std::fmt::Display for Closed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { client, code, reason } = self;
        write!(f, "client {client} was closed with {code:?} {reason}")
    }
}

impl std::error::Error for Closed {}

/// Where clients of a fleet go, and what they speak there.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) dialect: Arc<dyn Dialect>,
    pub(crate) way: Way,
}

/// How a client's connection differs from the rest.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Options {
    /// The receive buffer, or the window of a stream: a small one hides little of not reading.
    pub(crate) receive_bytes: Option<usize>,
}

/// What serving a client ended with.
enum Got {
    /// Nothing to be said.
    Input,
    /// The connection ended.
    Closed { code: Option<u16>, reason: String },
}

/// Whether all output is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    All,
    /// There is no room for it.
    Later,
}

/// What clients share while they are served.
struct Turn<'a> {
    dialect: &'a dyn Dialect,
    stamps: &'a Stamps,
    buffer: &'a mut [u8],
    plain: &'a mut Vec<u8>,
    found: &'a mut Vec<u64>,
    events: &'a mut Vec<Event>,
}

enum Client {
    Socket(Box<client::Client>),
    Quic(Box<QuicClient>),
}

/// One that shares its socket with others.
struct QuicClient {
    connection: ConnectionHandle,
    is_open: bool,
    output: Vec<u8>,
    /// Bytes of the output that are written.
    written: usize,
    session: Session,
}

impl Client {
    fn session(&self) -> &Session {
        match self {
            Self::Socket(client) => &client.session,
            Self::Quic(client) => &client.session,
        }
    }

    /// The session, and where it puts what it sends.
    fn speak<'a>(&'a mut self, events: &'a mut Vec<Event>) -> (&'a mut Session, Outbox<'a>) {
        match self {
            Self::Socket(client) => client.speak(events),
            Self::Quic(client) => client.speak(events),
        }
    }

    fn has_output(&self) -> bool {
        match self {
            Self::Socket(client) => client.has_output(),
            Self::Quic(client) => client.is_open && client.written < client.output.len(),
        }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Socket(client) => Some(client.as_fd()),
            Self::Quic(_) => None,
        }
    }
}

impl QuicClient {
    fn speak<'a>(&'a mut self, events: &'a mut Vec<Event>) -> (&'a mut Session, Outbox<'a>) {
        (&mut self.session, Outbox { framing: Framing::Stream, bytes: &mut self.output, events })
    }

    fn flush(&mut self, quic: &mut Quic) -> Result<Sent> {
        let (written, sent) = quic.write(self.connection, &self.output[self.written..])?;
        self.written += written;
        if self.written == self.output.len() {
            (self.output, self.written) = (Vec::new(), 0);
        }
        Ok(sent)
    }
}

/// One message of the subject: its payloads are counted, the rest is the dialect's. Pages of history show what was delivered before; and
/// a copy of what it has published itself, which some subjects send to everybody who is in a channel, is no delivery to who only writes.
fn take(
    dialect: &dyn Dialect,
    stamps: &Stamps,
    found: &mut Vec<u64>,
    session: &mut Session,
    payload: &[u8],
    mut out: Outbox<'_>,
    mut delivered: impl FnMut(u64),
) -> Result<()> {
    found.clear();
    let count = stamps.each(payload, |intended| found.push(intended));
    let told = out.events.len();
    dialect.receive(session, payload, count, &mut out)?;
    let is_page = out.events[told..].iter().any(|event| matches!(event, Event::Page { .. }));
    if !is_page && !session.plan.subscribe.is_empty() {
        found.iter().for_each(|&intended| delivered(intended));
    }
    Ok(())
}

/// Clients of one subject.
pub(crate) struct Fleet {
    target: SocketAddr,
    dialect: Arc<dyn Dialect>,
    way: Way,
    epoll: std::os::fd::OwnedFd,
    clients: Slab<Client>,
    quic: Option<Quic>,
    origin: Instant,
    stamps: Stamps,
    ready: Vec<epoll::Event>,
    buffer: Box<[u8]>,
    plain: Vec<u8>,
    found: Vec<u64>,
    payload: Vec<u8>,
    events: Vec<Event>,
    /// Clients with bytes to send at the end of the turn.
    dirty: Vec<usize>,
    /// Of these, those that found no room in their socket.
    blocked: usize,
}

impl Fleet {
    /// # Errors
    /// From the operating system.
    pub(crate) fn new(target: Target) -> Result<Self> {
        let Target { address, dialect, way } = target;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context("make an epoll set")?;
        let quic = match &way {
            Way::Quic(trust) => Some(Quic::new(address, trust.clone())?),
            Way::Clear | Way::Tls(_) => None,
        };
        for (place, port) in quic.iter().flat_map(|quic| quic.ports.iter().enumerate()) {
            let data = epoll::EventData::new_u64(PORTS + place as u64);
            epoll::add(&epoll, port, data, epoll::EventFlags::IN).context("watch a socket")?;
        }
        Ok(Self {
            target: address,
            dialect,
            way,
            epoll,
            clients: Slab::new(),
            quic,
            origin: Instant::now(),
            stamps: Stamps::new(),
            ready: Vec::with_capacity(EVENTS_MAX),
            buffer: vec![0; READ_BYTES].into(),
            plain: Vec::new(),
            found: Vec::new(),
            payload: Vec::new(),
            events: Vec::new(),
            dirty: Vec::new(),
            blocked: 0,
        })
    }

    /// The same time for several fleets: what one has sent, another measures.
    pub(crate) fn with_origin(mut self, origin: Instant) -> Self {
        self.origin = origin;
        self
    }

    /// Nanoseconds since the fleet was made; payloads carry these.
    pub(crate) fn now_ns(&self) -> u64 {
        since(self.origin)
    }

    /// Begins to connect. [`Event::Ready`] says when the client has joined all its channels.
    ///
    /// # Errors
    /// From the operating system: no descriptor or no port is left.
    pub(crate) fn open(&mut self, plan: Plan) -> Result<usize> {
        self.open_with(plan, Options::default())
    }

    /// As [`open`](Self::open), on a socket that differs from the rest.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(crate) fn open_with(&mut self, plan: Plan, options: Options) -> Result<usize> {
        let (number, target) = (NUMBERS.fetch_add(1, Ordering::Relaxed), self.target);
        let connecting = || format!("connect client {number} to {target}");
        let slot = self.clients.vacant_entry();
        let id = slot.key();
        if let Some(quic) = &mut self.quic {
            let streams = u32::try_from(plan.subscribe.len()).unwrap_or(u32::MAX).saturating_add(MORE_STREAMS);
            let connection = quic.connect(target, id, streams, options).with_context(connecting)?;
            let session = Session::new(number, plan);
            let client = QuicClient { connection, is_open: false, output: Vec::new(), written: 0, session };
            slot.insert(Client::Quic(Box::new(client)));
            return Ok(id);
        }
        let trust = match &self.way {
            Way::Tls(trust) => Some(trust),
            Way::Clear | Way::Quic(_) => None,
        };
        let client = client::Client::connect(target, trust, Session::new(number, plan), options);
        let client = client.with_context(connecting)?;
        let interest = epoll::EventFlags::OUT;
        epoll::add(&self.epoll, client.as_fd(), epoll::EventData::new_u64(id as u64), interest)
            .context("watch a client")?;
        slot.insert(Client::Socket(Box::new(client)));
        Ok(id)
    }

    /// Ends a client's connection at once: a socket is closed, a QUIC connection too.
    pub(crate) fn close(&mut self, client: usize) {
        if let (Some(Client::Quic(client)), Some(quic)) = (self.clients.try_remove(client), &mut self.quic) {
            quic.close(client.connection);
        }
    }

    /// Ends a client's connection as if its network had gone, but so that the subject learns of it at once: a reset of TCP, the end of a
    /// QUIC connection.
    pub(crate) fn cut(&mut self, client: usize) {
        if let Some(Client::Socket(client)) = self.clients.get(client) {
            client.cut();
        }
        self.close(client);
    }

    pub(crate) fn len(&self) -> usize {
        self.clients.len()
    }

    /// What the dialect knows of a client.
    pub(crate) fn session(&self, client: usize) -> &Session {
        self.clients[client].session()
    }

    /// Stops or resumes reading from a client.
    ///
    /// # Errors
    /// From the operating system.
    pub(crate) fn set_reading(&mut self, client: usize, reading: bool, sink: &mut impl Sink) -> Result<()> {
        if let (Client::Quic(one), Some(quic)) = (&self.clients[client], &mut self.quic) {
            let connection = one.connection;
            for stream in quic.set_reading(connection, reading) {
                self.hear(connection, Some(client), Some(stream), sink)?;
            }
            return Ok(());
        }
        let flags = if reading { epoll::EventFlags::IN } else { epoll::EventFlags::empty() };
        let Some(fd) = self.clients[client].fd() else { return Ok(()) };
        epoll::modify(&self.epoll, fd, epoll::EventData::new_u64(client as u64), flags).context("watch a client")
    }

    /// Publishes a payload of `size` bytes to the channel in this place of the client's plan; sent at the end of the turn.
    pub(crate) fn publish(&mut self, client: usize, place: usize, number: u32, size: usize, intended_ns: u64) {
        stamp::write(size, intended_ns, &mut self.payload);
        let (session, mut out) = self.clients[client].speak(&mut self.events);
        self.dialect.publish(session, place, number, &self.payload, &mut out);
        self.dirty.push(client);
    }

    /// Asks for a page of history, whose event has this number; `false` if the subject has none.
    pub(crate) fn history(&mut self, client: usize, place: usize, before: u64, number: u32) -> bool {
        self.dirty.push(client);
        let (session, mut out) = self.clients[client].speak(&mut self.events);
        self.dialect.history(session, place, before, number, &mut out)
    }

    /// Sends what is queued, waits for input until `until` at most, and hands on what came.
    ///
    /// # Errors
    /// From the operating system, a dialect or the sink.
    pub(crate) fn turn(&mut self, until: Instant, sink: &mut impl Sink) -> Result<()> {
        self.flush(sink)?;
        let until = self.quic.as_ref().and_then(|quic| quic.next_before(until)).unwrap_or(until);
        let wait = until.saturating_duration_since(Instant::now());
        self.ready.clear();
        let timeout = timespec(wait);
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.ready), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("wait for input"),
        }
        for place in 0..self.ready.len() {
            let token = self.ready[place].data.u64();
            if let (Some(port), Some(quic)) = (token.checked_sub(PORTS), &mut self.quic) {
                quic.receive(usize::try_from(port)?);
                self.hear_all(sink)?;
                continue;
            }
            let id = usize::try_from(token).unwrap_or(usize::MAX);
            // It may have been closed by what came earlier in the turn.
            if self.clients.contains(id) {
                self.serve(id, sink)?;
            }
        }
        if let Some(quic) = &mut self.quic {
            quic.handle_timeouts(Instant::now());
            self.hear_all(sink)?;
        }
        self.flush(sink)
    }

    /// Turns until `done`, or fails after `patience`.
    ///
    /// # Errors
    /// As [`turn`](Self::turn), and when it takes longer.
    pub(crate) fn until<S: Sink>(
        &mut self,
        sink: &mut S,
        patience: Duration,
        what: &str,
        mut done: impl FnMut(&Self, &S) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + patience;
        while !done(self, sink) {
            anyhow::ensure!(Instant::now() < deadline, "{what}: not within {patience:?}");
            self.turn(deadline.min(Instant::now() + Duration::from_millis(100)), sink)?;
        }
        Ok(())
    }

    /// Turns for as long as a client may keep an acknowledgement back: what the subject does with these is part of a delivery's cost.
    /// Returns at once where TCP acknowledges by itself.
    ///
    /// # Errors
    /// As [`turn`](Self::turn).
    pub(crate) fn acknowledge(&mut self, sink: &mut impl Sink) -> Result<()> {
        if self.quic.is_none() {
            return Ok(());
        }
        let end = Instant::now() + quic::ACKNOWLEDGED_AFTER;
        while Instant::now() < end {
            self.turn(end, sink)?;
        }
        Ok(())
    }

    fn serve(&mut self, id: usize, sink: &mut impl Sink) -> Result<()> {
        let Self { clients, dialect, stamps, buffer, plain, found, events, origin, epoll, dirty, .. } = self;
        let Client::Socket(client) = &mut clients[id] else { return Ok(()) };
        let was_open = client.is_open();
        let origin = *origin;
        let mut now = 0;
        let mut turn = Turn { dialect: &**dialect, stamps, buffer, plain, found, events };
        let got = client.serve(&mut turn, |intended| {
            // Once for all that one read brought: they came together.
            if now == 0 {
                now = since(origin);
            }
            sink.delivered(id, intended, now);
        });
        let got = got.with_context(|| format!("client {id}"))?;
        if !was_open && client.is_open() {
            let flags = epoll::EventFlags::IN;
            epoll::modify(&*epoll, client.as_fd(), epoll::EventData::new_u64(id as u64), flags)
                .context("watch a client")?;
        }
        if client.has_output() {
            dirty.push(id);
        }
        self.tell(id, sink)?;
        self.end(id, got, sink)
    }

    /// Hands on what QUIC connections have to tell.
    fn hear_all(&mut self, sink: &mut impl Sink) -> Result<()> {
        while let Some((connection, client)) = self.quic.as_mut().and_then(Quic::poll_stirred) {
            self.hear(connection, client, None, sink)?;
        }
        Ok(())
    }

    /// Hands on what one connection has to tell, or what one of its streams holds.
    fn hear(
        &mut self,
        connection: ConnectionHandle,
        client: Option<usize>,
        stream: Option<quinn_proto::StreamId>,
        sink: &mut impl Sink,
    ) -> Result<()> {
        let Self { clients, quic: Some(quic), dialect, stamps, found, events, origin, dirty, .. } = self else {
            return Ok(());
        };
        let (origin, mut now, mut got) = (*origin, 0, Got::Input);
        let mut one = client.and_then(|id| clients.get_mut(id));
        let told = |told: Told, frame: &[u8]| -> Result<()> {
            let (Some(Client::Quic(one)), Some(id)) = (&mut one, client) else { return Ok(()) };
            match told {
                Told::Connected => {
                    one.is_open = true;
                    let (session, mut out) = one.speak(events);
                    dialect.begin(session, &mut out);
                }
                Told::Frame => {
                    let (session, out) = one.speak(events);
                    take(&**dialect, stamps, found, session, frame, out, |intended| {
                        if now == 0 {
                            now = since(origin);
                        }
                        sink.delivered(id, intended, now);
                    })?;
                }
                Told::Ended(how) => got = how,
            }
            Ok(())
        };
        let heard = match stream {
            Some(stream) => quic.read(connection, stream, told),
            None => quic.hear(connection, told),
        };
        let Some(id) = client else { return heard };
        heard.with_context(|| format!("client {id}"))?;
        if clients.get(id).is_some_and(Client::has_output) {
            dirty.push(id);
        }
        self.tell(id, sink)?;
        self.end(id, got, sink)
    }

    /// Hands on what dialects had to tell of a client.
    fn tell(&mut self, id: usize, sink: &mut impl Sink) -> Result<()> {
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            match event {
                Event::Busy { after_ms } => sink.busy(id, after_ms)?,
                event => sink.event(id, event, since(self.origin))?,
            }
        }
        self.events = events;
        Ok(())
    }

    fn end(&mut self, id: usize, got: Got, sink: &mut impl Sink) -> Result<()> {
        let Got::Closed { code, reason } = got else { return Ok(()) };
        self.clients.try_remove(id);
        sink.closed(id, code, &reason)
    }

    fn flush(&mut self, sink: &mut impl Sink) -> Result<()> {
        let mut dirty = std::mem::take(&mut self.dirty);
        for &id in &dirty {
            let Some(client) = self.clients.get_mut(id).filter(|client| client.has_output()) else { continue };
            let sent = match (client, &mut self.quic) {
                (Client::Quic(client), Some(quic)) => client.flush(quic),
                (Client::Socket(client), _) => client.flush(),
                (Client::Quic(_), None) => Ok(Sent::All),
            };
            if sent.with_context(|| format!("send for client {id}"))? == Sent::Later {
                self.dirty.push(id);
            }
        }
        dirty.clear();
        // Those that wait for room are tried again in each turn: there are few, and the run is near its limit anyway.
        self.blocked = self.dirty.len();
        dirty.append(&mut self.dirty);
        self.dirty = dirty;
        if let Some(quic) = &mut self.quic {
            quic.transmit();
            self.blocked += usize::from(quic.is_blocked());
        }
        self.tell(usize::MAX, sink)
    }

    /// Whether something waits for room in a socket: the subject, or this machine, does not keep up with what it is sent.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked > 0
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // Sockets say by themselves that nobody is there any more.
        for (_, client) in &self.clients {
            if let (Client::Quic(client), Some(quic)) = (client, &mut self.quic) {
                quic.close(client.connection);
            }
        }
        if let Some(quic) = &mut self.quic {
            quic.transmit();
        }
    }
}

/// Nanoseconds since a fleet's origin.
fn since(origin: Instant) -> u64 {
    u64::try_from(origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

//! The load generator: one thread, one epoll set, thousands of clients of whatever [`Dialect`].
//!
//! It must cost less than what it measures: one read buffer for all, no task and no allocation per message, and payloads found by search.
//! A turn takes what is ready, hands it on, and writes what the dialects had to say.

mod client;

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{Timespec, epoll};
use slab::Slab;

use crate::dialect::{Dialect, Event, Plan, Session};
use crate::stamp::{self, Stamps};
pub(crate) use client::Options;
use client::{Client, Got};

/// Events taken from the system at a time.
const EVENTS_MAX: usize = 1024;
/// Bytes read from a client at a time: at saturation a turn of the server is long.
const READ_BYTES: usize = 256 << 10;

/// What a run makes of what comes in.
pub(crate) trait Sink {
    /// A payload reached a client. Times in nanoseconds since the fleet's origin.
    fn delivered(&mut self, client: usize, intended_ns: u64, now_ns: u64);

    /// A dialect has something to tell.
    ///
    /// # Errors
    /// To end the run.
    fn event(&mut self, client: usize, event: Event, now_ns: u64) -> Result<()>;

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

/// Clients of one subject.
pub(crate) struct Fleet {
    target: SocketAddr,
    dialect: Rc<dyn Dialect>,
    epoll: std::os::fd::OwnedFd,
    clients: Slab<Client>,
    /// Clients opened so far.
    opened: u32,
    origin: Instant,
    stamps: Stamps,
    ready: Vec<epoll::Event>,
    buffer: Box<[u8]>,
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
    pub(crate) fn new(target: SocketAddr, dialect: Rc<dyn Dialect>) -> Result<Self> {
        Ok(Self {
            target,
            dialect,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC).context("make an epoll set")?,
            clients: Slab::new(),
            opened: 0,
            origin: Instant::now(),
            stamps: Stamps::new(),
            ready: Vec::with_capacity(EVENTS_MAX),
            buffer: vec![0; READ_BYTES].into(),
            payload: Vec::new(),
            events: Vec::new(),
            dirty: Vec::new(),
            blocked: 0,
        })
    }

    /// Nanoseconds since the fleet was made; payloads carry these.
    pub(crate) fn now_ns(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
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
        let client = Client::connect(self.target, Session::new(self.opened, plan), options)
            .with_context(|| format!("connect client {} to {}", self.opened, self.target))?;
        self.opened += 1;
        let slot = self.clients.vacant_entry();
        let id = slot.key();
        let interest = epoll::EventFlags::OUT;
        epoll::add(&self.epoll, client.as_fd(), epoll::EventData::new_u64(id as u64), interest)
            .context("watch a client")?;
        slot.insert(client);
        Ok(id)
    }

    /// Ends a client's connection at once.
    pub(crate) fn close(&mut self, client: usize) {
        self.clients.try_remove(client);
    }

    pub(crate) fn len(&self) -> usize {
        self.clients.len()
    }

    /// What the dialect knows of a client.
    pub(crate) fn session(&self, client: usize) -> &Session {
        &self.clients[client].session
    }

    /// Stops or resumes reading from a client.
    ///
    /// # Errors
    /// From the operating system.
    pub(crate) fn set_reading(&mut self, client: usize, reading: bool) -> Result<()> {
        let flags = if reading { epoll::EventFlags::IN } else { epoll::EventFlags::empty() };
        let fd = self.clients[client].as_fd();
        epoll::modify(&self.epoll, fd, epoll::EventData::new_u64(client as u64), flags).context("watch a client")
    }

    /// Publishes a payload of `size` bytes to the channel in this place of the client's plan; sent at the end of the turn.
    pub(crate) fn publish(&mut self, client: usize, place: usize, number: u32, size: usize, intended_ns: u64) {
        stamp::write(size, intended_ns, &mut self.payload);
        let one = &mut self.clients[client];
        one.publish(&*self.dialect, place, number, &self.payload, &mut self.events);
        self.dirty.push(client);
    }

    /// Asks for a page of history, whose event has this number; `false` if the subject has none.
    pub(crate) fn history(&mut self, client: usize, place: usize, before: u64, number: u32) -> bool {
        self.dirty.push(client);
        self.clients[client].history(&*self.dialect, place, before, number, &mut self.events)
    }

    /// Sends what is queued, waits for input until `until` at most, and hands on what came.
    ///
    /// # Errors
    /// From the operating system, a dialect or the sink.
    pub(crate) fn turn(&mut self, until: Instant, sink: &mut impl Sink) -> Result<()> {
        self.flush(sink)?;
        let wait = until.saturating_duration_since(Instant::now());
        self.ready.clear();
        let timeout = timespec(wait);
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.ready), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("wait for input"),
        }
        for place in 0..self.ready.len() {
            let event = self.ready[place];
            let id = usize::try_from(event.data.u64()).unwrap_or(usize::MAX);
            // It may have been closed by what came earlier in the turn.
            if self.clients.contains(id) {
                self.serve(id, sink)?;
            }
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

    fn serve(&mut self, id: usize, sink: &mut impl Sink) -> Result<()> {
        let client = &mut self.clients[id];
        let was_open = client.is_open();
        let origin = self.origin;
        let now_ns = || u64::try_from(origin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let mut now = 0;
        let got = client.serve(&*self.dialect, &self.stamps, &mut self.buffer, &mut self.events, |intended| {
            // Once for all that one read brought: they came together.
            if now == 0 {
                now = now_ns();
            }
            sink.delivered(id, intended, now);
        });
        let got = got.with_context(|| format!("client {id}"))?;
        if !was_open && client.is_open() {
            let flags = epoll::EventFlags::IN;
            epoll::modify(&self.epoll, client.as_fd(), epoll::EventData::new_u64(id as u64), flags)
                .context("watch a client")?;
        }
        if client.has_output() {
            self.dirty.push(id);
        }
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            sink.event(id, event, now_ns())?;
        }
        self.events = events;
        if let Got::Closed { code, reason } = got {
            self.clients.try_remove(id);
            sink.closed(id, code, &reason)?;
        }
        Ok(())
    }

    fn flush(&mut self, sink: &mut impl Sink) -> Result<()> {
        let mut dirty = std::mem::take(&mut self.dirty);
        for &id in &dirty {
            if let Some(client) = self.clients.get_mut(id)
                && client.has_output()
                && client.flush().with_context(|| format!("send for client {id}"))? == client::Sent::Later
            {
                self.dirty.push(id);
            }
        }
        dirty.clear();
        // Those that wait for room are tried again in each turn: there are few, and the run is near its limit anyway.
        self.blocked = self.dirty.len();
        dirty.append(&mut self.dirty);
        self.dirty = dirty;
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            sink.event(usize::MAX, event, self.now_ns())?;
        }
        self.events = events;
        Ok(())
    }

    /// Whether something waits for room in a socket: the subject, or this machine, does not keep up with what it is sent.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked > 0
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

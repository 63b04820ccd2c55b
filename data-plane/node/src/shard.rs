//! A shard's thread: one loop that takes what is ready, feeds the core, and does what the core asks, in turns.
//!
//! It decides nothing about sessions or channels. It has the sockets, the rings, both clocks and the randomness that the
//! [core](millrace_core::Shard) must not have.

mod accept;
pub(crate) mod admission;
mod batch;
mod compression;
mod connection;
mod inspect;
mod lingering;
mod parting;
mod quic;
mod room;
mod secure;
mod traffic;
mod waiting;

use std::collections::VecDeque;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use millrace_core::{Action, ControlEvent, Hop, Now, SessionKey, ShardIndex};
use millrace_protocol::id::Term;
use millrace_protocol::node::NodeFrame;
use millrace_token::KeyRingLimits;
use monoio::RuntimeBuilder;
use rustls::ServerConfig;

use self::accept::Door;
use self::admission::{Admission, AdmissionLimits};
use self::batch::{BATCH_MAX, SendBatch};
use self::compression::Compression;
use self::connection::Connection;
use self::parting::{Parting, TOKENS_FROM};
use self::quic::Quic;
pub(crate) use self::quic::QuicSetup;
use self::room::InputRoom;
use self::secure::Scratch;
use crate::backplane::{FromShard, Outgoing, ToShard};
use crate::config::{Compressing, TurnLimits};
use crate::keys::Keys;
use crate::listener::Listener;
use crate::machine;
use crate::poller::{Interest, Poller, Ready};
use crate::report::{ShardReport, ShellStats};
use crate::ring::ShardRings;
use crate::udp::Datagram;

/// Tokens of what is no connection.
const BELL: u64 = u64::MAX - 1;
const LISTENER: u64 = u64::MAX - 2;
const TLS_LISTENER: u64 = u64::MAX - 3;

/// Shared by all connections of a shard, one read at a time.
const READ_BYTES: usize = 64 << 10;
/// The ring of monoio only carries the wait for the epoll set.
const URING_ENTRIES: u32 = 256;
/// Until a full ring is tried again. Its reader does not tell us when there is room.
const RING_RETRY: Duration = Duration::from_millis(1);
/// What a read from somebody who has not signed in weighs beside others, in bytes read: 16 of them fill a turn, about 1 ms.
const STRANGER_WORK_BYTES: u64 = 16 << 10;
/// How often revocations that have run out are forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(60);

/// What a shard's thread is made of.
pub(crate) struct Setup {
    pub(crate) index: ShardIndex,
    pub(crate) shards: u16,
    pub(crate) processor: Option<usize>,
    pub(crate) listener: TcpListener,
    /// The listener over TLS, and what its clients are to speak.
    pub(crate) tls: Option<(TcpListener, Arc<ServerConfig>)>,
    pub(crate) quic: Option<QuicSetup>,
    pub(crate) rings: Rings,
    pub(crate) core: millrace_core::Config,
    pub(crate) keys: KeyRingLimits,
    pub(crate) turn: TurnLimits,
    pub(crate) unfinished_bytes_max: usize,
    pub(crate) admission: AdmissionLimits,
    pub(crate) compression: Compressing,
    pub(crate) linger: Duration,
    pub(crate) seed: u64,
    /// Client connections of all shards.
    pub(crate) connections: Arc<AtomicU32>,
    pub(crate) connections_max: u32,
}

pub(crate) type Rings = ShardRings<Hop, ToShard, FromShard>;

/// Runs a shard until it is told to stop. `ready` hears when it serves, or why it does not.
///
/// # Errors
/// From the operating system, when waiting itself fails: nothing can go on then.
pub(crate) fn run(setup: Setup, ready: &SyncSender<io::Result<()>>) -> io::Result<()> {
    let _span = tracing::info_span!("shard", index = setup.index.0).entered();
    let processor = setup.processor.filter(|&processor| match machine::pin_to(processor) {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(processor, %error, "shard floats, it could not be pinned");
            false
        }
    });
    match RuntimeBuilder::<monoio::FusionDriver>::new().with_entries(URING_ENTRIES).build() {
        Ok(mut runtime) => runtime.block_on(serve(setup, processor, ready)),
        // io_uring is there but refuses a ring, as under a limit of locked memory.
        Err(error) => {
            tracing::warn!(%error, "no io_uring, epoll it is");
            let mut runtime = RuntimeBuilder::<monoio::LegacyDriver>::new().build()?;
            runtime.block_on(serve(setup, processor, ready))
        }
    }
}

async fn serve(setup: Setup, processor: Option<usize>, ready: &SyncSender<io::Result<()>>) -> io::Result<()> {
    match Shard::new(setup, processor) {
        Ok(shard) => {
            // Whoever starts the node has given up on it if nobody listens.
            let _ = ready.send(Ok(()));
            shard.run().await
        }
        Err(error) => {
            let _ = ready.send(Err(error));
            Ok(())
        }
    }
}

struct Shard {
    core: millrace_core::Shard<Keys>,
    poller: Poller,
    /// What was ready and has not had its turn.
    ready: VecDeque<Ready>,
    /// The same of doors and of strangers.
    ready_behind: VecDeque<Ready>,
    rings: Rings,
    /// By session index.
    connections: Vec<Option<Connection>>,
    /// How many of them there are.
    open: usize,
    input_room: InputRoom,
    /// Who has not signed in.
    admission: Admission,
    /// Reads from them.
    strangers_heard: u64,
    /// The same when this turn began.
    strangers_heard_before: u64,
    /// `None` where compression is off.
    compression: Option<Compression>,
    parting: Parting,
    /// In clear, then over TLS if there is one.
    doors: Vec<Door>,
    quic: Option<Quic>,
    /// Datagrams on their way to `quic`, empty between turns.
    datagrams: Vec<Datagram>,
    /// Frames for the control plane that found the ring full. Bounded by what the core lets be under way.
    control_backlog: VecDeque<Outgoing>,
    term: Option<Term>,
    draining: Draining,
    forget_at: Instant,
    buffer: Box<[u8]>,
    scratch: Scratch,
    /// Steps of TLS handshakes that this turn may still take.
    handshakes_left: usize,
    stats: ShellStats,
    node_connections: Arc<AtomicU32>,
    connections_max: u32,
    turn: TurnLimits,
    driver: &'static str,
    processor: Option<usize>,
    /// A ring was full in this turn.
    ring_was_full: bool,
    /// `None` where the system has no ring for it: then each connection is written to by itself.
    batch: Option<SendBatch>,
    /// Sessions to be written to, empty between turns.
    flushes: Vec<SessionKey>,
    /// Of these, those whose write is in the batch.
    batched: Vec<SessionKey>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Draining {
    No,
    /// Homes are being given back.
    Core,
    /// All are; some clients are still there, or have not read their last words.
    Clients,
    Told,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    GoOn,
    Stop,
}

fn now() -> Now {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { instant: Instant::now(), unix_ms: i64::try_from(unix.as_millis()).unwrap_or(i64::MAX) }
}

impl Shard {
    fn new(setup: Setup, processor: Option<usize>) -> io::Result<Self> {
        let now = now();
        let Setup {
            index,
            shards,
            listener,
            tls,
            quic,
            rings,
            core,
            keys,
            turn,
            unfinished_bytes_max,
            admission,
            compression,
            linger,
            seed,
            connections,
            connections_max,
            ..
        } = setup;
        let keys = Keys::new(keys);
        let mut core = millrace_core::Shard::new(now, core, index, shards, seed, keys).map_err(io::Error::other)?;
        let compression = match compression {
            Compressing::Off => None,
            Compressing::On => {
                let (compression, press) = Compression::new();
                core.compress_with(press);
                Some(compression)
            }
        };
        let poller = Poller::new(turn.events_max)?;
        let mut doors = vec![Door::new(&poller, LISTENER, Listener::new(listener), None)?];
        let scratch = Scratch::new(if tls.is_some() { READ_BYTES } else { 0 });
        if let Some((listener, config)) = tls {
            doors.push(Door::new(&poller, TLS_LISTENER, Listener::new(listener), Some(config))?);
        }
        poller.add(&*rings.bell, BELL, Interest::Read)?;
        let batch = if monoio::utils::is_legacy() {
            None
        } else {
            SendBatch::new().inspect_err(|error| tracing::debug!(%error, "no batches of sends")).ok()
        };
        let quic = quic.map(|quic| Quic::new(now.instant, index.0, shards, quic, &poller)).transpose()?;
        Ok(Self {
            core,
            poller,
            ready: VecDeque::with_capacity(turn.events_max),
            ready_behind: VecDeque::new(),
            rings,
            connections: Vec::new(),
            open: 0,
            input_room: InputRoom::new(unfinished_bytes_max),
            admission: Admission::new(admission),
            strangers_heard: 0,
            strangers_heard_before: 0,
            compression,
            parting: Parting::new(linger),
            doors,
            quic,
            datagrams: Vec::new(),
            control_backlog: VecDeque::new(),
            term: None,
            draining: Draining::No,
            forget_at: now.instant + FORGET_EVERY,
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
            scratch,
            handshakes_left: turn.handshakes_max,
            stats: ShellStats::default(),
            node_connections: connections,
            connections_max,
            turn,
            driver: if monoio::utils::is_legacy() { "epoll" } else { "io_uring" },
            processor,
            ring_was_full: false,
            batch,
            flushes: Vec::new(),
            batched: Vec::new(),
        })
    }

    async fn run(mut self) -> io::Result<()> {
        loop {
            let now = now();
            if self.turn(now)? == Flow::Stop {
                return Ok(());
            }
            let waits = !self.ready.is_empty() || !self.ready_behind.is_empty();
            if self.core.has_work() || waits || self.quic.as_ref().is_some_and(Quic::has_work) {
                continue;
            }
            let timeout = self.poll_timeout(now.instant);
            self.poller.set_timer(now.instant, timeout)?;
            self.rings.bell.sleep();
            if self.rings.nothing_waits() && self.quic.as_ref().is_none_or(Quic::nothing_waits) {
                self.poller.wait().await?;
            }
            self.rings.bell.awake();
        }
    }

    /// One turn: what arrived together leaves together. Sessions first, and what is for them is on its way before anybody is heard who has
    /// not signed in.
    fn turn(&mut self, now: Now) -> io::Result<Flow> {
        self.stats.turns_total += 1;
        self.ring_was_full = false;
        self.handshakes_left = self.turn.handshakes_max;
        self.strangers_heard_before = self.strangers_heard;
        self.take_ready(now)?;
        if self.take_rings(now) == Flow::Stop {
            return Ok(Flow::Stop);
        }
        self.take_forwarded(now);
        self.take_quic_events(now);
        if self.core.poll_timeout().is_some_and(|at| at <= now.instant) {
            self.core.handle_timeout(now);
        }
        let gone = self.parting.handle_timeout(now.instant, &mut self.admission);
        self.count_gone(gone);
        if now.instant >= self.forget_at {
            self.forget_at = now.instant + FORGET_EVERY;
            self.core.verifier_mut().forget(now.unix_ms);
        }
        self.doors.iter_mut().for_each(|door| door.resume(&self.poller, now.instant));
        let now = self.deliver(now);
        if self.ready_behind.is_empty() {
            self.poller.take_ready_behind(&mut self.ready_behind)?;
        }
        if !self.ready_behind.is_empty() || self.quic.as_ref().is_some_and(Quic::has_strangers) {
            self.take_ready_behind(now)?;
            self.take_handshakes(now);
            self.hear_quic_strangers(now);
            self.deliver(now);
        }
        self.quic_flush_rings();
        self.send_hops();
        self.send_backlog();
        let quic_parted = self.quic.as_ref().is_none_or(Quic::has_parted);
        if self.draining == Draining::Clients && self.open == 0 && quic_parted && self.parting.len() == 0 {
            self.draining = Draining::Told;
            self.push_up(FromShard::Drained);
        }
        self.rings.flush();
        Ok(Flow::GoOn)
    }

    /// Answers and delivers what has come until here. The time that it took so far is part of what is counted: gives what it is now.
    fn deliver(&mut self, now: Now) -> Now {
        let now = Now { instant: Instant::now(), ..now };
        self.core.end_turn(now);
        self.take_actions(now);
        self.quic_transmit(now);
        now
    }

    fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let retry = (self.ring_was_full || !self.control_backlog.is_empty()).then(|| now + RING_RETRY);
        let doors = self.doors.iter().filter_map(Door::poll_timeout).min();
        let quic = self.quic.as_ref().and_then(Quic::poll_timeout);
        [self.core.poll_timeout(), self.parting.poll_timeout(), doors, quic, retry].into_iter().flatten().min()
    }

    /// Ready descriptors of sessions, until the turn has read enough. The rest is first in the next one, so that nobody starves.
    fn take_ready(&mut self, now: Now) -> io::Result<()> {
        if self.ready.is_empty() {
            self.poller.take_ready(&mut self.ready)?;
        }
        let before = self.work();
        while let spent = self.work() - before
            && spent < self.turn.read_bytes_max as u64
            && let Some(ready) = self.ready.pop_front()
        {
            self.go_on(now, ready, self.turn.read_bytes_max as u64 - spent)?;
        }
        Ok(())
    }

    /// The same of doors and of strangers.
    fn take_ready_behind(&mut self, now: Now) -> io::Result<()> {
        let before = self.work();
        while self.work() - before < self.turn.read_bytes_max as u64
            && let Some(ready) = self.ready_behind.pop_front()
        {
            self.go_on(now, ready, 0)?;
        }
        Ok(())
    }

    /// What was done so far, in bytes read. What is inflated takes its time as what is read does, and so does whoever signs in.
    fn work(&self) -> u64 {
        let of_strangers = self.strangers_heard * STRANGER_WORK_BYTES;
        let of_datagrams = self.quic.as_ref().map_or(0, Quic::heard_bytes);
        self.stats.read_bytes_total + self.stats.inflated_bytes_total + of_strangers + of_datagrams
    }

    fn go_on(&mut self, now: Now, ready: Ready, work_bytes_max: u64) -> io::Result<()> {
        match ready.token {
            // It has done its work: the loop is awake.
            Poller::TIMER => {}
            BELL => self.rings.bell.drain(),
            LISTENER => self.accept(now, 0)?,
            TLS_LISTENER => self.accept(now, 1)?,
            quic::SOCKET => self.quic_ready(now, ready, work_bytes_max),
            token if token & u64::from(TOKENS_FROM) != 0 => {
                let gone = self.parting.handle_ready(&self.poller, &mut self.admission, token, &mut self.buffer);
                self.count_gone(gone);
            }
            token => {
                let session = SessionKey::from_u64(token);
                if ready.writable {
                    self.flush(now, session);
                }
                if ready.readable {
                    self.read(now, session);
                }
            }
        }
        Ok(())
    }

    fn take_rings(&mut self, now: Now) -> Flow {
        for from in 0..self.rings.from_shards.len() {
            let shard = ShardIndex(u16::try_from(from).expect("the configuration bounds the shards"));
            for _ in 0..self.turn.ring_items_max {
                let Some(hop) = self.rings.from_shards[from].as_mut().and_then(|inlet| inlet.pop()) else { break };
                self.core.handle_hop(now, shard, hop);
            }
        }
        for _ in 0..self.turn.ring_items_max {
            match self.rings.down.pop() {
                // The node did not come up, or went down without a word.
                None if self.rings.down.is_abandoned() => return Flow::Stop,
                None => break,
                Some(ToShard::Control(event)) => self.handle_control(now, event),
                // Who asked may have gone.
                Some(ToShard::Report(reply)) => drop(reply.send(self.report())),
                Some(ToShard::Inspect(question, reply)) => drop(reply.send(self.inspect(now, &question))),
                Some(ToShard::Drain(drain)) => {
                    self.doors.iter_mut().for_each(Door::close);
                    if let Some(quic) = &mut self.quic {
                        quic.driver.stop_accepting();
                    }
                    self.draining = Draining::Core;
                    self.core.handle_drain(now, drain);
                }
                Some(ToShard::Stop) => return Flow::Stop,
            }
        }
        Flow::GoOn
    }

    fn handle_control(&mut self, now: Now, event: ControlEvent) {
        match &event {
            ControlEvent::LinkUp { term } => {
                self.term = Some(*term);
                self.control_backlog.clear();
                self.core.verifier_mut().handle_link_up();
            }
            ControlEvent::LinkDown => {
                self.term = None;
                self.control_backlog.clear();
                self.core.verifier_mut().handle_link_down();
            }
            ControlEvent::Frame(frame) => self.core.verifier_mut().handle_frame(&frame.body, now.unix_ms),
        }
        self.core.handle_control(now, event);
    }

    fn report(&self) -> ShardReport {
        let spent = self.compression.as_ref().map(Compression::spent);
        let spent = |of: fn(&compression::Spent) -> &std::cell::Cell<u64>| spent.map_or(0, |spent| of(spent).get());
        let shell = ShellStats {
            compressed_frames_total: spent(|spent| &spent.frames),
            compress_plain_bytes_total: spent(|spent| &spent.plain_bytes),
            compress_bytes_total: spent(|spent| &spent.bytes),
            compress_us_total: spent(|spent| &spent.ns) / 1000,
            parting: self.parting.len() as u64,
            unfinished_bytes: self.input_room.taken_bytes() as u64,
            strangers: self.admission.len() as u64,
            control_backlog: self.control_backlog.len() as u64,
            ..self.stats.clone()
        };
        let shell = match &self.quic {
            Some(quic) => quic.told_in(shell),
            None => shell,
        };
        let (ring_items, ring_slots) = self.rings.fill();
        ShardReport {
            driver: self.driver,
            processor: self.processor,
            cpu_us: machine::thread_cpu_us(),
            ring_items,
            ring_slots,
            core: self.core.stats().clone(),
            shell,
        }
    }

    fn take_actions(&mut self, now: Now) {
        loop {
            while self.flushes.len() < BATCH_MAX
                && let Some(action) = self.core.poll_action()
            {
                self.act(now, action);
            }
            if self.flushes.is_empty() {
                return;
            }
            self.flush_all(now);
        }
    }

    fn act(&mut self, now: Now, action: Action) {
        match action {
            Action::Flush(session) if self.is_quic(session) => self.quic_flush(now, session),
            Action::Close { session, code, reason } if self.is_quic(session) => {
                self.quic_close(now, session, code, reason)
            }
            Action::Flush(session) => self.flushes.push(session),
            Action::Close { session, code, reason } => self.close(now, session, code, reason),
            Action::SignedIn(session) => self.signed_in(now, session),
            Action::Listen(session) => self.quic_listened(now, session),
            Action::Control(frame) => self.send_control(frame),
            Action::Drained => self.draining = Draining::Clients,
        }
    }

    fn send_hops(&mut self) {
        for to in 0..self.rings.to_shards.len() {
            let Some(outlet) = &mut self.rings.to_shards[to] else { continue };
            let shard = ShardIndex(u16::try_from(to).expect("the configuration bounds the shards"));
            loop {
                // Room first: a hop that was taken cannot be given back.
                if !outlet.has_room() {
                    self.ring_was_full = true;
                    self.stats.ring_full_total += 1;
                    break;
                }
                let Some(hop) = self.core.poll_hop(shard) else { break };
                let pushed = outlet.push(hop);
                debug_assert!(pushed.is_ok(), "there was room");
            }
        }
    }

    fn send_control(&mut self, frame: NodeFrame) {
        // Without a link the core has been told, or is about to be.
        let Some(term) = self.term else { return };
        let outgoing = Outgoing { term, frame };
        if self.control_backlog.is_empty() {
            self.push_up(FromShard::Control(outgoing));
        } else {
            self.control_backlog.push_back(outgoing);
        }
    }

    fn send_backlog(&mut self) {
        while let Some(outgoing) = self.control_backlog.pop_front() {
            if let Err(FromShard::Control(outgoing)) = self.rings.up.push(FromShard::Control(outgoing)) {
                self.control_backlog.push_front(outgoing);
                return;
            }
        }
    }

    fn push_up(&mut self, item: FromShard) {
        match self.rings.up.push(item) {
            Ok(()) => {}
            Err(FromShard::Control(outgoing)) => {
                self.stats.ring_full_total += 1;
                self.control_backlog.push_back(outgoing);
            }
            // Told again in the next turn.
            Err(FromShard::Drained) => self.draining = Draining::Clients,
        }
    }
}

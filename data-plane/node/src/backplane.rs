//! The one thread of a node that is not a shard: it carries frames between shards and the control link, and collects
//! reports. It decides nothing about messages.
//!
//! Frames are encoded and decoded here and not in the shards: a shard's turn is what clients wait for, and one thread
//! that encodes an append of 100 messages of 100 bytes in 5 µs keeps up with all of them.

mod link;
mod operate;

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use millrace_core::{ControlEvent, Drain, ShardIndex, home_of};
use millrace_protocol::id::Term;
use millrace_protocol::node::{Inspect, Inspected, NodeBody, NodeFrame};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use self::link::LinkEvent;
pub use self::link::{Dial, LinkTarget};
pub(crate) use self::link::{Identity, Outgoing};

use crate::machine::Usage;
use crate::report::{CertificateReport, NodeReport, ShardReport};
use crate::ring::{BackplaneRings, Doorbell};
use crate::tls::Tls;

/// Frames between the router and the link, each way.
const LINK_FRAMES_MAX: usize = 1024;
/// Items taken from one source before the others have their turn.
const BURST_MAX: usize = 256;
/// A shard that takes longer to answer than this is shown as not answering.
const REPORT_LIMIT: Duration = Duration::from_secs(2);
/// While a shard's ring is full: rare, and shorter than anybody notices.
const RETRY: Duration = Duration::from_millis(1);
/// What shards get to store and give back after the time in which their clients left.
const DRAIN_SLACK: Duration = Duration::from_secs(5);

/// What the backplane tells a shard.
#[derive(Debug)]
pub(crate) enum ToShard {
    /// About the control link, or from it.
    Control(ControlEvent),
    /// Tell your numbers.
    Report(oneshot::Sender<ShardReport>),
    /// Tell what you know of a user or a channel.
    Inspect(Arc<Inspect>, oneshot::Sender<Inspected>),
    /// Send the clients away and give everything back.
    Drain(Drain),
    /// End now.
    Stop,
}

/// What a shard tells the backplane.
#[derive(Debug)]
pub(crate) enum FromShard {
    /// A frame for the control plane.
    Control(Outgoing),
    /// It has done what it was told by [`ToShard::Drain`].
    Drained,
}

// A ring's memory is its places.
const _: () = assert!(size_of::<ToShard>() <= 256 && size_of::<FromShard>() <= 256);

/// What the owner of the node wants.
#[derive(Debug)]
pub(crate) enum Command {
    /// Stop, giving clients and homes this long.
    Drain(Duration),
}

/// What the backplane needs to know of the rest of the node.
pub(crate) struct Surroundings {
    pub(crate) node: String,
    pub(crate) endpoints: Vec<String>,
    /// The node's certificate, to tell of.
    pub(crate) tls: Option<Arc<Tls>>,
    /// Port of the sockets for QUIC, if there are any.
    pub(crate) udp_port: Option<u16>,
    /// Client connections of all shards, counted by them.
    pub(crate) connections: Arc<AtomicU32>,
    pub(crate) connections_max: u32,
    /// What peers get to read their last words.
    pub(crate) linger: Duration,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) reports: mpsc::Receiver<oneshot::Sender<NodeReport>>,
}

/// Runs until the node has stopped: told so by a command, or by the end of all commands.
pub(crate) async fn run(
    rings: BackplaneRings<ToShard, FromShard>,
    bell: BellWaiter,
    target: LinkTarget,
    identity: Identity,
    surroundings: Surroundings,
) {
    let (events, from_link) = mpsc::channel(LINK_FRAMES_MAX);
    let (to_link, outgoing) = mpsc::channel(LINK_FRAMES_MAX);
    let router = Router {
        backlog: rings.down.iter().map(|_| VecDeque::new()).collect(),
        rings,
        from_link,
        to_link: to_link.downgrade(),
        questions: Arc::new(Semaphore::new(operate::QUESTIONS_MAX)),
        started_ms: unix_ms(),
        held: None,
        term: None,
        synced: false,
        phase: Phase::Running,
        surroundings,
    };
    // The link ends when the router has dropped its end of the queue, after writing what is in it.
    tokio::join!(link::keep_open(target, identity, events, outgoing), router.run(to_link, bell));
}

struct Router {
    rings: BackplaneRings<ToShard, FromShard>,
    /// What did not fit a shard's ring. While there is any, nothing more is taken from the link, so it is bounded by what one
    /// event brings; nothing that the control plane says may be lost.
    backlog: Vec<VecDeque<ToShard>>,
    from_link: mpsc::Receiver<LinkEvent>,
    /// For answers that take their time; the link ends without waiting for them.
    to_link: mpsc::WeakSender<Outgoing>,
    /// Room for operators' questions.
    questions: Arc<Semaphore>,
    started_ms: i64,
    /// A frame that the link has no room for. Meanwhile shards keep theirs.
    held: Option<Outgoing>,
    term: Option<Term>,
    /// Every shard has been told all keys to verify tokens with since the link came up.
    synced: bool,
    phase: Phase,
    surroundings: Surroundings,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    Draining { deadline: Instant, waiting: usize },
    Stopping,
}

/// Whether a step found anything to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Some,
    None,
}

impl Router {
    async fn run(mut self, to_link: mpsc::Sender<Outgoing>, waiter: BellWaiter) {
        let bell = Arc::clone(&self.rings.bell);
        loop {
            let progress = self.turn(&to_link);
            self.rings.down.iter_mut().for_each(crate::ring::Outlet::flush);
            if self.phase == Phase::Stopping && self.backlog.iter().all(VecDeque::is_empty) {
                return;
            }
            if progress == Progress::Some {
                // The link shares this thread.
                tokio::task::yield_now().await;
                continue;
            }
            bell.sleep();
            if self.held.is_some() || self.rings.nothing_waits() {
                self.wait(&to_link, &waiter).await;
            }
            bell.awake();
            bell.drain();
        }
    }

    /// Takes a bounded number of things from each source.
    fn turn(&mut self, to_link: &mpsc::Sender<Outgoing>) -> Progress {
        let mut progress = Progress::None;
        for shard in 0..self.backlog.len() {
            while let Some(item) = self.backlog[shard].pop_front() {
                if let Err(item) = self.rings.down[shard].push(item) {
                    self.backlog[shard].push_front(item);
                    break;
                }
                progress = Progress::Some;
            }
        }
        if let Some(held) = self.held.take() {
            self.send(to_link, held);
        }
        for shard in 0..self.rings.up.len() {
            for _ in 0..BURST_MAX {
                if self.held.is_some() {
                    break;
                }
                match self.rings.up[shard].pop() {
                    None => break,
                    Some(FromShard::Control(outgoing)) => self.send(to_link, outgoing),
                    Some(FromShard::Drained) => self.handle_drained(),
                }
                progress = Progress::Some;
            }
        }
        for _ in 0..BURST_MAX {
            if !self.takes_events() {
                break;
            }
            let Ok(event) = self.from_link.try_recv() else { break };
            self.handle_link(event);
            progress = Progress::Some;
        }
        if let Phase::Draining { deadline, waiting } = self.phase
            && (waiting == 0 || Instant::now() >= deadline)
        {
            if waiting > 0 {
                tracing::warn!(shards = waiting, "stopping before everything was given back");
            }
            self.stop();
            progress = Progress::Some;
        }
        progress
    }

    fn takes_events(&self) -> bool {
        self.backlog.iter().all(VecDeque::is_empty)
    }

    /// Waits for whatever comes next and handles it.
    async fn wait(&mut self, to_link: &mpsc::Sender<Outgoing>, bell: &BellWaiter) {
        let takes_events = self.takes_events();
        let deadline = match self.phase {
            Phase::Draining { deadline, .. } => Some(deadline),
            _ => None,
        };
        tokio::select! {
            event = self.from_link.recv(), if takes_events => {
                if let Some(event) = event {
                    self.handle_link(event);
                }
            }
            command = self.surroundings.commands.recv(), if self.phase != Phase::Stopping => self.handle_command(command),
            Some(reply) = self.surroundings.reports.recv() => self.report(reply),
            () = bell.rung() => {}
            // Only to learn of room: the frame is sent in the next turn.
            _permit = to_link.reserve(), if self.held.is_some() => {}
            () = tokio::time::sleep(RETRY), if !takes_events => {}
            () = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {}
        }
    }

    /// Frames of links that have ended are dropped: their shard has been told, and asks again.
    fn send(&mut self, to_link: &mpsc::Sender<Outgoing>, outgoing: Outgoing) {
        if self.term == Some(outgoing.term)
            && let Err(mpsc::error::TrySendError::Full(outgoing)) = to_link.try_send(outgoing)
        {
            self.held = Some(outgoing);
        }
    }

    fn handle_link(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Up(term) => {
                self.term = Some(term);
                self.synced = false;
                self.broadcast(|| ToShard::Control(ControlEvent::LinkUp { term }));
            }
            LinkEvent::Down => {
                self.term = None;
                self.held = None;
                self.broadcast(|| ToShard::Control(ControlEvent::LinkDown));
            }
            LinkEvent::Frame(frame) => self.handle_frame(frame),
        }
    }

    fn handle_frame(&mut self, frame: NodeFrame) {
        let shard = match &frame.body {
            NodeBody::Keys(_)
            | NodeBody::MemberChanged(_)
            | NodeBody::ChannelChanged { .. }
            | NodeBody::TokensRevoked(_)
            | NodeBody::ReadsMoved(_)
            | NodeBody::Synced => {
                self.synced |= frame.body == NodeBody::Synced;
                self.broadcast(|| ToShard::Control(ControlEvent::Frame(frame.clone())));
                return;
            }
            NodeBody::Report | NodeBody::Inspect(_) | NodeBody::Drain { .. } => return self.handle_operator(frame),
            NodeBody::Publish(order) => home_of(order.channel, self.shard_count()),
            NodeBody::Authorized(_)
            | NodeBody::HomesOpened(_)
            | NodeBody::Appended(_)
            | NodeBody::History(_)
            | NodeBody::HomesClosed
            | NodeBody::ReadsMarked(_)
            | NodeBody::Refused(_) => ShardIndex::of_request(frame.id),
            _ => {
                tracing::warn!(id = frame.id, "the control plane sent a frame that is not its to send");
                return;
            }
        };
        if shard.get() < self.backlog.len() {
            self.push(shard.get(), ToShard::Control(ControlEvent::Frame(frame)));
        } else {
            tracing::warn!(id = frame.id, "the control plane answered what nobody asked");
        }
    }

    fn shard_count(&self) -> u16 {
        u16::try_from(self.backlog.len()).expect("the configuration bounds the shards")
    }

    fn push(&mut self, shard: usize, item: ToShard) {
        // Behind what waits already, so that order holds.
        if self.backlog[shard].is_empty() {
            if let Err(item) = self.rings.down[shard].push(item) {
                self.backlog[shard].push_back(item);
            }
        } else {
            self.backlog[shard].push_back(item);
        }
    }

    fn broadcast(&mut self, item: impl Fn() -> ToShard) {
        for shard in 0..self.backlog.len() {
            self.push(shard, item());
        }
    }

    fn handle_command(&mut self, command: Option<Command>) {
        match command {
            // It drains already.
            Some(Command::Drain(_)) if self.phase != Phase::Running => {}
            Some(Command::Drain(over)) => {
                tracing::info!(over_ms = over.as_millis(), "node drains");
                // Links and clients that are gone must not keep the process.
                let deadline = Instant::now() + over + self.surroundings.linger + DRAIN_SLACK;
                self.phase = Phase::Draining { deadline, waiting: self.backlog.len() };
                let endpoints = self.surroundings.endpoints.clone();
                self.broadcast(|| ToShard::Drain(Drain { over, endpoints: endpoints.clone() }));
            }
            None => self.stop(),
        }
    }

    fn handle_drained(&mut self) {
        if let Phase::Draining { waiting, .. } = &mut self.phase {
            *waiting = waiting.saturating_sub(1);
        }
    }

    fn stop(&mut self) {
        self.phase = Phase::Stopping;
        self.broadcast(|| ToShard::Stop);
    }

    /// Asks every shard and answers when all have, or not in time. Waiting for them is a task: the router goes on.
    fn report(&mut self, reply: oneshot::Sender<NodeReport>) {
        let report = self.ask_reports(Instant::now() + REPORT_LIMIT);
        let udp_port = self.surroundings.udp_port;
        tokio::spawn(async move {
            let mut report = report.await;
            report.usage = Usage::now(udp_port);
            // Who asked may have gone.
            let _ = reply.send(report);
        });
    }

    /// Asks every shard now; the future is done when all have answered, or at the deadline. It knows nothing of the process's usage.
    fn ask_reports(&mut self, deadline: Instant) -> impl Future<Output = NodeReport> + use<> {
        let mut answers = Vec::with_capacity(self.backlog.len());
        for shard in 0..self.backlog.len() {
            let (answer, receiver) = oneshot::channel();
            self.push(shard, ToShard::Report(answer));
            answers.push(receiver);
        }
        let mut report = NodeReport {
            node: self.surroundings.node.clone(),
            term: self.term.map(|term| term.0),
            synced: self.synced,
            draining: self.phase != Phase::Running,
            connections: self.surroundings.connections.load(Ordering::Relaxed).into(),
            connections_max: self.surroundings.connections_max.into(),
            certificate: self.surroundings.tls.as_deref().map(CertificateReport::of),
            shards: Vec::new(),
            usage: Usage::default(),
        };
        async move {
            for answer in answers {
                report.shards.push(timeout_at(deadline, answer).await.ok().and_then(Result::ok));
            }
            report
        }
    }
}

fn unix_ms() -> i64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(unix.as_millis()).unwrap_or(i64::MAX)
}

/// The backplane's doorbell as something tokio can wait for.
pub(crate) struct BellWaiter {
    bell: Arc<Doorbell>,
    /// The same descriptor; tokio only polls it for readability, which an eventfd answers like a socket.
    waiter: UnixStream,
}

impl BellWaiter {
    /// Call it in a tokio runtime.
    ///
    /// # Errors
    /// From the operating system: no descriptor or memory is left.
    pub(crate) fn new<D, U>(rings: &BackplaneRings<D, U>) -> io::Result<Self> {
        let bell = Arc::clone(&rings.bell);
        let waiter = StdUnixStream::from(bell.as_fd().try_clone_to_owned()?);
        Ok(Self { waiter: UnixStream::from_std(waiter)?, bell })
    }

    /// # Cancel safety
    /// Nothing is lost: a ring that was not seen is seen next time.
    async fn rung(&self) {
        if self.waiter.readable().await.is_ok() {
            // "Would block" tells tokio to wait for the next ring.
            let _ = self.waiter.try_io(Interest::READABLE, || {
                self.bell.drain();
                Err::<(), _>(io::ErrorKind::WouldBlock.into())
            });
        }
    }
}

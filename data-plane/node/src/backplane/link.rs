//! The data node's end of the control link: one ordered byte stream, opened again with back-off whenever it ends.
//!
//! It knows frames and heartbeats, not what they are about: the [router](super) decides what goes in and where what
//! comes out goes. Frames are encoded here, in the backplane's thread, and all that wait go out in one write.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::{hmac, rand};
use millrace_protocol::FrameError;
use millrace_protocol::code::Refusal;
use millrace_protocol::id::Term;
use millrace_protocol::node::{self, FrameReader, LinkHello, NodeBody, NodeFrame};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};

/// From connecting to `Welcome`.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Either side ends a link that is silent for so many heartbeats.
const SILENT_HEARTBEATS_MAX: u32 = 3;
/// Frames that wait are joined to one write of about this size.
const WRITE_BYTES_GOAL: usize = 256 << 10;
/// Read at a time.
const READ_BYTES: usize = 16 << 10;
/// Shortest and longest wait before another attempt.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// A heartbeat outside this range would spin or never notice anything.
const HEARTBEAT: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(60));

/// Opens the in-process pipe to the control plane; called again whenever the last one ended.
pub type Dial = Arc<dyn Fn() -> io::Result<DuplexStream> + Send + Sync>;

/// Where the control plane is.
#[derive(Clone)]
pub enum LinkTarget {
    /// Another process: `host:port`, resolved anew at each attempt.
    Tcp {
        /// Host name or address, and port.
        address: String,
    },
    /// This process, as in `millrace dev`.
    InProcess {
        /// Opens a pipe whose other end the control plane serves.
        dial: Dial,
    },
}

impl fmt::Debug for LinkTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { address } => f.debug_struct("Tcp").field("address", address).finish(),
            Self::InProcess { .. } => f.debug_struct("InProcess").finish_non_exhaustive(),
        }
    }
}

impl fmt::Display for LinkTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { address } => f.write_str(address),
            Self::InProcess { .. } => f.write_str("this process"),
        }
    }
}

/// What the link presents itself with.
pub(crate) struct Identity {
    pub(crate) node: String,
    pub(crate) endpoints: Vec<String>,
    /// Of the certificate that clients are shown, where browsers take that by its hash.
    pub(crate) certificate_hashes: watch::Receiver<Vec<[u8; 32]>>,
    pub(crate) secret: Vec<u8>,
}

/// What the link tells the router, in order.
#[derive(Debug)]
pub(super) enum LinkEvent {
    /// It is open under this term.
    Up(Term),
    /// A frame that is not about the link itself.
    Frame(NodeFrame),
    /// It ended. What was sent and not answered may or may not have happened.
    Down,
}

/// A frame for the control plane, and the term of the link it was meant for: under any other it is dropped.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) term: Term,
    pub(crate) frame: NodeFrame,
}

/// Why a link ended or did not come about.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("connection failed")]
    Io(#[from] io::Error),
    #[error("the control plane closed the link")]
    Closed,
    #[error("nothing was heard for {SILENT_HEARTBEATS_MAX} heartbeats")]
    Silent,
    #[error("no welcome within {} s", HANDSHAKE_LIMIT.as_secs())]
    HandshakeTimeout,
    #[error("bad frame")]
    Frame(#[from] FrameError),
    #[error("unexpected frame in the handshake")]
    UnexpectedFrame,
    #[error("the control plane speaks link version {0}, this node {own}", own = node::VERSION)]
    Version(u16),
    #[error("refused by the control plane")]
    Refused(#[source] Refusal),
    #[error("the node stops")]
    Stopped,
}

trait Pipe: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Pipe for T {}

/// Keeps a link open until `outgoing` is closed. `events` is told of every beginning, frame and end.
///
/// # Cancel safety
/// A dropped future drops the link: what was on its way is lost.
pub(super) async fn keep_open(
    target: LinkTarget,
    identity: Identity,
    events: mpsc::Sender<LinkEvent>,
    mut outgoing: mpsc::Receiver<Outgoing>,
) {
    let mut backoff = BACKOFF.0;
    let mut told: Option<String> = None;
    loop {
        match open(&target, &identity).await {
            Ok(mut link) => {
                tracing::info!(control = %target, term = link.term.0, "control link is up");
                (backoff, told) = (BACKOFF.0, None);
                if events.send(LinkEvent::Up(link.term)).await.is_err() {
                    return;
                }
                let end = link.run(&events, &mut outgoing).await;
                if let LinkError::Stopped = end {
                    return;
                }
                tracing::warn!(control = %target, error = &end as &dyn std::error::Error, "control link ended");
                if events.send(LinkEvent::Down).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                // One line for each reason, not one for each attempt.
                let reason = with_sources(&error);
                if told.as_ref() != Some(&reason) {
                    tracing::warn!(control = %target, error = %reason, "control link cannot be opened, trying on");
                    told = Some(reason);
                }
            }
        }
        if !wait(jittered(backoff), &mut outgoing).await {
            return;
        }
        backoff = (backoff * 2).min(BACKOFF.1);
    }
}

fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// Between a half and the whole of `backoff`, so that nodes that lost the same control plane do not return as one.
fn jittered(backoff: Duration) -> Duration {
    let mut random = [0_u8; 1];
    // Without randomness the full wait is as good.
    if rand::fill(&mut random).is_err() {
        return backoff;
    }
    backoff / 2 + backoff / 2 * u32::from(random[0]) / 255
}

/// Waits, dropping what is meant for links that have ended. `false` once nobody can send any more.
async fn wait(time: Duration, outgoing: &mut mpsc::Receiver<Outgoing>) -> bool {
    let until = Instant::now() + time;
    loop {
        match timeout_at(until, outgoing.recv()).await {
            Ok(Some(_stale)) => {}
            Ok(None) => return false,
            Err(_elapsed) => return true,
        }
    }
}

async fn open(target: &LinkTarget, identity: &Identity) -> Result<Link, LinkError> {
    match timeout(HANDSHAKE_LIMIT, connect_and_greet(target, identity)).await {
        Ok(result) => result,
        Err(_elapsed) => Err(LinkError::HandshakeTimeout),
    }
}

async fn connect_and_greet(target: &LinkTarget, identity: &Identity) -> Result<Link, LinkError> {
    let pipe: Box<dyn Pipe> = match target {
        LinkTarget::Tcp { address } => {
            let stream = TcpStream::connect(address.as_str()).await?;
            stream.set_nodelay(true)?;
            Box::new(stream)
        }
        LinkTarget::InProcess { dial } => Box::new(dial()?),
    };
    let (read, mut write) = tokio::io::split(pipe);
    let mut read = Incoming { read, frames: FrameReader::default() };
    let NodeBody::Challenge { nonce, version } = read.next().await?.body else {
        return Err(LinkError::UnexpectedFrame);
    };
    if version != node::VERSION {
        return Err(LinkError::Version(version));
    }
    let mut hashes = identity.certificate_hashes.clone();
    let certificate_hashes = hashes.borrow_and_update().clone();
    let hello = NodeBody::Hello(LinkHello {
        version: node::VERSION,
        node: identity.node.clone(),
        proof: proof(&identity.secret, &nonce, &identity.node),
        endpoints: identity.endpoints.clone(),
        certificate_hashes,
    });
    let mut buffer = Vec::new();
    node::encode_delimited(&NodeFrame { id: 0, body: hello }, &mut buffer)?;
    write.write_all(&buffer).await?;
    match read.next().await?.body {
        NodeBody::Welcome { term, heartbeat_ms } => {
            let heartbeat = Duration::from_millis(heartbeat_ms.into()).clamp(HEARTBEAT.0, HEARTBEAT.1);
            Ok(Link { read, write, term, heartbeat, hashes })
        }
        NodeBody::Refused(refusal) => Err(LinkError::Refused(refusal)),
        _ => Err(LinkError::UnexpectedFrame),
    }
}

/// HMAC-SHA256 under the cluster secret of the nonce followed by the node's name.
fn proof(secret: &[u8], nonce: &[u8; 32], node: &str) -> [u8; 32] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret));
    context.update(nonce);
    context.update(node.as_bytes());
    let mut proof = [0; 32];
    proof.copy_from_slice(context.sign().as_ref());
    proof
}

struct Incoming {
    read: tokio::io::ReadHalf<Box<dyn Pipe>>,
    frames: FrameReader,
}

impl Incoming {
    /// # Cancel safety
    /// Nothing is lost: a frame that is partly there stays in the buffer.
    async fn next(&mut self) -> Result<NodeFrame, LinkError> {
        loop {
            if let Some(frame) = self.frames.next_frame()? {
                return Ok(node::decode(frame)?);
            }
            // Bodies of decoded frames share the buffer they came in: room is made beside them, not over them.
            self.frames.buffer().reserve(READ_BYTES);
            if self.read.read_buf(self.frames.buffer()).await? == 0 {
                return Err(LinkError::Closed);
            }
        }
    }
}

struct Link {
    read: Incoming,
    write: tokio::io::WriteHalf<Box<dyn Pipe>>,
    term: Term,
    heartbeat: Duration,
    /// What the hello told of the certificate.
    hashes: watch::Receiver<Vec<[u8; 32]>>,
}

impl Link {
    /// Carries frames both ways until the link ends, and says why it did.
    async fn run(&mut self, events: &mpsc::Sender<LinkEvent>, outgoing: &mut mpsc::Receiver<Outgoing>) -> LinkError {
        let pong_due = Notify::new();
        let (term, heartbeat) = (self.term, self.heartbeat);
        let reading = read_all(&mut self.read, heartbeat, events, &pong_due);
        let writing = write_all(&mut self.write, &mut self.hashes, term, heartbeat, outgoing, &pong_due);
        // Both ends of the select are loops that end only with the link, so neither is ever dropped half way to be resumed.
        tokio::select! {
            end = reading => end,
            end = writing => end,
        }
        .err()
        .unwrap_or(LinkError::Closed)
    }
}

async fn read_all(
    read: &mut Incoming,
    heartbeat: Duration,
    events: &mpsc::Sender<LinkEvent>,
    pong_due: &Notify,
) -> Result<(), LinkError> {
    loop {
        // The time that the router takes to accept an event is not the peer's silence: the clock starts at each read.
        let frame = match timeout(heartbeat * SILENT_HEARTBEATS_MAX, read.next()).await {
            Ok(frame) => frame?,
            Err(_elapsed) => return Err(LinkError::Silent),
        };
        match frame.body {
            // One pong answers all pings that wait.
            NodeBody::Ping => pong_due.notify_one(),
            NodeBody::Pong | NodeBody::Unknown => {}
            NodeBody::Challenge { .. } | NodeBody::Hello(_) | NodeBody::Welcome { .. } => {
                return Err(LinkError::UnexpectedFrame);
            }
            _ => events.send(LinkEvent::Frame(frame)).await.map_err(|_closed| LinkError::Stopped)?,
        }
    }
}

async fn write_all(
    write: &mut tokio::io::WriteHalf<Box<dyn Pipe>>,
    hashes: &mut watch::Receiver<Vec<[u8; 32]>>,
    term: Term,
    heartbeat: Duration,
    outgoing: &mut mpsc::Receiver<Outgoing>,
    pong_due: &Notify,
) -> Result<(), LinkError> {
    let mut buffer = Vec::new();
    let mut ping_at = Instant::now() + heartbeat;
    loop {
        let (mut pong, mut shown) = (false, None);
        // A node without a certificate has nothing to tell of it.
        let has_certificate = hashes.has_changed().is_ok();
        let mut next = tokio::select! {
            next = outgoing.recv() => match next {
                Some(next) => Some(next),
                None => {
                    // What was sent before the node stopped is flushed already: writes are awaited below.
                    write.shutdown().await?;
                    return Err(LinkError::Stopped);
                }
            },
            () = pong_due.notified() => {
                pong = true;
                None
            }
            Ok(()) = hashes.changed(), if has_certificate => {
                shown = Some(hashes.borrow_and_update().clone());
                None
            }
            () = tokio::time::sleep_until(ping_at) => None,
        };
        buffer.clear();
        if let Some(hashes) = shown {
            node::encode_delimited(&NodeFrame { id: 0, body: NodeBody::CertificateHashes(hashes) }, &mut buffer)?;
        }
        if pong {
            node::encode_delimited(&NodeFrame { id: 0, body: NodeBody::Pong }, &mut buffer)?;
        }
        if Instant::now() >= ping_at {
            ping_at = Instant::now() + heartbeat;
            node::encode_delimited(&NodeFrame { id: 0, body: NodeBody::Ping }, &mut buffer)?;
        }
        while let Some(Outgoing { term: meant, frame }) = next {
            if meant == term {
                node::encode_delimited(&frame, &mut buffer)?;
            }
            next = if buffer.len() < WRITE_BYTES_GOAL { outgoing.try_recv().ok() } else { None };
        }
        // A peer that does not read is as gone as one that does not write.
        match timeout(heartbeat * SILENT_HEARTBEATS_MAX, write.write_all(&buffer)).await {
            Ok(written) => written?,
            Err(_elapsed) => return Err(LinkError::Silent),
        }
        buffer.shrink_to(WRITE_BYTES_GOAL);
    }
}

#[cfg(test)]
mod tests;

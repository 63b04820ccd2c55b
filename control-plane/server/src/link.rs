//! The control node's end of the control link: data nodes connect, prove that they belong to the cluster, and get a term; from then
//! on the link answers their requests, tells them of every change, and hands them what comes in over REST.
//!
//! - [`LinkServer`]: accepts links and is the [`DataPlane`] of the REST API;
//! - `handshake`, `connection`: how a link begins and lives; `outbox`: what waits to be written;
//! - `authorize`, `home`, `append`, `reads`: the answers; `announce`: what a node is told unasked; `inquiry`: what it is asked.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use millrace_protocol::Code;
use millrace_protocol::code::Refusal;
use millrace_protocol::id::Term;
use millrace_protocol::node::{LinkHello, NodeBody, NodeFrame, PublishOrder, PublishedAt};
use millrace_store::{BoxFuture, Store, StoreError, Transaction};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::data_plane::{DataPlane, LinkedNode};
use crate::webhooks::Webhooks;

mod announce;
mod append;
mod authorize;
mod connection;
mod handshake;
mod history;
mod home;
mod inquiry;
mod metrics;
mod outbox;
mod reads;
#[cfg(test)]
mod tests;
mod told;

use inquiry::Inquiries;
use metrics::LinkMetrics;
use outbox::Outbox;
use told::Told;

/// Shortest cluster secret, in bytes.
pub const CLUSTER_SECRET_BYTES_MIN: usize = 16;

/// Buffer of an in-process link, each way.
const PIPE_BYTES: usize = 256 << 10;
/// Changes that wait to be looked up and queued. More, and the link ends: the node then asks anew.
const CHANGES_WAITING_MAX: usize = 8192;

/// How the link behaves.
#[derive(Clone)]
pub struct LinkConfig {
    /// What a data node proves to know; at least 16 bytes, better 32 random ones.
    pub cluster_secret: Bytes,
    /// Either side sends something at least this often, and ends a link that is silent for three of them. 20 ms to 60 s. Default 500 ms, so that a
    /// node which vanished without a word holds up its successor for 1.5 s.
    pub heartbeat: Duration,
    /// From accepting to welcome. Default 5 s.
    pub handshake_timeout: Duration,
    /// Connections that may be in their handshake at once; more are closed. Default 16.
    pub handshakes_max: usize,
    /// From a transaction's begin to its commit. Default 5 s.
    pub transaction_timeout: Duration,
    /// How long a publish from REST waits for the home's answer. Default 5 s.
    pub publish_timeout: Duration,
    /// Publishes from REST that may wait for the home. Default 4096.
    pub publishes_max: usize,
    /// Bytes that may wait to be written to the node. Default 32 MiB; replies wait for room, changes have 4 MiB more.
    pub queue_bytes_max: usize,
    /// Bytes of requests, and of the history pages that they ask for, that may be under way. Default 64 MiB; the link is not read
    /// while there is no room.
    pub requests_bytes_max: usize,
}

impl LinkConfig {
    /// The defaults, under this secret.
    pub fn new(cluster_secret: impl Into<Bytes>) -> Self {
        Self {
            cluster_secret: cluster_secret.into(),
            heartbeat: Duration::from_millis(500),
            handshake_timeout: Duration::from_secs(5),
            handshakes_max: 16,
            transaction_timeout: Duration::from_secs(5),
            publish_timeout: Duration::from_secs(5),
            publishes_max: 4096,
            queue_bytes_max: 32 << 20,
            requests_bytes_max: 64 << 20,
        }
    }
}

impl std::fmt::Debug for LinkConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the secret.
        f.debug_struct("LinkConfig").field("heartbeat", &self.heartbeat).finish_non_exhaustive()
    }
}

/// Why a link cannot be served as configured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkConfigError {
    /// Anybody could guess it.
    #[error("cluster secret is {len} bytes, it must have at least {CLUSTER_SECRET_BYTES_MIN}")]
    SecretTooShort {
        /// Length in bytes.
        len: usize,
    },
    /// Nodes would take another one than was meant.
    #[error("heartbeat is {0:?}, it must be 20 ms to 60 s")]
    Heartbeat(Duration),
    /// A metric of the same name is registered already.
    #[error("metrics cannot be registered")]
    Metrics(#[from] prometheus::Error),
}

/// Why a link ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LinkEnd {
    /// The node closed it, or the connection broke.
    Closed,
    /// Nothing was heard for three heartbeats.
    Silent,
    /// The node read nothing for three heartbeats.
    Stuck,
    /// Bytes that are no frame, or a frame that a node does not send.
    BadFrame,
    /// The handshake did not end in time.
    HandshakeTimeout,
    /// The node was refused: version, proof, or another node's link lives.
    Refused,
    /// More changes than the node took; it asks anew when it is back.
    QueueFull,
    /// The control node stops.
    Stopping,
    /// A fault of ours; the details are in the log.
    Internal,
}

impl LinkEnd {
    /// Every reason.
    pub const ALL: [Self; 9] = [
        Self::Closed,
        Self::Silent,
        Self::Stuck,
        Self::BadFrame,
        Self::HandshakeTimeout,
        Self::Refused,
        Self::QueueFull,
        Self::Stopping,
        Self::Internal,
    ];

    /// Its name in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Silent => "silent",
            Self::Stuck => "stuck",
            Self::BadFrame => "bad_frame",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::Refused => "refused",
            Self::QueueFull => "queue_full",
            Self::Stopping => "stopping",
            Self::Internal => "internal",
        }
    }
}

/// Serves control links over one store. Clones share everything.
#[derive(Clone)]
pub struct LinkServer(Arc<Shared>);

struct Shared {
    db: Db,
    config: LinkConfig,
    metrics: LinkMetrics,
    handshakes: Semaphore,
    crowd_told: Told,
    stranger_told: Told,
    active: Mutex<Option<Arc<Active>>>,
    /// Where clients reach the node that was made welcome last.
    endpoints: Mutex<Vec<String>>,
    /// Of the certificate that it shows, where browsers take that by its hash.
    certificate_hashes: Mutex<Vec<[u8; 32]>>,
    stopping: AtomicBool,
    /// Who hears of messages.
    webhooks: OnceLock<Webhooks>,
}

/// The one link that lives.
struct Active {
    node: String,
    endpoints: Vec<String>,
    /// Unix time.
    linked_ms: i64,
    /// 0 until it is given.
    term: AtomicU64,
    outbox: Outbox,
    changes: mpsc::Sender<NodeBody>,
    /// The node has been told everything: it may get publishes.
    ready: AtomicBool,
    publishes: Mutex<HashMap<u64, oneshot::Sender<Result<PublishedAt, Refusal>>>>,
    /// Numbers publishes and inquiries alike.
    publish_id: AtomicU64,
    inquiries: Inquiries,
}

impl Active {
    fn publishes(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Result<PublishedAt, Refusal>>>> {
        self.publishes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a change that is committed.
    fn announce(&self, change: NodeBody) {
        if self.changes.try_send(change).is_err() {
            tracing::warn!(node = self.node, "too many changes wait for the data node: the link begins anew");
            self.outbox.end(LinkEnd::QueueFull);
        }
    }
}

impl LinkServer {
    /// A server without links. Metrics go to `registry`.
    ///
    /// # Errors
    /// [`LinkConfigError`] if a value is out of range or metrics of these names exist already.
    pub fn new(
        store: Arc<dyn Store>,
        config: LinkConfig,
        registry: &prometheus::Registry,
    ) -> Result<Self, LinkConfigError> {
        if config.cluster_secret.len() < CLUSTER_SECRET_BYTES_MIN {
            return Err(LinkConfigError::SecretTooShort { len: config.cluster_secret.len() });
        }
        if !(Duration::from_millis(20)..=Duration::from_secs(60)).contains(&config.heartbeat) {
            return Err(LinkConfigError::Heartbeat(config.heartbeat));
        }
        Ok(Self(Arc::new(Shared {
            db: Db { store, timeout: config.transaction_timeout },
            metrics: LinkMetrics::register(registry)?,
            handshakes: Semaphore::new(config.handshakes_max.max(1)),
            crowd_told: Told::default(),
            stranger_told: Told::default(),
            active: Mutex::new(None),
            endpoints: Mutex::default(),
            certificate_hashes: Mutex::default(),
            stopping: AtomicBool::new(false),
            webhooks: OnceLock::new(),
            config,
        })))
    }

    /// Tells webhooks of messages from now on. Call it before the first link, once.
    #[must_use]
    pub fn with_webhooks(self, webhooks: Webhooks) -> Self {
        // Whoever comes second meets the same store, where everything is kept.
        self.0.webhooks.get_or_init(|| webhooks);
        self
    }

    /// Accepts links from other processes, for ever.
    ///
    /// Who may link is proven, but nothing is encrypted, and HS256 secrets travel on it: listen on a network of your own.
    ///
    /// # Cancel safety
    /// A dropped future accepts no more; links that are open live on until [`LinkServer::stop`].
    pub async fn serve_tcp(&self, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let server = self.clone();
                    tokio::spawn(async move {
                        // Frames are written whole; waiting for more would only delay them.
                        if let Err(error) = stream.set_nodelay(true) {
                            tracing::debug!(%peer, %error, "no TCP_NODELAY");
                        }
                        server.serve(stream).await;
                    });
                }
                Err(error) => {
                    // Out of descriptors, most likely: the pending connection stays pending, so take a breath.
                    tracing::warn!(%error, "control link cannot be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Opens a link inside this process and serves its other end. Call it in a tokio runtime.
    pub fn connect_in_process(&self) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        let server = self.clone();
        tokio::spawn(async move { server.serve(ours).await });
        theirs
    }

    /// Serves one link until it ends, and says why it did.
    ///
    /// # Cancel safety
    /// A dropped future ends the link. Appends under way may still be stored.
    pub async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> LinkEnd {
        let end = connection::serve(&self.0, stream).await;
        self.0.metrics.ended(end);
        end
    }

    /// Ends the link that lives and refuses new ones.
    pub fn stop(&self) {
        // Set before the look: a link that is being claimed at this moment sees it afterwards.
        self.0.stopping.store(true, Ordering::SeqCst);
        if let Some(active) = self.0.active() {
            active.outbox.end(LinkEnd::Stopping);
        }
    }
}

impl Shared {
    fn slot(&self) -> MutexGuard<'_, Option<Arc<Active>>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn active(&self) -> Option<Arc<Active>> {
        self.slot().clone()
    }
}

/// Holds the place of the one link; gives it back when dropped.
struct Claim<'a> {
    shared: &'a Shared,
    active: Arc<Active>,
}

impl<'a> Claim<'a> {
    /// # Errors
    /// A refusal that names the node whose link lives.
    fn take(shared: &'a Shared, hello: &LinkHello, changes: mpsc::Sender<NodeBody>) -> Result<Self, Refusal> {
        let mut slot = shared.slot();
        if shared.stopping.load(Ordering::SeqCst) {
            return Err(Refusal::new(Code::GoingAway, "the control node stops"));
        }
        if let Some(holder) = &*slot {
            let message = format!("the link of data node {:?} lives; one data node at a time", holder.node);
            return Err(Refusal::new(Code::Busy, message).after(shared.config.heartbeat));
        }
        let active = Arc::new(Active {
            node: hello.node.clone(),
            endpoints: hello.endpoints.clone(),
            linked_ms: now_unix_ms(),
            term: AtomicU64::new(0),
            outbox: Outbox::new(shared.config.queue_bytes_max),
            changes,
            ready: AtomicBool::new(false),
            publishes: Mutex::default(),
            publish_id: AtomicU64::new(1),
            inquiries: Inquiries::default(),
        });
        *slot = Some(active.clone());
        Ok(Self { shared, active })
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.active.outbox.end(LinkEnd::Closed);
        // Waiting publishes learn that their answer is lost.
        self.active.publishes().clear();
        self.active.inquiries.clear();
        *self.shared.slot() = None;
        self.shared.metrics.up.set(0);
    }
}

impl DataPlane for LinkServer {
    fn publish(&self, order: PublishOrder) -> BoxFuture<'_, Result<PublishedAt, Refusal>> {
        Box::pin(self.0.publish(order))
    }

    fn announce(&self, change: NodeBody) {
        if let Some(active) = self.0.active() {
            active.announce(change);
        }
    }

    fn is_linked(&self) -> bool {
        self.0.active().is_some_and(|active| active.ready.load(Ordering::Acquire))
    }

    fn nodes(&self) -> Vec<LinkedNode> {
        self.0.nodes()
    }

    fn ask<'a>(
        &'a self,
        node: &'a str,
        question: NodeBody,
        patience: Duration,
    ) -> BoxFuture<'a, Result<NodeBody, Refusal>> {
        Box::pin(self.0.ask(node, question, patience))
    }

    fn endpoints(&self) -> Vec<String> {
        self.0.endpoints.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn certificate_hashes(&self) -> Vec<[u8; 32]> {
        self.0.certificate_hashes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Takes a waiting publish off the list, however its future ends.
struct Waiting<'a>(&'a Active, u64);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.publishes().remove(&self.1);
    }
}

impl Shared {
    /// Notes where clients reach a node that was made welcome, and by what they know it.
    fn met(&self, endpoints: Vec<String>, certificate_hashes: Vec<[u8; 32]>) {
        *self.endpoints.lock().unwrap_or_else(PoisonError::into_inner) = endpoints;
        self.shows(certificate_hashes);
    }

    /// Notes the hashes of what the node shows to clients from now on.
    fn shows(&self, certificate_hashes: Vec<[u8; 32]>) {
        *self.certificate_hashes.lock().unwrap_or_else(PoisonError::into_inner) = certificate_hashes;
    }

    async fn publish(&self, order: PublishOrder) -> Result<PublishedAt, Refusal> {
        let unavailable = || Refusal::new(Code::Unavailable, "no data node is linked").after(Duration::from_secs(1));
        let unknown = |what: &str| {
            let message = format!("{what}; publish again with the same producer and sequence to find out");
            Refusal::new(Code::UnknownOutcome, message)
        };
        let active = self.active().ok_or_else(unavailable)?;
        if !active.ready.load(Ordering::Acquire) {
            return Err(unavailable());
        }
        let id = active.publish_id.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        {
            let mut publishes = active.publishes();
            if publishes.len() >= self.config.publishes_max {
                let max = self.config.publishes_max;
                return Err(Refusal::new(Code::Busy, format!("{max} publishes wait for the data node")));
            }
            publishes.insert(id, answer);
        }
        let _waiting = Waiting(&active, id);
        match active.outbox.urgent(&NodeFrame { id, body: NodeBody::Publish(order) }) {
            Ok(true) => {}
            Ok(false) => return Err(Refusal::new(Code::Busy, "too much waits for the data node")),
            Err(_end) => return Err(unavailable()),
        }
        match tokio::time::timeout(self.config.publish_timeout, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_dropped)) => Err(unknown("the link to the data node was cut")),
            Err(_elapsed) => Err(unknown("the data node did not answer in time")),
        }
    }
}

/// The store, with this link's time limit.
struct Db {
    store: Arc<dyn Store>,
    timeout: Duration,
}

impl Db {
    async fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        self.store.begin(Instant::now() + self.timeout).await
    }
}

/// How often a transaction is run that ends in a conflict. Conflicts come from other control nodes, the sweep, and homes that
/// were fenced: one of them wins each time.
const ATTEMPTS_MAX: u32 = 8;

/// A store failure as the data node sees it: nothing happened, try again.
fn refusal(error: &StoreError) -> Refusal {
    tracing::warn!(error = error as &dyn std::error::Error, "store failed a request of the data node");
    match error {
        StoreError::TooLarge { .. } => Refusal::new(Code::TooLarge, error.to_string()),
        StoreError::Damaged(_) => Refusal::new(Code::Internal, "the store is damaged"),
        _ => Refusal::new(Code::Unavailable, "the store cannot answer now"),
    }
}

/// A transaction that lost every race.
fn contended() -> Refusal {
    Refusal::new(Code::Busy, "the record changes too often")
}

/// Gives a term higher than every one before.
async fn next_term(db: &Db) -> Result<Term, Refusal> {
    use millrace_store::CommitOutcome;

    use crate::record::key;
    for _ in 0..ATTEMPTS_MAX {
        let mut transaction = db.begin().await.map_err(|error| refusal(&error))?;
        let last = match transaction.get(&key::link_term()).await.map_err(|error| refusal(&error))? {
            None => 0,
            Some(bytes) => match bytes.split_first_chunk::<1>() {
                Some(([1], term)) if term.len() == 8 => term.iter().fold(0, |term, byte| term << 8 | u64::from(*byte)),
                _ => return Err(refusal(&StoreError::Damaged("the link's term".into()))),
            },
        };
        let term = last + 1;
        let mut bytes = vec![1];
        bytes.extend_from_slice(&term.to_be_bytes());
        transaction.put(key::link_term(), bytes.into());
        match transaction.commit().await {
            CommitOutcome::Committed => return Ok(Term(term)),
            // Not knowing is no harm: the next attempt reads what is there, and a term that nobody got is skipped.
            CommitOutcome::Conflict | CommitOutcome::Unknown(_) => {}
            CommitOutcome::Failed(error) => return Err(refusal(&error)),
        }
    }
    Err(contended())
}

fn now_unix_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

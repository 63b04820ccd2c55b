//! Webhooks: telling applications of what happens, by signed requests to their endpoints.
//!
//! A change keeps its events for every webhook that wants them in its own transaction; of messages only a mark is kept, as their channel has
//! them. For each webhook with something to tell, one control node at a time holds a lease and delivers: at least once, and in order within a
//! channel.
//!
//! - [`Webhooks`]: what the rest of the control node holds; `event`: what is told; `interest`: what appends ask;
//! - `dispatcher`: finds webhooks with something to tell; `runner`: delivers for one of them; `agenda`: what it can tell now; `lane`: one channel's
//!   events, one by one;
//! - `endpoint`: requests; `signature`: what proves where they come from.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use millrace_domain::{Networks, Webhook, WebhookUrl};
use millrace_protocol::id::{ChannelId, Offset, TenantId};
use millrace_store::{Store, StoreError, Transaction};
use prometheus::Registry;
use tokio::sync::{Mutex as AsyncMutex, Notify, watch};
use tokio::task::JoinHandle;

use crate::record::{channel, key, webhook, webhook_log, webhook_queue};
use crate::secret;

mod agenda;
mod dispatcher;
mod endpoint;
mod event;
mod interest;
mod lane;
mod metrics;
mod runner;
pub(crate) mod signature;
mod test;

pub(crate) use event::{ChannelRef, Event};

use endpoint::Client;
use interest::{Interest, Name};
use metrics::Metrics;

/// How long a transaction may take.
const STORE_DEADLINE: Duration = Duration::from_secs(5);
/// Turns of those who settle shared rows: few enough to be cheap, so many that others seldom wait.
const TURNS: usize = 64;

/// How webhooks are delivered.
#[derive(Debug, Clone)]
pub struct WebhookConfig {
    /// Which addresses requests may go to. Default: public ones alone.
    pub networks: Networks,
    /// Whether `http` is allowed to other hosts than this machine. Default no: what is told is read by everybody on the way.
    pub plain_http: bool,
    /// Authorities that are trusted beside the platform's, as PEM. Default none.
    pub ca_pem: Option<Vec<u8>>,
    /// How long a request may take from its begin to the status of its answer, what follows of that aside. Default 10 s.
    pub attempt_limit: Duration,
    /// Requests of one webhook at once. Default 8.
    pub at_once: usize,
    /// Events that may wait for one webhook, messages aside; at more it is turned off. Default 10,000.
    pub waiting_max: u64,
    /// How long a control node that died goes on holding what it delivered for. Default 10 s.
    pub lease: Duration,
    /// How often all webhooks are looked at, for what no node told. Default 30 s.
    pub look: Duration,
    /// How long a control node relies on what it has in memory of which webhooks want messages. A webhook that begins to want them is answered for after
    /// that time, when all know. Default 100 ms.
    pub interest_life: Duration,
    /// How long requests under way may go on when the node stops. Default 5 s.
    pub stop_grace: Duration,
    /// What waits after failures are divided by. Default 1; tests are in a hurry.
    pub hurry: u32,
}

impl Default for WebhookConfig {
    fn default() -> Self {
        Self {
            networks: Networks::default(),
            plain_http: false,
            ca_pem: None,
            attempt_limit: Duration::from_secs(10),
            at_once: 8,
            waiting_max: 10_000,
            lease: Duration::from_secs(10),
            look: Duration::from_secs(30),
            interest_life: Duration::from_millis(100),
            stop_grace: Duration::from_secs(5),
            hurry: 1,
        }
    }
}

/// Why webhooks cannot be delivered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WebhookError {
    /// What was given as authorities cannot be used.
    #[error("the authorities of webhooks cannot be used: {0}")]
    Authority(String),
    /// They cannot be read.
    #[error("webhooks cannot be read")]
    Store(#[from] StoreError),
    /// Metrics of the same names exist already.
    #[error("metrics cannot be registered")]
    Metrics(#[from] prometheus::Error),
}

/// Webhooks of a control node. Clones share everything.
#[derive(Clone)]
pub struct Webhooks(Arc<Hub>);

struct Hub {
    store: Arc<dyn Store>,
    config: WebhookConfig,
    client: Arc<Client>,
    metrics: Metrics,
    interest: Interest,
    /// Those who read webhooks for `interest` do it one after the other, so that the newest reading is the last one taken.
    reading: AsyncMutex<()>,
    /// Names this run of a control node.
    owner: String,
    /// Tells keys of this process from those of others.
    number: u32,
    clock_us: AtomicU64,
    awake: Mutex<Awake>,
    called: Notify,
    stop: watch::Sender<bool>,
    dispatcher: Mutex<Option<JoinHandle<()>>>,
    /// The next attempt's number, of webhooks that were delivered for.
    numbers: Mutex<HashMap<String, u64>>,
    /// Webhooks that are being tested, and whose they are.
    tests: Mutex<HashMap<String, TenantId>>,
    /// Turns of those who settle what they share.
    turns: [AsyncMutex<()>; TURNS],
}

/// Who is delivered for, and who has something to tell and is not yet.
#[derive(Default)]
struct Awake {
    running: HashMap<Arc<str>, Arc<Signal>>,
    waiting: HashSet<Name>,
}

/// Tells a runner that something has come.
#[derive(Default)]
struct Signal {
    notify: Notify,
    /// Since it last looked.
    has_come: AtomicBool,
}

impl Webhooks {
    /// Begins to deliver. Metrics go to `registry`. Call it in a tokio runtime, before the first append.
    ///
    /// # Errors
    /// [`WebhookError`]
    pub async fn start(
        store: Arc<dyn Store>,
        config: WebhookConfig,
        registry: &Registry,
    ) -> Result<Self, WebhookError> {
        let client = Client::new(config.networks.clone(), config.attempt_limit, config.ca_pem.as_deref())?;
        let (stop, stopped) = watch::channel(false);
        let hub = Arc::new(Hub {
            store,
            client: Arc::new(client),
            metrics: Metrics::register(registry)?,
            interest: Interest::new(),
            reading: AsyncMutex::new(()),
            owner: secret::random_id(),
            number: u32::from_be_bytes(secret::random()),
            clock_us: AtomicU64::new(0),
            awake: Mutex::default(),
            called: Notify::new(),
            stop,
            dispatcher: Mutex::default(),
            numbers: Mutex::default(),
            tests: Mutex::default(),
            turns: [const { AsyncMutex::const_new(()) }; TURNS],
            config,
        });
        hub.look().await?;
        let task = tokio::spawn(dispatcher::run(hub.clone(), stopped));
        *hub.dispatcher.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        Ok(Self(hub))
    }

    /// Begins no request any more, lets those under way end within the grace, and gives up its leases.
    pub async fn stop(&self) {
        self.0.stop.send_replace(true);
        let task = self.0.dispatcher.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task
            && let Err(error) = task.await
        {
            tracing::error!(%error, "deliveries of webhooks ended badly");
        }
    }

    /// Whether a webhook may go to a URL at all; what its name resolves to is judged with each request.
    ///
    /// # Errors
    /// What is wrong with it, for whoever wrote it.
    pub(crate) fn admits(&self, url: &WebhookUrl) -> Result<(), String> {
        let config = &self.0.config;
        if !url.is_secure() && !config.plain_http && !url.host().is_loopback() {
            return Err("is http; use https, so that nobody on the way reads what is told".into());
        }
        match url.host() {
            millrace_domain::WebhookHost::Address(address) if !config.networks.allow(*address) => {
                Err(format!("goes to {address}, which is no public address"))
            }
            _ => Ok(()),
        }
    }

    /// Keeps the events of a change for the webhooks that want them. Wake what it gives once the change is committed.
    pub(crate) async fn keep(
        &self,
        transaction: &mut dyn Transaction,
        events: &[Event],
    ) -> Result<Vec<Name>, StoreError> {
        self.0.keep(transaction, events).await
    }

    /// A place behind all events that wait for a webhook.
    pub(crate) fn row(&self, id: &str) -> bytes::Bytes {
        key::of_webhook::event(id, self.0.next_us(), self.0.number)
    }

    /// Has these delivered for, soon.
    pub(crate) fn wake(&self, names: impl IntoIterator<Item = Name>) {
        for name in names {
            self.0.wake(name);
        }
    }

    /// Webhooks of a tenant have changed, or may have.
    pub(crate) async fn changed(&self, tenant: TenantId) {
        self.0.changed(tenant).await;
    }

    /// Waits until every control node knows of a change of webhooks that was committed before.
    pub(crate) async fn known_everywhere(&self) {
        tokio::time::sleep(self.0.config.interest_life).await;
    }

    /// Events that may wait for a webhook when it is turned on: with more it could never be told them all.
    pub(crate) fn waiting_when_on_max(&self) -> u64 {
        self.0.config.waiting_max.saturating_mul(10)
    }

    /// Notes in an append's transaction, begun at `begun` or later, that messages from `first` on wait for those that want them. Adds these to
    /// `marked`, to be woken after the commit.
    pub(crate) async fn mark(
        &self,
        transaction: &mut dyn Transaction,
        begun: Instant,
        channel: ChannelId,
        first: Offset,
        marked: &mut Vec<Name>,
    ) -> Result<(), StoreError> {
        let interest = &self.0.interest;
        // Another control node may have taken a webhook on meanwhile.
        if !interest.is_true_at(begun, self.0.config.interest_life)
            && !interest.confirm(&webhook::version(transaction).await?, begun)
        {
            self.0.read_all_since(begun).await?;
        }
        if !interest.is_any() {
            return Ok(());
        }
        let names = match self.0.interest.of(channel) {
            Ok(names) => names,
            Err(version) => match channel::peek(transaction, channel).await? {
                Some(record) => self.0.interest.learn(channel, record.tenant, &record.name, version),
                None => return Ok(()),
            },
        };
        for (tenant, id) in names.iter() {
            webhook_queue::mark(transaction, id, channel, first).await?;
            marked.push((*tenant, id.clone()));
        }
        Ok(())
    }
}

impl Hub {
    fn awake(&self) -> MutexGuard<'_, Awake> {
        self.awake.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, name: Name) {
        let mut awake = self.awake();
        if let Some(signal) = awake.running.get(&name.1) {
            signal.has_come.store(true, Ordering::Release);
            signal.notify.notify_one();
        } else if awake.waiting.insert(name) {
            self.called.notify_one();
        }
    }

    /// The turn of those who settle the event of a row, whatever webhook the row is of.
    fn turn(&self, row: &[u8]) -> &AsyncMutex<()> {
        // The low bytes of its time, before the process's number.
        let [.., high, low, _, _, _, _] = row else { return &self.turns[0] };
        &self.turns[usize::from(u16::from_be_bytes([*high, *low])) % TURNS]
    }

    async fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        self.store.begin(deadline()).await
    }

    async fn changed(&self, tenant: TenantId) {
        let reading = self.reading.lock().await;
        let read = async {
            let mut transaction = self.begin().await?;
            webhook::rows_of(&mut *transaction, tenant).await
        };
        match read.await {
            Ok(webhooks) => {
                self.interest.set(tenant, &webhooks);
                drop(reading);
                // Whoever delivers for one that is off or was removed ends.
                for webhook in webhooks {
                    self.wake((tenant, Arc::from(webhook.id.as_str())));
                }
            }
            // The next look at all of them finds it.
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "webhooks cannot be read"),
        }
    }

    /// Reads all webhooks, unless somebody did so since a moment.
    async fn read_all_since(&self, moment: Instant) -> Result<(), StoreError> {
        let _reading = self.reading.lock().await;
        if !self.interest.is_true_at(moment, Duration::ZERO) {
            self.read_all().await?;
        }
        Ok(())
    }

    /// Reads all webhooks, also those that were removed. Only for whoever has the turn of `reading`.
    async fn read_all(&self) -> Result<Vec<Webhook>, StoreError> {
        let began = Instant::now();
        let mut transaction = self.begin().await?;
        // First: of a change that comes in between, the next look at it tells.
        let word = webhook::version(&mut *transaction).await?;
        let (mut all, mut rest) = webhook::part_of_all(&mut *transaction, None).await?;
        while let Some(from) = rest {
            let mut transaction = self.begin().await?;
            let part;
            (part, rest) = webhook::part_of_all(&mut *transaction, Some(from)).await?;
            all.extend(part);
        }
        self.interest.set_all(&all, word, began);
        Ok(all)
    }

    /// Reads all webhooks; wakes those with something to tell. Gives those that were removed.
    async fn look(&self) -> Result<Vec<Webhook>, StoreError> {
        let all = {
            let _reading = self.reading.lock().await;
            self.read_all().await?
        };
        let mut removed = Vec::new();
        for webhook in all {
            if webhook.removed_ms.is_some() {
                removed.push(webhook);
                continue;
            }
            if !webhook.is_on() || self.awake().running.contains_key(webhook.id.as_str()) {
                continue;
            }
            let mut transaction = self.begin().await?;
            if !webhook_queue::is_empty(&mut *transaction, &webhook.id).await? {
                self.wake((webhook.tenant, Arc::from(webhook.id.as_str())));
            }
        }
        Ok(removed)
    }

    /// The number of a webhook's next attempt. Remembered by whoever delivers for it: of others it would be an old one soon.
    async fn attempt_number(&self, id: &str) -> Result<u64, StoreError> {
        let take = |numbers: &mut HashMap<String, u64>, first: Option<u64>| {
            let next = match first {
                Some(first) => numbers.entry(id.to_owned()).or_insert(first),
                None => numbers.get_mut(id)?,
            };
            *next += 1;
            Some(*next - 1)
        };
        let numbers = || self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = take(&mut numbers(), None) {
            return Ok(number);
        }
        let mut transaction = self.begin().await?;
        let newest = webhook_log::attempts(&mut *transaction, id).await?.first().map_or(0, |attempt| attempt.number);
        if !self.awake().running.contains_key(id) {
            return Ok(newest + 1);
        }
        Ok(take(&mut numbers(), Some(newest + 1)).unwrap_or(newest + 1))
    }

    fn forget_number(&self, id: &str) {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

fn deadline() -> Instant {
    Instant::now() + STORE_DEADLINE
}

fn random() -> u64 {
    u64::from_be_bytes(secret::random())
}

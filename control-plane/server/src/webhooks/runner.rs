//! Delivers for one webhook, under a lease, until nothing waits: few requests at a time, one lane never twice, and one request at a time to an
//! endpoint that takes none.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use millrace_domain::word::Word;
use millrace_domain::{FAILING_MAX, Off, OffReason, Outcome, Webhook, endpoint_pause, first_of_messages};
use millrace_protocol::id::{ChannelId, TenantId};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::endpoint::Endpoint;
use super::lane::{Failing, Job, Lane, LaneEnd};
use super::{Hub, Signal, deadline, random};
use crate::record::webhook::{self, Health};
use crate::record::webhook_queue::{self, Waiting};
use crate::rest::now_ms;
use crate::transact::{TransactError, transact};

/// Rows that one look at what waits reads at a time.
const PAGE_ROWS: u32 = 256;
/// Events that are told before a lane makes room for others.
const LANE_EVENTS: usize = 32;
/// Failures in a row after which an endpoint was down: what waited because of it is told at once when it is back.
const DOWN_FAILURES: u32 = 3;
/// How often it is counted what waits.
const COUNT_INTERVAL: Duration = Duration::from_secs(5);
/// How long a runner with nothing to tell holds its lease and connections: the next event often follows soon.
const LINGER: Duration = Duration::from_secs(3);
/// By so much a lease is longer while nothing can be told.
const QUIET_LEASES: u32 = 3;
/// A runner that the store fails waits so long.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// What delivers for a webhook.
pub(super) struct Runner {
    hub: Arc<Hub>,
    tenant: TenantId,
    id: Arc<str>,
    signal: Arc<Signal>,
    /// As it was read last.
    webhook: Option<Arc<Webhook>>,
    endpoint: Option<Arc<Endpoint>>,
    health: Health,
    /// Something of it is not stored yet.
    health_is_new: bool,
    /// What was tried before is tried again: the endpoint is back, or has been changed. Unix time, ms.
    fresh_ms: i64,
    lanes: JoinSet<LaneEnd>,
    busy: HashSet<Lane>,
    is_over: Arc<AtomicBool>,
    /// When the endpoint took something last; Unix time, ms.
    taken_ms: Arc<AtomicI64>,
    /// Events go first in the next look while the endpoint fails; else messages do.
    probes_events: bool,
    /// Nothing can be told now.
    is_quiet: bool,
    /// Where the look at marks goes on, so that every channel gets its turn.
    marks_after: Option<ChannelId>,
    /// How many events waited, and when that was.
    counted: i64,
    counted_at: Option<Instant>,
}

/// What a look at the records says.
enum Standing {
    Ours,
    /// Another control node delivers, at least until then.
    Theirs {
        until_ms: i64,
    },
    /// It is off, or no more.
    Off,
}

/// What follows a look.
enum Next {
    /// Another one, after this time or when something comes.
    Look(Duration),
    /// Nothing waits.
    Nothing,
    /// It is off, or no more.
    End,
}

/// What waits and can be told now.
#[derive(Default)]
struct Due {
    events: Vec<(String, Vec<(Bytes, Waiting)>)>,
    messages: Vec<(ChannelId, millrace_protocol::id::Offset)>,
    /// When something else can be told; Unix time, ms.
    next_ms: Option<i64>,
    /// More waits than was looked at.
    more: bool,
}

impl Runner {
    /// `None`: there is one already.
    pub(super) fn new(hub: &Arc<Hub>, tenant: TenantId, id: Arc<str>) -> Option<Self> {
        let signal = Arc::new(Signal::default());
        {
            let mut awake = hub.awake();
            if awake.running.contains_key(&id) {
                return None;
            }
            awake.running.insert(id.clone(), signal.clone());
        }
        hub.metrics.active.inc();
        Some(Self {
            hub: hub.clone(),
            tenant,
            id,
            signal,
            webhook: None,
            endpoint: None,
            health: Health::default(),
            health_is_new: false,
            fresh_ms: 0,
            lanes: JoinSet::new(),
            busy: HashSet::new(),
            is_over: Arc::default(),
            taken_ms: Arc::default(),
            probes_events: false,
            is_quiet: false,
            marks_after: None,
            counted: 0,
            counted_at: None,
        })
    }

    /// Delivers until nothing waits, the webhook is off, or the node stops.
    pub(super) async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        let mut idle_since = None;
        while !*stopped.borrow() {
            self.signal.has_come.store(false, Ordering::Release);
            let wait = match self.turn().await {
                Ok(Next::Look(wait)) => {
                    idle_since = None;
                    wait
                }
                Ok(Next::Nothing) => {
                    let since = idle_since.get_or_insert_with(Instant::now);
                    match LINGER.checked_sub(since.elapsed()) {
                        Some(left) => left,
                        None => break,
                    }
                }
                Ok(Next::End) => break,
                Err(error) => {
                    tracing::warn!(
                        webhook = &*self.id,
                        error = &error as &dyn std::error::Error,
                        "the store fails deliveries of a webhook"
                    );
                    STORE_PAUSE
                }
            };
            let signal = self.signal.clone();
            tokio::select! {
                _ = stopped.changed() => {}
                () = signal.notify.notified() => {}
                Some(ended) = self.lanes.join_next(), if !self.lanes.is_empty() => self.ended(ended).await,
                () = tokio::time::sleep(wait) => {}
            }
            while let Some(ended) = self.lanes.try_join_next() {
                self.ended(ended).await;
            }
        }
        self.is_over.store(true, Ordering::Release);
        let grace = self.hub.config.stop_grace;
        let drain = async {
            while let Some(ended) = self.lanes.join_next().await {
                self.ended(ended).await;
            }
        };
        if tokio::time::timeout(grace, drain).await.is_err() {
            self.lanes.abort_all();
        }
        self.release().await;
    }

    /// One look: who delivers, what waits, what can be told now.
    async fn turn(&mut self) -> Result<Next, TransactError> {
        let now_ms = now_ms();
        match self.refresh(now_ms).await? {
            Standing::Ours => {}
            Standing::Theirs { until_ms } => {
                self.is_over.store(true, Ordering::Release);
                return Ok(Next::Look(span(until_ms - now_ms).max(Duration::from_millis(10))));
            }
            Standing::Off => return Ok(Next::End),
        }
        self.count(now_ms).await?;
        if self.webhook.as_ref().is_none_or(|webhook| !webhook.is_on()) {
            return Ok(Next::End);
        }
        let renewal = self.lease() / 3;
        let room = if self.health.failures > 0 { 1 } else { self.hub.config.at_once.max(1) };
        let room = room.saturating_sub(self.lanes.len());
        if room == 0 {
            return Ok(Next::Look(renewal));
        }
        if self.health.failures > 0 && now_ms < self.health.retry_at_ms {
            self.is_quiet = self.lanes.is_empty();
            return Ok(Next::Look(renewal.min(span(self.health.retry_at_ms - now_ms))));
        }
        let due = self.due(room, now_ms).await?;
        let started = self.start(due.events, due.messages, room);
        self.probes_events ^= started > 0;
        self.is_quiet = started == 0 && self.lanes.is_empty() && due.next_ms.is_some();
        if started == 0 && self.lanes.is_empty() && due.next_ms.is_none() && !due.more {
            self.health_is_new |= self.health.nothing_waits();
        }
        match due.next_ms {
            // Whoever is told now may free what comes behind it.
            _ if started > 0 || !self.lanes.is_empty() => Ok(Next::Look(renewal)),
            Some(next_ms) => Ok(Next::Look(renewal.min(span(next_ms - now_ms)).max(Duration::from_millis(1)))),
            None if due.more => Ok(Next::Look(Duration::from_millis(1))),
            None => Ok(Next::Nothing),
        }
    }

    /// Reads the settings and the lease, and renews that.
    async fn refresh(&mut self, now_ms: i64) -> Result<Standing, TransactError> {
        let lease_ms = i64::try_from(self.lease().as_millis()).unwrap_or(i64::MAX / 2);
        let mut health = self.health.clone();
        let is_new = self.health_is_new;
        let found: Result<_, TransactError> = transact!(&*self.hub.store, deadline(), |transaction| {
            let Some(webhook) = webhook::get(transaction, self.tenant, &self.id).await?.filter(Webhook::is_on) else {
                return Ok(None);
            };
            let stored = webhook::health(transaction, &self.id).await?;
            let is_ours = stored.owner == self.hub.owner && health.owner == self.hub.owner;
            if !is_ours {
                let is_held = stored.lease_until_ms > now_ms && !stored.owner.is_empty();
                if is_held && stored.owner != self.hub.owner {
                    return Ok(Some((webhook, stored, false)));
                }
                health = stored;
                health.owner.clone_from(&self.hub.owner);
            }
            if !is_ours || is_new || stored_is_old(&health, now_ms, lease_ms) {
                health.lease_until_ms = now_ms + lease_ms;
                webhook::put_health(transaction, &self.id, &health);
            }
            Ok(Some((webhook, health.clone(), true)))
        });
        let Some((webhook, health, is_ours)) = found? else { return Ok(Standing::Off) };
        if !is_ours {
            return Ok(Standing::Theirs { until_ms: health.lease_until_ms });
        }
        self.health = health;
        self.health_is_new = false;
        self.take(webhook);
        Ok(Standing::Ours)
    }

    /// How long it holds what it holds. Whoever only waits renews less often: while an endpoint fails for days, each renewal is a write.
    fn lease(&self) -> Duration {
        self.hub.config.lease * if self.is_quiet { QUIET_LEASES } else { 1 }
    }

    /// Takes the settings; new ones begin afresh.
    fn take(&mut self, webhook: Webhook) {
        if self.webhook.as_deref() == Some(&webhook) && !self.is_over.load(Ordering::Acquire) {
            return;
        }
        // Requests under the old settings end; what they had not told yet is told under the new ones.
        self.is_over.store(true, Ordering::Release);
        self.is_over = Arc::default();
        let is_same_url = self.webhook.as_ref().is_some_and(|before| before.url == webhook.url);
        if !is_same_url || self.endpoint.is_none() {
            let endpoint = Endpoint::new(self.hub.client.clone(), self.tenant, webhook.url.clone());
            self.endpoint = Some(Arc::new(endpoint));
        }
        // What was taken under other settings says nothing of these.
        let taken_ms = self.health.last_success_ms.filter(|taken_ms| *taken_ms >= webhook.updated_ms);
        self.taken_ms = Arc::new(AtomicI64::new(taken_ms.unwrap_or(i64::MIN)));
        if self.health.last_failure_ms.is_some_and(|failure_ms| failure_ms < webhook.updated_ms) {
            self.health.failures = 0;
            self.health.failing_since_ms = None;
            self.health.retry_at_ms = 0;
            self.health_is_new = true;
        }
        self.fresh_ms = self.fresh_ms.max(webhook.updated_ms);
        self.webhook = Some(Arc::new(webhook));
    }

    /// Counts what waits, now and then; more than may turns the webhook off.
    async fn count(&mut self, now_ms: i64) -> Result<(), TransactError> {
        if self.counted_at.is_some_and(|at| at.elapsed() < COUNT_INTERVAL / self.hub.config.hurry.max(1)) {
            return Ok(());
        }
        let max = self.hub.config.waiting_max;
        let mut transaction = self.hub.begin().await?;
        let waiting = webhook_queue::count(&mut *transaction, &self.id, max.saturating_add(1)).await?;
        self.counted_at = Some(Instant::now());
        let counted = i64::try_from(waiting).unwrap_or(i64::MAX);
        self.hub.metrics.waiting.add(counted - self.counted);
        self.counted = counted;
        if waiting > max {
            self.turn_off(OffReason::Backlog, now_ms).await?;
        }
        Ok(())
    }

    /// What can be told now, for so many lanes at most.
    async fn due(&mut self, room: usize, now_ms: i64) -> Result<Due, TransactError> {
        let mut due = Due::default();
        let busy = self.busy.iter().filter(|lane| matches!(lane, Lane::Messages(_))).count();
        let first = match (self.health.failures > 0, self.probes_events) {
            (true, true) => 0,
            (true, false) => room,
            (false, _) => first_of_messages(room, self.hub.config.at_once, busy),
        };
        if first > 0 {
            self.due_messages(first, now_ms, &mut due).await?;
        }
        let left = room - due.messages.len();
        self.due_events(left, now_ms, &mut due).await?;
        if due.events.len() < left && due.messages.len() == first {
            self.due_messages(room - due.events.len(), now_ms, &mut due).await?;
        }
        Ok(due)
    }

    /// Events in order, of lanes that wait for nothing.
    async fn due_events(&self, room: usize, now_ms: i64, due: &mut Due) -> Result<(), TransactError> {
        let mut transaction = self.hub.begin().await?;
        let mut lanes: HashMap<String, Option<usize>> = HashMap::new();
        let mut from = None;
        loop {
            let (rows, rest) = webhook_queue::page(&mut *transaction, &self.id, from, PAGE_ROWS).await?;
            for (row, waiting) in rows {
                match lanes.get(&waiting.lane) {
                    // Behind one that is told now, or behind one that waits.
                    Some(Some(index)) => {
                        let behind = &mut due.events[*index].1;
                        if behind.len() < LANE_EVENTS {
                            behind.push((row, waiting));
                        }
                        continue;
                    }
                    Some(None) => continue,
                    None => {}
                }
                let lane = waiting.lane.clone();
                let is_busy = self.busy.contains(&Lane::Events(lane.clone()));
                let due_ms = self.due_at(waiting.tried_ms, waiting.next_ms);
                if !is_busy && due_ms <= now_ms && due.events.len() < room {
                    lanes.insert(lane.clone(), Some(due.events.len()));
                    due.events.push((lane, vec![(row, waiting)]));
                    continue;
                }
                if !is_busy && due_ms <= now_ms {
                    due.more = true;
                } else if !is_busy {
                    due.next_ms = Some(due.next_ms.map_or(due_ms, |next_ms| next_ms.min(due_ms)));
                }
                lanes.insert(lane, None);
            }
            match rest {
                None => return Ok(()),
                Some(_) if due.events.len() >= room => {
                    due.more = true;
                    return Ok(());
                }
                Some(rest) => from = Some(rest),
            }
        }
    }

    /// Channels with messages, in turn.
    async fn due_messages(&mut self, room: usize, now_ms: i64, due: &mut Due) -> Result<(), TransactError> {
        let mut transaction = self.hub.begin().await?;
        for _ in 0..2 {
            let marks = webhook_queue::marks(&mut *transaction, &self.id, self.marks_after, PAGE_ROWS).await?;
            let is_last = marks.len() < PAGE_ROWS as usize;
            for (channel, from) in marks {
                if due.messages.len() >= room {
                    due.more = true;
                    return Ok(());
                }
                self.marks_after = Some(channel);
                if self.busy.contains(&Lane::Messages(channel))
                    || due.messages.iter().any(|(other, _)| *other == channel)
                {
                    continue;
                }
                let progress = webhook_queue::progress(&mut *transaction, &self.id, channel).await?.unwrap_or_default();
                let due_ms = self.due_at(progress.tried_ms, progress.next_ms);
                if due_ms <= now_ms {
                    due.messages.push((channel, from));
                } else {
                    due.next_ms = Some(due.next_ms.map_or(due_ms, |next_ms| next_ms.min(due_ms)));
                }
            }
            if !is_last {
                due.more = true;
                return Ok(());
            }
            // From the first one again; if that was where it began, all are seen.
            if self.marks_after.take().is_none() {
                break;
            }
        }
        Ok(())
    }

    fn due_at(&self, tried_ms: i64, next_ms: i64) -> i64 {
        if tried_ms < self.fresh_ms { 0 } else { next_ms }
    }

    fn start(
        &mut self,
        events: Vec<(String, Vec<(Bytes, Waiting)>)>,
        messages: Vec<(ChannelId, millrace_protocol::id::Offset)>,
        room: usize,
    ) -> usize {
        let (Some(webhook), Some(endpoint)) = (self.webhook.clone(), self.endpoint.clone()) else { return 0 };
        // One request finds out whether the endpoint is back.
        let most = if self.health.failures > 0 { 1 } else { LANE_EVENTS };
        let job = || Job {
            hub: self.hub.clone(),
            webhook: webhook.clone(),
            endpoint: endpoint.clone(),
            is_over: self.is_over.clone(),
            taken_ms: self.taken_ms.clone(),
            most,
        };
        let mut started = 0;
        for (channel, from) in messages.into_iter().take(room) {
            self.busy.insert(Lane::Messages(channel));
            self.lanes.spawn(job().messages(channel, from));
            started += 1;
        }
        for (lane, mut rows) in events.into_iter().take(room - started) {
            rows.truncate(most);
            self.busy.insert(Lane::Events(lane.clone()));
            self.lanes.spawn(job().events(lane, rows));
            started += 1;
        }
        started
    }

    /// Takes the end of a lane into account.
    async fn ended(&mut self, ended: Result<LaneEnd, tokio::task::JoinError>) {
        let end = match ended {
            Ok(end) => end,
            Err(error) if error.is_cancelled() => return,
            Err(error) => {
                // Which one is not known: none is busy any more once all have ended.
                tracing::error!(webhook = &*self.id, %error, "a lane of a webhook ended badly");
                if self.lanes.is_empty() {
                    self.busy.clear();
                }
                return;
            }
        };
        self.busy.remove(&end.lane);
        if let Some(success_ms) = end.success_ms {
            if self.health.failures >= DOWN_FAILURES {
                self.fresh_ms = self.fresh_ms.max(success_ms);
                tracing::info!(webhook = &*self.id, failures = self.health.failures, "endpoint of a webhook is back");
            }
            self.health_is_new |= self.health.failures > 0 || self.health.last_success_ms.is_none();
            self.health.failures = 0;
            self.health.failing_since_ms = None;
            self.health.retry_at_ms = 0;
            self.health.last_success_ms = Some(success_ms);
        }
        match end.failing {
            None => {}
            Some(Failing::Store) => tokio::time::sleep(STORE_PAUSE / self.hub.config.hurry.max(1)).await,
            Some(Failing::Request { outcome, began_ms, retry_after, error }) => {
                self.failed(outcome, began_ms, retry_after, error).await;
            }
        }
    }

    async fn failed(&mut self, outcome: Outcome, began_ms: i64, retry_after: Option<Duration>, error: String) {
        let now_ms = now_ms();
        // What was under way together failed together, once.
        let is_another =
            self.health.last_failure_ms.is_none_or(|last_ms| began_ms >= last_ms) || self.health.failures == 0;
        self.health.last_failure_ms = Some(now_ms);
        self.health.last_error = Some(error);
        self.health_is_new = true;
        // Also if it is said to be the event's fault: something has to be taken for the endpoint to be well.
        let since_ms = *self.health.failing_since_ms.get_or_insert(began_ms);
        if outcome == Outcome::Failed && is_another {
            self.health.failures = self.health.failures.saturating_add(1);
            let pause = endpoint_pause(self.health.failures, random()) / self.hub.config.hurry.max(1);
            self.health.retry_at_ms =
                now_ms + i64::try_from(pause.max(retry_after.unwrap_or_default()).as_millis()).unwrap_or(0);
            if span(now_ms - since_ms) >= FAILING_MAX / self.hub.config.hurry.max(1) {
                self.turn_off_or_log(OffReason::Failing, now_ms).await;
            }
        }
        if outcome == Outcome::Gone {
            self.turn_off_or_log(OffReason::Gone, now_ms).await;
        }
    }

    async fn turn_off_or_log(&mut self, reason: OffReason, now_ms: i64) {
        if let Err(error) = self.turn_off(reason, now_ms).await {
            tracing::warn!(
                webhook = &*self.id,
                error = &error as &dyn std::error::Error,
                "a webhook cannot be turned off"
            );
        }
    }

    async fn turn_off(&mut self, reason: OffReason, now_ms: i64) -> Result<(), TransactError> {
        let off: Result<Option<Webhook>, TransactError> = transact!(&*self.hub.store, deadline(), |transaction| {
            let Some(mut webhook) = webhook::get(transaction, self.tenant, &self.id).await?.filter(Webhook::is_on)
            else {
                return Ok(None);
            };
            webhook.off = Some(Off { reason, since_ms: now_ms });
            webhook::put(transaction, &webhook);
            Ok(Some(webhook))
        });
        if let Some(webhook) = off? {
            tracing::warn!(webhook = &*self.id, reason = reason.word(), "webhook turned off");
            self.hub.metrics.disabled(reason.word());
            self.webhook = Some(Arc::new(webhook));
            self.hub.changed(self.tenant).await;
        }
        Ok(())
    }

    /// Gives the lease up, with the newest of how the webhook is doing.
    async fn release(&mut self) {
        let health = Health { owner: String::new(), lease_until_ms: 0, ..self.health.clone() };
        let released: Result<(), TransactError> = transact!(&*self.hub.store, deadline(), |transaction| {
            let is_there = webhook::get(transaction, self.tenant, &self.id).await?.is_some();
            if is_there && webhook::health(transaction, &self.id).await?.owner == self.hub.owner {
                webhook::put_health(transaction, &self.id, &health);
            }
            Ok(())
        });
        if let Err(error) = released {
            // It runs out.
            tracing::debug!(
                webhook = &*self.id,
                error = &error as &dyn std::error::Error,
                "a lease cannot be given up"
            );
        }
    }
}

/// Whether a lease is to be renewed.
fn stored_is_old(health: &Health, now_ms: i64, lease_ms: i64) -> bool {
    health.lease_until_ms - now_ms < lease_ms * 2 / 3
}

/// A time that has passed is none.
fn span(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or_default())
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.hub.metrics.active.dec();
        self.hub.metrics.waiting.sub(self.counted);
        self.hub.forget_number(&self.id);
        let mut awake = self.hub.awake();
        awake.running.remove(&self.id);
        // What came since the last look has a runner of its own.
        if self.signal.has_come.load(Ordering::Acquire) && !*self.hub.stop.borrow() {
            awake.waiting.insert((self.tenant, self.id.clone()));
            drop(awake);
            self.hub.called.notify_one();
        }
    }
}

//! Delivers for one webhook, under a lease, until nothing waits: few requests at a time, one lane never twice, and one request at a time to an
//! endpoint that takes none.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use millrace_domain::word::Word;
use millrace_domain::{
    FAILING_MAX, Off, OffReason, Outcome, Webhook, endpoint_pause, first_of_messages, has_failed_for_good, is_ahead,
};
use millrace_protocol::id::{ChannelId, Offset, TenantId};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::agenda::{Agenda, Due, LANE_EVENTS, Looking};
use super::endpoint::Endpoint;
use super::lane::{Failing, Job, Lane, LaneEnd};
use super::{Hub, Signal, deadline, random};
use crate::record::webhook::{self, Health};
use crate::record::webhook_queue::{self, Waiting};
use crate::rest::now_ms;
use crate::transact::{TransactError, transact};

/// How soon it is looked again if there is more than one look may read.
const PACE: Duration = Duration::from_millis(10);
/// Failures in a row after which an endpoint was down: what waited because of it is told at once when it is back.
const DOWN_FAILURES: u32 = 3;
/// How often it is counted what waits, and how many events that were counted make it once less often: counting reads them.
const COUNT_INTERVAL: Duration = Duration::from_secs(5);
const COUNT_EVENTS: u64 = 1_000;
/// How long a runner with nothing to tell holds its lease and connections: the next event often follows soon.
const LINGER: Duration = Duration::from_secs(3);
/// How soon it is seen what another control node keeps for a webhook that this one delivers for.
const ELSEWHERE: Duration = Duration::from_secs(1);
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
    agenda: Agenda,
    /// How many events waited.
    counted: i64,
    /// When they are counted again; `None`: now.
    count_at: Option<Instant>,
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
            agenda: Agenda::default(),
            counted: 0,
            count_at: None,
        })
    }

    /// Delivers until nothing waits, the webhook is off, or the node stops.
    pub(super) async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        let mut idle_since = None;
        while !*stopped.borrow() {
            if self.signal.has_come.swap(false, Ordering::AcqRel) {
                self.agenda.stir();
            }
            let wait = match self.turn().await {
                Ok(Next::Look(wait)) => {
                    idle_since = None;
                    wait
                }
                Ok(Next::Nothing) => {
                    let since = idle_since.get_or_insert_with(Instant::now);
                    match LINGER.checked_sub(since.elapsed()) {
                        Some(left) => left.min(ELSEWHERE),
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
        self.notice_clock(now_ms);
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
        let was_set_back = self.health.last_failure_ms.is_some_and(|failure_ms| is_ahead(failure_ms, now_ms));
        if self.health.failures > 0 && now_ms < self.health.retry_at_ms && !was_set_back {
            self.is_quiet = self.lanes.is_empty();
            return Ok(Next::Look(renewal.min(span(self.health.retry_at_ms - now_ms))));
        }
        let due = self.due(room, now_ms).await?;
        let (next_ms, more) = (due.next_ms, due.more());
        let started = self.start(due.events, due.messages, room);
        self.probes_events ^= started > 0;
        let is_idle = started == 0 && self.lanes.is_empty();
        self.is_quiet = is_idle && next_ms.is_some() && !more;
        if more && started < room {
            return Ok(Next::Look(PACE));
        }
        let wait = renewal.min(ELSEWHERE);
        match next_ms {
            Some(next_ms) => Ok(Next::Look(wait.min(span(next_ms - now_ms)).max(PACE))),
            // Whoever is told now may free what comes behind it.
            None if !is_idle => Ok(Next::Look(wait)),
            None => {
                self.health_is_new |= self.health.nothing_waits();
                Ok(Next::Nothing)
            }
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
                let is_held = stored.lease_until_ms > now_ms && !self.is_too_long(stored.lease_until_ms, now_ms);
                let is_held = is_held && !stored.owner.is_empty();
                if is_held && stored.owner != self.hub.owner {
                    return Ok(Some((webhook, stored, false)));
                }
                health = stored;
                health.owner.clone_from(&self.hub.owner);
            }
            let is_old = health.lease_until_ms - now_ms < lease_ms * 2 / 3;
            if !is_ours || is_new || is_old || self.is_too_long(health.lease_until_ms, now_ms) {
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

    /// Whether nobody takes a lease for so long: a clock was set back since, and who died would hold on to it until then.
    fn is_too_long(&self, until_ms: i64, now_ms: i64) -> bool {
        let longest = self.hub.config.lease * QUIET_LEASES;
        is_ahead(until_ms.saturating_sub(i64::try_from(longest.as_millis()).unwrap_or(i64::MAX)), now_ms)
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
        if self.count_at.is_some_and(|at| Instant::now() < at) {
            return Ok(());
        }
        let before = self.webhook.as_ref().map_or(0, |webhook| webhook.waiting_when_on);
        let max = self.hub.config.waiting_max.saturating_add(before);
        let mut transaction = self.hub.begin().await?;
        let waiting = webhook_queue::count(&mut *transaction, &self.id, max.saturating_add(1)).await?;
        let times = u32::try_from(1 + waiting / COUNT_EVENTS).unwrap_or(u32::MAX);
        self.count_at = Some(Instant::now() + COUNT_INTERVAL.saturating_mul(times) / self.hub.config.hurry.max(1));
        let counted = i64::try_from(waiting).unwrap_or(i64::MAX);
        self.hub.metrics.waiting.add(counted - self.counted);
        self.counted = counted;
        if waiting > max {
            self.turn_off(OffReason::Backlog, now_ms).await?;
        }
        Ok(())
    }

    /// What is noted of a moment that is still to come, by another node's clock or before this one was set back, is of now: else all that fails
    /// would be tried again at once until that moment.
    fn notice_clock(&mut self, now_ms: i64) {
        self.fresh_ms = self.fresh_ms.min(now_ms);
        self.taken_ms.fetch_min(now_ms, Ordering::AcqRel);
    }

    /// What can be told now, for so many lanes at most.
    async fn due(&mut self, room: usize, now_ms: i64) -> Result<Due, TransactError> {
        let busy = self.busy.iter().filter(|lane| matches!(lane, Lane::Messages(_))).count();
        let first = match (self.health.failures > 0, self.probes_events) {
            (true, true) => 0,
            (true, false) => room,
            (false, _) => first_of_messages(room, self.hub.config.at_once, busy),
        };
        let mut transaction = self.hub.begin().await?;
        let at = Looking { webhook: &self.id, busy: &self.busy, fresh_ms: self.fresh_ms, now_ms };
        let due = self.agenda.look(&mut *transaction, &at, first, room).await?;
        self.hub.metrics.looked_rows.inc_by(u64::try_from(due.rows).unwrap_or(u64::MAX));
        Ok(due)
    }

    fn start(
        &mut self,
        events: Vec<(String, Vec<(Bytes, Waiting)>)>,
        messages: Vec<(ChannelId, Offset)>,
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
        self.agenda.stir();
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
            let max = FAILING_MAX / self.hub.config.hurry.max(1);
            if has_failed_for_good(span(now_ms - since_ms), self.health.failures, max) {
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

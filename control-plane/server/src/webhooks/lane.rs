//! A lane: the events of one channel or user, or the messages of one channel, told one after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use millrace_domain::word::Word;
use millrace_domain::{Channel, EventKind, Outcome, Webhook, retry_delay};
use millrace_protocol::id::{ChannelId, Offset};
use millrace_protocol::node::{HistoryRange, ReadHistory, StoredMessage};
use millrace_store::StoreError;
use serde::Serialize;

use super::endpoint::{Endpoint, Parcel, Place, Tried};
use super::{ChannelRef, Hub, deadline, event, random, signature};
use crate::record::webhook_log::{self, Attempt, AttemptResult, Failure};
use crate::record::webhook_queue::{self, Content, Progress, Waiting};
use crate::record::{channel, head, message, webhook};
use crate::rest::messages::MessageView;
use crate::rest::now_ms;
use crate::transact::{TransactError, transact};

/// Messages of a page.
const PAGE_MESSAGES: u32 = 32;
/// Bytes of payload of a page, its first message aside.
const PAGE_BYTES: u32 = 256 << 10;

/// Names a lane.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Lane {
    /// Of changes.
    Events(String),
    /// Of messages.
    Messages(ChannelId),
}

/// What tells the events of a lane.
pub(super) struct Job {
    pub(super) hub: Arc<Hub>,
    pub(super) webhook: Arc<Webhook>,
    pub(super) endpoint: Arc<Endpoint>,
    /// Its settings have changed, or the node stops.
    pub(super) is_over: Arc<AtomicBool>,
    /// When the endpoint took something last; Unix time, ms.
    pub(super) taken_ms: Arc<AtomicI64>,
    /// Most events to be told.
    pub(super) most: usize,
}

/// How it ended.
pub(super) struct LaneEnd {
    pub(super) lane: Lane,
    /// Events that were given away here, delivered or given up.
    pub(super) done: u32,
    /// When something was taken last; Unix time, ms.
    pub(super) success_ms: Option<i64>,
    pub(super) failing: Option<Failing>,
}

/// Why it ended before its end.
pub(super) enum Failing {
    /// A request was not taken.
    Request { outcome: Outcome, began_ms: i64, retry_after: Option<Duration>, error: String },
    /// The store failed, or the webhook is no more.
    Store,
}

/// An event as it is told.
struct Told<'a> {
    id: &'a str,
    kind: &'a str,
    time_ms: i64,
    /// Attempts before this one.
    attempts: u32,
    /// When the last of them began; Unix time, ms.
    tried_ms: i64,
}

/// What an attempt came to.
struct Verdict {
    /// A request was made: there was something to tell.
    is_request: bool,
    outcome: Outcome,
    began_ms: i64,
    retry_after: Option<Duration>,
    error: String,
    attempt: Attempt,
}

/// What is told of a message.
#[derive(Serialize)]
struct MessageData {
    channel: ChannelRef,
    message: MessageView,
}

impl LaneEnd {
    fn new(lane: Lane) -> Self {
        Self { lane, done: 0, success_ms: None, failing: None }
    }

    /// Takes an attempt into account; tells whether the lane goes on.
    fn take(&mut self, verdict: Verdict, settled: Result<bool, TransactError>) -> bool {
        match settled {
            Ok(true) => {}
            Ok(false) => {
                self.failing = Some(Failing::Store);
                return false;
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "what became of a webhook's event cannot be stored"
                );
                self.failing = Some(Failing::Store);
                return false;
            }
        }
        let Verdict { is_request, outcome, began_ms, retry_after, error, attempt } = verdict;
        if attempt.result != AttemptResult::Retrying {
            self.done += 1;
        }
        if outcome == Outcome::Delivered {
            // What was not to be told any more says nothing of the endpoint.
            if is_request {
                self.success_ms = Some(now_ms());
            }
            return true;
        }
        self.failing = Some(Failing::Request { outcome, began_ms, retry_after, error });
        false
    }
}

impl Job {
    /// Tells events that wait, in their order.
    pub(super) async fn events(self, lane: String, rows: Vec<(Bytes, Waiting)>) -> LaneEnd {
        let mut end = LaneEnd::new(Lane::Events(lane));
        for (row, waiting) in rows {
            if self.is_over.load(Ordering::Acquire) {
                break;
            }
            let told = Told {
                id: &waiting.id,
                kind: waiting.kind.word(),
                time_ms: waiting.time_ms,
                attempts: waiting.attempts,
                tried_ms: waiting.tried_ms,
            };
            let body = match &waiting.content {
                Content::Body(body) => Ok(Some(body.clone())),
                Content::Shared => self.shared(&row).await,
                Content::Message { channel, offset } => self.again(*channel, *offset).await,
            };
            let verdict = match body {
                Ok(body) => self.tell(&told, body).await,
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "an event of a webhook cannot be read");
                    end.failing = Some(Failing::Store);
                    break;
                }
            };
            let settled = match verdict {
                Ok(Some(verdict)) => {
                    let settled = self.settle_event(&row, &waiting, &verdict).await;
                    end.take(verdict, settled)
                }
                Ok(None) => false,
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "attempts of a webhook cannot be read");
                    end.failing = Some(Failing::Store);
                    false
                }
            };
            if !settled {
                break;
            }
        }
        end
    }

    /// Tells messages of a channel from `from` on, or from where it was left.
    pub(super) async fn messages(self, at: ChannelId, from: Offset) -> LaneEnd {
        let mut end = LaneEnd::new(Lane::Messages(at));
        if let Err(error) = self.tell_messages(at, from, &mut end).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "messages of a webhook cannot be told");
            end.failing = Some(Failing::Store);
        }
        end
    }

    async fn tell_messages(&self, at: ChannelId, from: Offset, end: &mut LaneEnd) -> Result<(), TransactError> {
        let mut left = self.most;
        while left > 0 && !self.is_over.load(Ordering::Acquire) {
            let mut transaction = self.hub.begin().await?;
            let record = channel::peek(&mut *transaction, at).await?;
            let head = head::peek(&mut *transaction, at).await?;
            let progress = webhook_queue::progress(&mut *transaction, &self.webhook.id, at).await?.unwrap_or_default();
            let first = head.as_ref().map_or(1, |head| head.first_offset.get());
            let next = from.get().max(progress.next).max(first);
            let behind = head.as_ref().is_some_and(|head| next < head.next_offset.get());
            // Its settings may have changed since the mark was made.
            let wants = |record: &Channel| self.webhook.wants(EventKind::MessageSent, Some(record.name.as_str()));
            let Some(record) = record.filter(|record| behind && wants(record)) else {
                if self.clear(at, next).await? {
                    return Ok(());
                }
                continue;
            };
            let read = ReadHistory {
                channel: at,
                range: HistoryRange::After(next - 1),
                messages_max: PAGE_MESSAGES.min(u32::try_from(left).unwrap_or(PAGE_MESSAGES)),
                bytes_max: PAGE_BYTES,
            };
            let page = message::page(&mut *transaction, &read).await?;
            drop(transaction);
            for stored in page.messages {
                left = left.saturating_sub(1);
                if self.is_over.load(Ordering::Acquire) {
                    return Ok(());
                }
                let (attempts, tried_ms) =
                    if stored.offset.get() == progress.next { (progress.attempts, progress.tried_ms) } else { (0, 0) };
                let id = format!("msg_{at}_{}_{}", stored.epoch.get(), stored.offset.get());
                let time_ms = stored.message.time_ms;
                let told = Told { id: &id, kind: EventKind::MessageSent.word(), time_ms, attempts, tried_ms };
                let channel = ChannelRef::new(at, &record.name);
                let Some(verdict) = self.tell(&told, Some(body(channel, &stored))).await? else { return Ok(()) };
                let settled = self.settle_message(at, &told, stored.offset, &verdict).await;
                if !end.take(verdict, settled) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// A body that other webhooks tell, too; `None` if another control node has told it.
    async fn shared(&self, row: &Bytes) -> Result<Option<String>, StoreError> {
        let mut transaction = self.hub.begin().await?;
        webhook_queue::shared(&mut *transaction, row).await
    }

    /// The body of a message that was given up once and is tried again; `None` if it is no more.
    async fn again(&self, at: u64, offset: u64) -> Result<Option<String>, StoreError> {
        let (Some(at), Some(offset)) = (ChannelId::new(at), Offset::new(offset)) else { return Ok(None) };
        let mut transaction = self.hub.begin().await?;
        let record = channel::peek(&mut *transaction, at).await?;
        let stored = message::get(&mut *transaction, at, offset).await?;
        Ok(record.zip(stored).map(|(record, stored)| body(ChannelRef::new(at, &record.name), &stored)))
    }

    /// One request. Nothing to tell any more counts as told. `None`: the settings have changed before there was a place for it.
    async fn tell(&self, told: &Told<'_>, body: Option<String>) -> Result<Option<Verdict>, StoreError> {
        let is_request = body.is_some();
        let mut number = 0;
        let (began_ms, tried) = match body {
            Some(body) => {
                let place = self.endpoint.place().await;
                // It may have waited for long: what was replaced meanwhile, a URL or a secret, is not used any more.
                if self.is_over.load(Ordering::Acquire) {
                    return Ok(None);
                }
                number = self.hub.attempt_number(&self.webhook.id).await?;
                post(&self.hub, &self.endpoint, place, &self.webhook, told.id, body).await
            }
            None => (now_ms(), Tried { status: None, fault: None, retry_after: None, elapsed: Duration::ZERO }),
        };
        let attempts = told.attempts.saturating_add(1);
        let ended_ms = now_ms();
        let outcome = if tried.fault.is_none() {
            if is_request {
                self.taken_ms.fetch_max(ended_ms, Ordering::AcqRel);
            }
            Outcome::Delivered
        } else {
            let since_ms = if told.attempts > 0 { told.tried_ms } else { told.time_ms };
            Outcome::of(tried.status, self.taken_ms.load(Ordering::Acquire) >= since_ms)
        };
        let delay = match outcome {
            Outcome::Gone => None,
            outcome => retry_delay(outcome, attempts, random())
                .map(|delay| (delay / self.hub.config.hurry.max(1)).max(tried.retry_after.unwrap_or_default())),
        };
        let next_ms = delay.map(|delay| ended_ms + i64::try_from(delay.as_millis()).unwrap_or(i64::MAX / 2));
        let result = match (outcome, next_ms) {
            (Outcome::Delivered, _) => AttemptResult::Delivered,
            // The webhook goes off, and the event waits until it is on again.
            (Outcome::Gone, _) | (_, Some(_)) => AttemptResult::Retrying,
            (_, None) => AttemptResult::Failed,
        };
        match result {
            AttemptResult::Delivered if is_request => self.hub.metrics.delivered(told.time_ms, ended_ms),
            AttemptResult::Delivered => {}
            AttemptResult::Failed => self.hub.metrics.failed.inc(),
            AttemptResult::Retrying => {}
        }
        let error = tried.fault.map(|(_, text)| text);
        let attempt = Attempt {
            number,
            event: told.id.to_owned(),
            kind: told.kind.to_owned(),
            time_ms: began_ms,
            attempt: attempts,
            result,
            status: tried.status,
            latency_ms: u64::try_from(tried.elapsed.as_millis()).unwrap_or(u64::MAX),
            error: error.clone(),
            next_ms,
        };
        let retry_after = tried.retry_after;
        Ok(Some(Verdict { is_request, outcome, began_ms, retry_after, error: error.unwrap_or_default(), attempt }))
    }

    /// Stores what became of an event. `false`: the webhook is no more.
    async fn settle_event(&self, row: &Bytes, waiting: &Waiting, verdict: &Verdict) -> Result<bool, TransactError> {
        let (tenant, id) = (self.webhook.tenant, &self.webhook.id);
        let is_shared = waiting.content == Content::Shared;
        // All who share a body count themselves out in one row: one after the other, so that they do not run again because of each other.
        let _turn = if is_shared { Some(self.hub.turn(row).lock().await) } else { None };
        transact!(&*self.hub.store, deadline(), |transaction| {
            if webhook::get(transaction, tenant, id).await?.is_none() {
                return Ok(false);
            }
            if verdict.is_request {
                webhook_log::put_attempt(transaction, id, &verdict.attempt);
            }
            // By an earlier run of this, or by another control node: what was settled stays so.
            if transaction.get(row).await?.is_none() {
                return Ok(true);
            }
            let mut tried = verdict.tried(waiting);
            if verdict.attempt.result == AttemptResult::Retrying {
                webhook_queue::put(transaction, row.clone(), &tried);
                return Ok(true);
            }
            transaction.delete(row.clone());
            if verdict.attempt.result == AttemptResult::Failed {
                // It is kept for itself from here on.
                if is_shared && let Some(body) = webhook_queue::shared(transaction, row).await? {
                    tried.content = Content::Body(body);
                }
                webhook_log::put_failure(transaction, id, &verdict.failure(tried)).await?;
            }
            if is_shared {
                webhook_queue::release(transaction, row).await?;
            }
            Ok(true)
        })
    }

    /// Stores what became of a message. `false`: the webhook is no more.
    async fn settle_message(
        &self,
        at: ChannelId,
        told: &Told<'_>,
        offset: Offset,
        verdict: &Verdict,
    ) -> Result<bool, TransactError> {
        let (tenant, id) = (self.webhook.tenant, &self.webhook.id);
        transact!(&*self.hub.store, deadline(), |transaction| {
            if webhook::get(transaction, tenant, id).await?.is_none() {
                return Ok(false);
            }
            webhook_log::put_attempt(transaction, id, &verdict.attempt);
            let progress = match verdict.attempt.result {
                AttemptResult::Retrying => Progress {
                    next: offset.get(),
                    attempts: verdict.attempt.attempt,
                    tried_ms: verdict.began_ms,
                    next_ms: verdict.attempt.next_ms.unwrap_or(0),
                },
                _ => Progress { next: offset.get().saturating_add(1), ..Progress::default() },
            };
            if verdict.attempt.result == AttemptResult::Failed {
                let waiting = Waiting {
                    id: told.id.to_owned(),
                    kind: EventKind::MessageSent,
                    lane: at.to_string(),
                    content: Content::Message { channel: at.get(), offset: offset.get() },
                    time_ms: told.time_ms,
                    attempts: told.attempts,
                    tried_ms: 0,
                    next_ms: 0,
                };
                let failure = verdict.failure(verdict.tried(&waiting));
                webhook_log::put_failure(transaction, id, &failure).await?;
            }
            webhook_queue::put_progress(transaction, id, at, &progress);
            Ok(true)
        })
    }

    /// Takes the mark of a channel away whose messages are told up to `next`, or are not wanted any more; `false` if more have come.
    async fn clear(&self, at: ChannelId, next: u64) -> Result<bool, TransactError> {
        let (tenant, id) = (self.webhook.tenant, &self.webhook.id);
        transact!(&*self.hub.store, deadline(), |transaction| {
            // Both by key, so that an append and a change of settings which come meanwhile are seen.
            let head = head::get(transaction, at).await?;
            let webhook = webhook::get(transaction, tenant, id).await?;
            if self.is_over.load(Ordering::Acquire) || webhook.as_ref() != Some(&*self.webhook) {
                // Whoever tells under the new settings finds out.
                return Ok(true);
            }
            let record = channel::peek(transaction, at).await?;
            let wants = |record: &Channel| self.webhook.wants(EventKind::MessageSent, Some(record.name.as_str()));
            if head.is_some_and(|head| head.next_offset.get() > next) && record.as_ref().is_some_and(wants) {
                return Ok(false);
            }
            webhook_queue::clear(transaction, &self.webhook.id, at).await?;
            Ok(true)
        })
    }
}

impl Verdict {
    fn tried(&self, waiting: &Waiting) -> Waiting {
        Waiting {
            attempts: self.attempt.attempt,
            tried_ms: self.began_ms,
            next_ms: self.attempt.next_ms.unwrap_or(0),
            ..waiting.clone()
        }
    }

    fn failure(&self, event: Waiting) -> Failure {
        Failure { event, failed_ms: now_ms(), error: self.error.clone() }
    }
}

fn body(channel: ChannelRef, stored: &StoredMessage) -> String {
    let data = MessageData { channel, message: MessageView::new(stored) };
    event::body(EventKind::MessageSent.word(), stored.message.time_ms, &data)
}

/// Signs and sends a request, counted. Gives when it began, too; Unix time, ms.
pub(super) async fn post(
    hub: &Hub,
    endpoint: &Endpoint,
    place: Place,
    webhook: &Webhook,
    id: &str,
    body: String,
) -> (i64, Tried) {
    /// Counts down however the request ends.
    struct UnderWay<'a>(&'a Hub);

    impl Drop for UnderWay<'_> {
        fn drop(&mut self) {
            self.0.metrics.under_way.dec();
        }
    }

    // Only with its place: receivers refuse what was signed long ago.
    let now_ms = now_ms();
    let timestamp_s = now_ms / 1000;
    let signature = signature::sign(webhook.keys_at(now_ms), id, timestamp_s, body.as_bytes());
    hub.metrics.under_way.inc();
    let _under_way = UnderWay(hub);
    let parcel = Parcel { id: id.to_owned(), timestamp_s, signature, body: body.into() };
    let tried = endpoint.post(place, &parcel).await;
    hub.metrics.attempt(tried.fault.as_ref().map(|(fault, _)| *fault), tried.elapsed);
    (now_ms, tried)
}

#[cfg(test)]
mod tests;

//! Events: what is told of a change, and keeping it for the webhooks that want it, in the transaction of the change.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use millrace_domain::word::Word;
use millrace_domain::{EventKind, Webhook};
use millrace_protocol::id::{ChannelId, ChannelName, TenantId, UserId};
use millrace_store::{StoreError, Transaction};
use serde::Serialize;

use super::Hub;
use crate::record::key::of_webhook;
use crate::record::webhook;
use crate::record::webhook_queue::{self, Content, Waiting};
use crate::rest::now_ms;
use crate::secret;

/// Something that happened.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    /// The same in every run of a transaction: of two that are told, a receiver drops one.
    id: String,
    tenant: TenantId,
    kind: EventKind,
    channel: Option<ChannelName>,
    lane: String,
    data: serde_json::Value,
}

/// The channel that an event is of, as it is named in all of them.
#[derive(Debug, Serialize)]
pub(crate) struct ChannelRef {
    id: String,
    name: String,
}

impl ChannelRef {
    pub(crate) fn new(id: ChannelId, name: &ChannelName) -> Self {
        Self { id: id.to_string(), name: name.to_string() }
    }
}

/// The body of a request.
#[derive(Serialize)]
struct Body<'a, T> {
    #[serde(rename = "type")]
    kind: &'a str,
    timestamp: String,
    data: &'a T,
}

impl Event {
    /// Of a channel, or of its members.
    pub(crate) fn in_channel(
        kind: EventKind,
        tenant: TenantId,
        channel: ChannelId,
        name: &ChannelName,
        data: &impl Serialize,
    ) -> Self {
        Self::new(kind, tenant, Some(name.clone()), channel.to_string(), data)
    }

    /// Of a user.
    pub(crate) fn of_user(kind: EventKind, tenant: TenantId, user: &UserId, data: &impl Serialize) -> Self {
        Self::new(kind, tenant, None, format!("user:{user}"), data)
    }

    fn new(
        kind: EventKind,
        tenant: TenantId,
        channel: Option<ChannelName>,
        lane: String,
        data: &impl Serialize,
    ) -> Self {
        let data = serde_json::to_value(data).expect("answers have string keys");
        Self { id: new_id(), tenant, kind, channel, lane, data }
    }

    /// Takes the name that it had in an earlier run of its transaction, or else leaves its own for later ones.
    pub(crate) fn named(&mut self, names: &mut Vec<String>, index: usize) {
        match names.get(index) {
            Some(name) => self.id.clone_from(name),
            None => names.push(self.id.clone()),
        }
    }
}

/// A new id of an event.
pub(crate) fn new_id() -> String {
    format!("evt_{}", secret::random_id())
}

/// The body of a request that tells `data`.
pub(crate) fn body(kind: &str, time_ms: i64, data: &impl Serialize) -> String {
    let time = UNIX_EPOCH + Duration::from_millis(u64::try_from(time_ms).unwrap_or_default());
    let timestamp = humantime::format_rfc3339_millis(time).to_string();
    serde_json::to_string(&Body { kind, timestamp, data }).expect("answers have string keys")
}

impl Hub {
    /// Keeps events of one tenant for all its webhooks that want them. Gives the ids of these, to be woken after the commit.
    pub(super) async fn keep(
        &self,
        transaction: &mut dyn Transaction,
        events: &[Event],
    ) -> Result<Vec<(TenantId, Arc<str>)>, StoreError> {
        let Some(tenant) = events.first().map(|event| event.tenant) else { return Ok(Vec::new()) };
        let all = webhook::all_of(transaction, tenant).await?;
        let wants = |webhook: &Webhook, event: &Event| {
            webhook.wants(event.kind, event.channel.as_ref().map(ChannelName::as_str))
        };
        let mut wanting = Vec::new();
        for candidate in all {
            // By key, so that the commit makes sure that it is still on: the list is not validated.
            if events.iter().any(|event| wants(&candidate, event))
                && webhook::get(transaction, tenant, &candidate.id).await?.is_some_and(|webhook| webhook.is_on())
            {
                wanting.push(candidate);
            }
        }
        for event in events {
            let holders: Vec<&Webhook> = wanting.iter().filter(|webhook| wants(webhook, event)).collect();
            let Some(first) = holders.first() else { continue };
            let time_ms = now_ms();
            let newest = webhook_queue::newest(transaction, tenant, &event.lane).await?;
            // Another control node's clock may be ahead, or this one's was set back: what comes later comes behind it all the same.
            self.clock_us.fetch_max(newest.unwrap_or(0), Ordering::Relaxed);
            let time_us = self.next_us();
            webhook_queue::put_newest(transaction, tenant, &event.lane, time_us, time_ms, newest.is_none());
            let body = body(event.kind.word(), time_ms, &event.data);
            let row = |webhook: &Webhook| of_webhook::event(&webhook.id, time_us, self.number);
            // What one change may write has a bound: its bodies are written once, however many webhooks there are.
            let content = if holders.len() == 1 {
                Content::Body(body)
            } else {
                webhook_queue::share(transaction, &row(first), &body, holders.len());
                Content::Shared
            };
            let waiting = Waiting {
                id: event.id.clone(),
                kind: event.kind,
                lane: event.lane.clone(),
                content,
                time_ms,
                attempts: 0,
                tried_ms: 0,
                next_ms: 0,
            };
            for holder in holders {
                webhook_queue::put(transaction, row(holder), &waiting);
            }
        }
        Ok(wanting.iter().map(|webhook| (tenant, Arc::from(webhook.id.as_str()))).collect())
    }

    /// A time that no other event of this process has, later than all before.
    pub(super) fn next_us(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_us = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
        let after = |last: u64| now_us.max(last.saturating_add(1));
        after(self.clock_us.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(after(last))).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What happens later is told later, also where the clock of whoever keeps it is behind.
    #[tokio::test]
    async fn the_order_is_that_of_commits_and_not_of_clocks() {
        use millrace_store::CommitOutcome;
        use prometheus::Registry;

        use crate::webhooks::{WebhookConfig, Webhooks, deadline};

        let store = millrace_store::open_memory();
        let config = WebhookConfig::default();
        let ahead = Webhooks::start(store.clone(), config.clone(), &Registry::new()).await.unwrap();
        let behind = Webhooks::start(store.clone(), config, &Registry::new()).await.unwrap();
        ahead.0.clock_us.fetch_add(u64::try_from(now_ms()).unwrap() * 1_000 + 3_600_000_000, Ordering::Relaxed);
        let tenant = TenantId::new(1).unwrap();
        let webhook = webhook::tests::example(tenant, "w");
        let user = UserId::new("ann").unwrap();
        let kinds = [EventKind::UserCreated, EventKind::UserUpdated, EventKind::UserDeleted, EventKind::UserCreated];
        for (index, kind) in kinds.into_iter().enumerate() {
            let mut transaction = store.begin(deadline()).await.unwrap();
            if index == 0 {
                webhook::put(&mut *transaction, &webhook);
            }
            let node = if index % 2 == 0 { &ahead } else { &behind };
            let kept = node.keep(&mut *transaction, &[Event::of_user(kind, tenant, &user, &index)]).await.unwrap();
            assert_eq!(kept.len(), 1);
            assert!(matches!(transaction.commit().await, CommitOutcome::Committed));
        }
        let mut transaction = store.begin(deadline()).await.unwrap();
        let (rows, _) = webhook_queue::page(&mut *transaction, "w", None, 10).await.unwrap();
        assert_eq!(rows.iter().map(|(_, waiting)| waiting.kind).collect::<Vec<_>>(), kinds);
        let soon = now_ms() + 60_000;
        assert!(
            rows.iter().all(|(_, waiting)| waiting.time_ms < soon),
            "what is told is the time at which it happened"
        );
    }

    #[test]
    fn a_body_has_type_time_and_data() {
        let text = body("member.added", 1_795_392_000_123, &serde_json::json!({"user": "ann"}));
        assert_eq!(text, r#"{"type":"member.added","timestamp":"2026-11-23T00:00:00.123Z","data":{"user":"ann"}}"#);
        assert!(body("x", -1, &()).contains("1970-01-01T00:00:00.000Z"));
    }
}

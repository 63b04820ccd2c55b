//! Webhooks, and how each is doing.

use bytes::Bytes;
use millrace_domain::{WEBHOOKS_MAX, Webhook};
use millrace_protocol::id::TenantId;
use millrace_store::{Direction, KeyRange, StoreError, Transaction};
use serde::{Deserialize, Serialize};

use super::{cold, key, list};
use crate::secret;

/// Webhooks that one scan of all reads.
const PART: u32 = 256;

/// A webhook of a tenant that was not removed.
pub(crate) async fn get(
    transaction: &mut dyn Transaction,
    tenant: TenantId,
    id: &str,
) -> Result<Option<Webhook>, StoreError> {
    let value = transaction.get(&key::webhook(tenant, id)).await?;
    let webhook: Option<Webhook> = value.map(|value| cold::decode("webhook", &value)).transpose()?;
    Ok(webhook.filter(|webhook| webhook.removed_ms.is_none()))
}

/// Writes a webhook. Whoever holds webhooks in memory finds out by their [`version`].
pub(crate) fn put(transaction: &mut dyn Transaction, webhook: &Webhook) {
    transaction.put(key::webhook(webhook.tenant, &webhook.id), cold::encode(webhook));
    // Blindly: changes of different tenants do not stand in each other's way.
    transaction.put(key::webhooks_version(), Bytes::copy_from_slice(&secret::random::<16>()));
}

/// A word that is another one after each change of any webhook; empty before the first one. Not validated.
pub(crate) async fn version(transaction: &mut dyn Transaction) -> Result<Bytes, StoreError> {
    let range = KeyRange::prefix(&key::webhooks_version());
    let rows = transaction.scan(range, Direction::Forward, 1).await?;
    Ok(rows.into_iter().next().map(|(_, value)| value).unwrap_or_default())
}

/// Removes the record of a webhook whose other rows are gone.
pub(crate) fn forget(transaction: &mut dyn Transaction, tenant: TenantId, id: &str) {
    transaction.delete(key::webhook(tenant, id));
}

/// Most rows of a tenant, those that were removed and are not swept yet among them: each change reads all of them.
pub(crate) const ROWS_MAX: usize = 16 * WEBHOOKS_MAX;

/// The webhooks of a tenant that were not removed, by id.
pub(crate) async fn all_of(transaction: &mut dyn Transaction, tenant: TenantId) -> Result<Vec<Webhook>, StoreError> {
    let mut webhooks = rows_of(transaction, tenant).await?;
    webhooks.retain(|webhook| webhook.removed_ms.is_none());
    Ok(webhooks)
}

/// The same, with those that were removed and are not swept yet.
pub(crate) async fn rows_of(transaction: &mut dyn Transaction, tenant: TenantId) -> Result<Vec<Webhook>, StoreError> {
    let limit = u32::try_from(ROWS_MAX).unwrap_or(u32::MAX);
    let rows = list::page(transaction, key::webhooks_of(tenant), None, limit).await?;
    rows.iter().map(|(_, value)| cold::decode("webhook", value)).collect()
}

/// The webhooks of all tenants, also those that were removed: a bounded part, and where the next one begins.
pub(crate) async fn part_of_all(
    transaction: &mut dyn Transaction,
    from: Option<KeyRange>,
) -> Result<(Vec<Webhook>, Option<KeyRange>), StoreError> {
    let range = from.unwrap_or_else(key::webhooks);
    let rows = transaction.scan(range.clone(), Direction::Forward, PART).await?;
    let webhooks = rows.iter().map(|(_, value)| cold::decode("webhook", value)).collect::<Result<_, _>>()?;
    let is_whole = rows.len() < PART as usize;
    let rest = rows.last().filter(|_| !is_whole).map(|(last, _)| list::behind(range, last));
    Ok((webhooks, rest))
}

/// How a webhook is doing, and which control node delivers for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Health {
    /// Names a run of a control node; empty: none delivers.
    pub(crate) owner: String,
    /// Until when it does by itself; Unix time, ms.
    pub(crate) lease_until_ms: i64,
    /// Since when nothing was taken; Unix time, ms.
    pub(crate) failing_since_ms: Option<i64>,
    /// Failures in a row.
    pub(crate) failures: u32,
    /// When the endpoint is tried again; Unix time, ms.
    pub(crate) retry_at_ms: i64,
    /// When something was taken last; Unix time, ms.
    pub(crate) last_success_ms: Option<i64>,
    /// When something was not; Unix time, ms.
    pub(crate) last_failure_ms: Option<i64>,
    /// Why not.
    pub(crate) last_error: Option<String>,
}

impl Health {
    /// Nothing waits: whatever failed is told or given up, and how long it did says nothing of what comes next. Tells whether that is new.
    pub(crate) fn nothing_waits(&mut self) -> bool {
        let is_new = self.failing_since_ms.is_some() || self.failures > 0;
        (self.failing_since_ms, self.failures, self.retry_at_ms) = (None, 0, 0);
        is_new
    }
}

/// How a webhook is doing; validated at the commit.
pub(crate) async fn health(transaction: &mut dyn Transaction, id: &str) -> Result<Health, StoreError> {
    let value = transaction.get(&key::of_webhook::health(id)).await?;
    Ok(value.map(|value| cold::decode("health of a webhook", &value)).transpose()?.unwrap_or_default())
}

/// Writes how it is doing.
pub(crate) fn put_health(transaction: &mut dyn Transaction, id: &str, health: &Health) {
    transaction.put(key::of_webhook::health(id), cold::encode(health));
}

#[cfg(test)]
pub(crate) mod tests {
    use millrace_domain::word::Word;
    use millrace_domain::{EventKind, WebhookSecret};

    use super::*;

    /// One that is on and wants everything of this machine.
    pub(crate) fn example(tenant: TenantId, id: &str) -> Webhook {
        Webhook {
            id: id.into(),
            tenant,
            url: "http://127.0.0.1:1/".parse().unwrap(),
            events: EventKind::ALL.iter().map(|(kind, _)| *kind).collect(),
            channel_prefix: None,
            label: None,
            secrets: vec![WebhookSecret { key: "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into(), until_ms: None }],
            off: None,
            waiting_when_on: 0,
            removed_ms: None,
            created_ms: 0,
            updated_ms: 0,
        }
    }
}

//! What waits to be told to a webhook: events of changes as rows of their own, and messages by their place in their channel's history.
//!
//! A *mark* says that messages from an offset on may wait; appends write it, and it goes once nothing waits. *Progress* says how far
//! messages are delivered, is written by whoever delivers, and stays: a mark may come back with an older offset.

use bytes::Bytes;
use millrace_domain::EventKind;
use millrace_domain::word;
use millrace_protocol::id::{ChannelId, Offset, TenantId};
use millrace_store::{Direction, KeyRange, StoreError, Transaction};
use serde::{Deserialize, Serialize};

use super::key::of_webhook as key;
use super::{cold, expiry, list};

/// An event that waits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Waiting {
    /// Names the event, the same for all webhooks and attempts.
    pub(crate) id: String,
    /// What happened.
    #[serde(with = "word::as_word")]
    pub(crate) kind: EventKind,
    /// Events of one lane are delivered one after the other.
    pub(crate) lane: String,
    /// What is told.
    pub(crate) content: Content,
    /// When it happened; Unix time, ms.
    pub(crate) time_ms: i64,
    /// Attempts so far.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) attempts: u32,
    /// When the last one began; Unix time, ms.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) tried_ms: i64,
    /// Not before; Unix time, ms.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) next_ms: i64,
}

/// What a new event does not have yet is not written: a change may write very many.
fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Content {
    /// The body of the request.
    Body(String),
    /// The body is in a row that all webhooks share which wait to tell it: see [`share`].
    Shared,
    /// A message, which is read when it is told.
    Message {
        /// Number of its channel.
        channel: u64,
        /// Its offset.
        offset: u64,
    },
}

/// Keeps an event for a webhook.
pub(crate) fn put(transaction: &mut dyn Transaction, row: Bytes, waiting: &Waiting) {
    transaction.put(row, cold::encode(waiting));
}

/// Keeps a body once for the rows of several webhooks: those with the time and number of `row`. It goes with the last one that is released.
pub(crate) fn share(transaction: &mut dyn Transaction, row: &[u8], body: &str, holders: usize) {
    transaction.put(super::key::event_body(row), cold::encode(&body));
    transaction.put(super::key::event_holders(row), cold::encode(&holders));
}

/// A shared body; `None` once nobody waits to tell it.
pub(crate) async fn shared(transaction: &mut dyn Transaction, row: &[u8]) -> Result<Option<String>, StoreError> {
    let value = transaction.get(&super::key::event_body(row)).await?;
    value.map(|value| cold::decode("body of an event", &value)).transpose()
}

/// One webhook fewer waits to tell a shared body. Its row has to be read by key and deleted in the same transaction, so that none is released
/// twice.
pub(crate) async fn release(transaction: &mut dyn Transaction, row: &[u8]) -> Result<(), StoreError> {
    let key = super::key::event_holders(row);
    let Some(value) = transaction.get(&key).await? else { return Ok(()) };
    let holders: usize = cold::decode("holders of an event", &value)?;
    if holders > 1 {
        transaction.put(key, cold::encode(&(holders - 1)));
    } else {
        transaction.delete(key);
        transaction.delete(super::key::event_body(row));
    }
    Ok(())
}

/// Decodes a row of [`key::events`].
pub(crate) fn decode(value: &[u8]) -> Result<Waiting, StoreError> {
    cold::decode("event of a webhook", value)
}

/// Events that wait, the oldest first, and where the next page begins if there may be one.
pub(crate) async fn page(
    transaction: &mut dyn Transaction,
    webhook: &str,
    from: Option<KeyRange>,
    limit: u32,
) -> Result<(Vec<(Bytes, Waiting)>, Option<KeyRange>), StoreError> {
    let range = from.unwrap_or_else(|| key::events(webhook));
    let rows = transaction.scan(range.clone(), Direction::Forward, limit).await?;
    let rest = if rows.len() < limit as usize { None } else { rows.last().map(|(last, _)| list::behind(range, last)) };
    let read = |(row, value): (Bytes, Bytes)| Ok((row, decode(&value)?));
    Ok((rows.into_iter().map(read).collect::<Result<_, StoreError>>()?, rest))
}

/// How long it is remembered when the newest event of a lane was: longer than events wait. In ms.
const NEWEST_LIFE_MS: i64 = 2 * 24 * 3_600_000;

/// When the newest event of a lane was, by the clock of whoever kept it; validated at the commit. In us.
pub(crate) async fn newest(
    transaction: &mut dyn Transaction,
    tenant: TenantId,
    lane: &str,
) -> Result<Option<u64>, StoreError> {
    let value = transaction.get(&super::key::newest_event(tenant, lane)).await?;
    let read = |value: Bytes| Ok(cold::decode_expiring("newest event of a lane", &value)?.1);
    value.map(read).transpose()
}

/// Notes it; `is_new` if it was not there.
pub(crate) fn put_newest(
    transaction: &mut dyn Transaction,
    tenant: TenantId,
    lane: &str,
    time_us: u64,
    now_ms: i64,
    is_new: bool,
) {
    let row = super::key::newest_event(tenant, lane);
    let expires_ms = now_ms.saturating_add(NEWEST_LIFE_MS);
    if is_new {
        // Entered once: the sweep finds that the row lives on and enters it again.
        expiry::register(transaction, &row, expires_ms);
    }
    transaction.put(row, cold::encode_expiring(expires_ms, &time_us));
}

/// How many events wait, up to `max`; counted in parts, so that none is too large.
pub(crate) async fn count(transaction: &mut dyn Transaction, webhook: &str, max: u64) -> Result<u64, StoreError> {
    let (mut range, mut count) = (Some(key::events(webhook)), 0);
    while let Some(part) = range.take().filter(|_| count < max) {
        let limit = u32::try_from((max - count).min(256)).unwrap_or(256);
        let rows = transaction.scan(part.clone(), Direction::Forward, limit).await?;
        count += rows.len() as u64;
        range = rows.last().filter(|_| rows.len() == limit as usize).map(|(last, _)| list::behind(part, last));
    }
    Ok(count)
}

/// Whether anything waits.
pub(crate) async fn is_empty(transaction: &mut dyn Transaction, webhook: &str) -> Result<bool, StoreError> {
    for range in [key::events(webhook), key::marks(webhook)] {
        if !transaction.scan(range, Direction::Forward, 1).await?.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Notes that messages from `first` on wait, unless a mark says so of older ones. Nothing that is read here is validated: see [`clear`].
pub(crate) async fn mark(
    transaction: &mut dyn Transaction,
    webhook: &str,
    channel: ChannelId,
    first: Offset,
) -> Result<(), StoreError> {
    let row = key::mark(webhook, channel);
    let end = [&row[..], &[0]].concat().into();
    let present = transaction.scan(KeyRange { start: row.clone(), end }, Direction::Forward, 1).await?;
    // Written again though it is there: it may be cleared at this moment, and this puts it back.
    let value =
        present.into_iter().next().map_or_else(|| first.get().to_be_bytes().to_vec().into(), |(_, value)| value);
    transaction.put(row, value);
    Ok(())
}

/// The channels in which messages may wait, from which offset on, behind `after`.
pub(crate) async fn marks(
    transaction: &mut dyn Transaction,
    webhook: &str,
    after: Option<ChannelId>,
    limit: u32,
) -> Result<Vec<(ChannelId, Offset)>, StoreError> {
    let after = after.map(|channel| key::mark(webhook, channel));
    let rows = list::page(transaction, key::marks(webhook), after, limit).await?;
    let read = |(row, value): &(Bytes, Bytes)| {
        super::key::channel_at_end(row).zip(super::key::offset_at_end(value)).ok_or_else(damaged)
    };
    rows.iter().map(read).collect()
}

/// Takes a mark away; `false` if there is none. Its channel's head has to be read by key in the same transaction: an append that adds a
/// message meanwhile then comes first, and one that comes later writes the mark again.
pub(crate) async fn clear(
    transaction: &mut dyn Transaction,
    webhook: &str,
    channel: ChannelId,
) -> Result<bool, StoreError> {
    let row = key::mark(webhook, channel);
    let is_there = transaction.get(&row).await?.is_some();
    if is_there {
        transaction.delete(row);
    }
    Ok(is_there)
}

/// How far the messages of a channel are delivered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// The first one that is not.
    pub(crate) next: u64,
    /// Attempts for that one so far.
    pub(crate) attempts: u32,
    /// When the last one began; Unix time, ms.
    pub(crate) tried_ms: i64,
    /// Not before; Unix time, ms.
    pub(crate) next_ms: i64,
}

/// How far the messages of a channel are delivered; `None` if none was yet.
pub(crate) async fn progress(
    transaction: &mut dyn Transaction,
    webhook: &str,
    channel: ChannelId,
) -> Result<Option<Progress>, StoreError> {
    let value = transaction.get(&key::progress(webhook, channel)).await?;
    value.map(|value| cold::decode("progress of a webhook", &value)).transpose()
}

/// Writes how far they are.
pub(crate) fn put_progress(transaction: &mut dyn Transaction, webhook: &str, channel: ChannelId, progress: &Progress) {
    transaction.put(key::progress(webhook, channel), cold::encode(progress));
}

fn damaged() -> StoreError {
    StoreError::Damaged("mark of a webhook".into())
}

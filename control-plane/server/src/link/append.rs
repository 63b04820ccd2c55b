//! Appends: per channel one transaction, all channels of a frame at the same time, so that their commits share groups.

use std::ops::Range;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt};
use millrace_domain::append::{Batch, HomeView, RowChange};
use millrace_protocol::Code;
use millrace_protocol::code::Refusal;
use millrace_protocol::id::{ChannelId, Offset};
use millrace_protocol::node::{AppendOutcome, ChannelAppend, ChannelAppended, NewMessage};
use millrace_store::{CommitOutcome, StoreError, TRANSACTION_BYTES_MAX, Transaction};

use super::connection::Link;
use super::{ATTEMPTS_MAX, contended, now_unix_ms, refusal};
use crate::record::{self, expiry, key};

/// Channels of one frame that are at work at the same time.
const AT_ONCE: usize = 4096;
/// Messages of one transaction: with a producer each, they stay below the reads that one may do.
const PART_MESSAGES_MAX: usize = 2048;
/// Bytes of one transaction, with room for the head.
const PART_BYTES_MAX: usize = TRANSACTION_BYTES_MAX - (4 << 10);
/// Most that a message adds beside user and body: its key and record.
const MESSAGE_BYTES: usize = 64;
/// Most that its producer adds beside the user: row, expiry entry and their keys.
const PRODUCER_BYTES: usize = 320;

impl Link {
    /// Appends to each channel, and says for each what became of it.
    pub(super) async fn append(&self, appends: Vec<ChannelAppend>) -> Vec<ChannelAppended> {
        let link = Arc::new(self.clone());
        stream::iter(appends)
            .map(|append| {
                let link = link.clone();
                async move { link.append_channel(&append).await }
            })
            .buffered(AT_ONCE)
            .collect()
            .await
    }

    async fn append_channel(&self, append: &ChannelAppend) -> ChannelAppended {
        let channel = append.channel;
        let mut view = HomeView { term: append.term, epoch: append.epoch, next_offset: append.expected_offset };
        let mut outcomes = Vec::with_capacity(append.messages.len());
        for part in parts(&append.messages) {
            match self.append_part(channel, view, &append.messages[part]).await {
                Ok((more, next_offset)) => {
                    outcomes.extend(more);
                    view.next_offset = next_offset;
                }
                Err(refusal) if view.next_offset == append.expected_offset => {
                    self.shared.metrics.append_refused(refusal.code);
                    return ChannelAppended { channel, result: Err(refusal) };
                }
                // Earlier parts are stored, so the answer cannot be "nothing is".
                Err(refusal) => {
                    self.shared.metrics.append_refused(Code::UnknownOutcome);
                    return ChannelAppended::unknown(channel, format!("only a part was stored: {refusal}"));
                }
            }
        }
        self.shared.metrics.appended(&outcomes);
        ChannelAppended { channel, result: Ok(outcomes) }
    }

    /// One transaction. Gives the outcomes and the next offset.
    async fn append_part(
        &self,
        channel: ChannelId,
        view: HomeView,
        messages: &[NewMessage],
    ) -> Result<(Vec<AppendOutcome>, Offset), Refusal> {
        let batch = Batch::new(messages);
        for _ in 0..ATTEMPTS_MAX {
            let mut transaction = self.shared.db.begin().await.map_err(|error| refusal(&error))?;
            let (head, rows) = read(&mut *transaction, channel, &batch).await.map_err(|error| refusal(&error))?;
            let plan = batch.plan(view, head.as_ref(), rows).map_err(|error| self.outdated(&error))?;
            if plan.is_empty() {
                // What was read is one consistent state in which the home was not fenced.
                return Ok((plan.outcomes, plan.head.next_offset));
            }
            transaction.put(key::head(channel), record::head::encode(&plan.head));
            for (offset, message) in plan.stored(messages) {
                transaction.put(key::message(channel, offset), record::message::encode(plan.head.epoch, message));
            }
            let expires_ms = now_unix_ms().saturating_add(record::producer::LIFE_MS);
            for (index, row, change) in plan.rows() {
                let (user, producer) = batch.producers()[index];
                let key = key::producer(channel, user, producer);
                if change == RowChange::New {
                    // Entered once: the sweep finds that the row lives on and enters it again.
                    expiry::register(&mut *transaction, &key, expires_ms);
                }
                transaction.put(key, record::producer::encode(row, expires_ms));
            }
            match transaction.commit().await {
                CommitOutcome::Committed => return Ok((plan.outcomes, plan.head.next_offset)),
                CommitOutcome::Conflict => self.shared.metrics.append_conflicts.inc(),
                CommitOutcome::Failed(error) => return Err(refusal(&error)),
                CommitOutcome::Unknown(error) => {
                    tracing::warn!(%channel, error = &error as &dyn std::error::Error, "an append may be stored or not");
                    return Err(Refusal::new(Code::UnknownOutcome, error.to_string()));
                }
            }
        }
        Err(contended())
    }
}

type Found = (Option<millrace_domain::append::ChannelHead>, Vec<Option<millrace_domain::append::ProducerRow>>);

async fn read(transaction: &mut dyn Transaction, channel: ChannelId, batch: &Batch<'_>) -> Result<Found, StoreError> {
    let head = record::head::get(transaction, channel).await?;
    let mut rows = Vec::with_capacity(batch.producers().len());
    for (user, producer) in batch.producers() {
        let value = transaction.get(&key::producer(channel, user, *producer)).await?;
        let row = value.map(|value| {
            let damaged = || StoreError::Damaged(format!("producer {producer} of {user} on channel {channel}"));
            record::producer::decode(&value).map(|(row, _)| row).ok_or_else(damaged)
        });
        rows.push(row.transpose()?);
    }
    Ok((head, rows))
}

/// Cuts a batch into parts that each fit into one transaction; an empty batch is one part.
fn parts(messages: &[NewMessage]) -> impl Iterator<Item = Range<usize>> {
    let mut start = Some(0);
    std::iter::from_fn(move || {
        let begin = start?;
        let mut bytes = 0;
        let mut end = begin;
        for message in messages[begin..].iter().take(PART_MESSAGES_MAX) {
            // As if each had a producer of its own: too much rather than too little.
            bytes += MESSAGE_BYTES + PRODUCER_BYTES + 3 * message.user.as_str().len() + message.body.len();
            if bytes > PART_BYTES_MAX && end > begin {
                break;
            }
            end += 1;
        }
        start = (end < messages.len()).then_some(end);
        Some(begin..end)
    })
}

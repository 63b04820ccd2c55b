//! Appends: the channels of a frame together, in as few transactions as fit. A home has its channel for itself, so that one hardly ever stands in
//! another's way; where one does, each channel of the group gets a transaction of its own, and all of these are at work at the same time.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use futures_util::stream::{self, StreamExt};
use millrace_domain::WEBHOOKS_MAX;
use millrace_domain::append::{AppendPlan, Batch, HomeError, HomeView, RowChange};
use millrace_protocol::Code;
use millrace_protocol::code::Refusal;
use millrace_protocol::id::{ChannelId, Offset, TenantId};
use millrace_protocol::node::{AppendOutcome, ChannelAppend, ChannelAppended, HistoryClass, NewMessage};
use millrace_store::{CommitOutcome, StoreError, TRANSACTION_BYTES_MAX, Transaction};

use super::connection::Link;
use super::{ATTEMPTS_MAX, contended, now_unix_ms, refusal};
use crate::record::{self, expiry, key};
use crate::webhooks::Webhooks;

/// Transactions of one frame that are at work at the same time.
const AT_ONCE: usize = 4096;
/// Channels of one transaction. It reads them one after the other: with more, a store that is far away would take long, and what a transaction
/// costs beside its rows is shared well enough.
const GROUP_CHANNELS_MAX: usize = 64;
/// Messages of one transaction: with a producer each and their channels' heads, they stay below the reads that one may do.
const PART_MESSAGES_MAX: usize = 2048;
/// Bytes of one transaction, with room for the head.
const PART_BYTES_MAX: usize = TRANSACTION_BYTES_MAX - (4 << 10);
/// Most that a head takes with its key.
const HEAD_BYTES: usize = 64;
/// Most that the marks of webhooks take beside it: as many as a tenant has, with their keys.
const MARKS_BYTES: usize = WEBHOOKS_MAX * 64;
/// Most that a message adds beside user and body: its key and record.
const MESSAGE_BYTES: usize = 64;
/// Most that its producer adds beside the user: row, expiry entry and their keys.
const PRODUCER_BYTES: usize = 320;

impl Link {
    /// Appends to each channel, and says for each what became of it.
    pub(super) async fn append(&self, appends: Vec<ChannelAppend>) -> Vec<ChannelAppended> {
        let count = appends.len();
        let appends = Arc::new(appends);
        let groups: Vec<_> = groups(&appends).collect();
        let link = Arc::new(self.clone());
        let mut appended = Vec::with_capacity(count);
        let mut answers = stream::iter(groups)
            .map(|group| {
                let (link, appends) = (link.clone(), appends.clone());
                link.append_group(appends, group)
            })
            .buffered(AT_ONCE);
        while let Some(answer) = answers.next().await {
            appended.extend(answer);
        }
        appended
    }

    /// One transaction for all of them where that goes, which is nearly always: homes have their channels for themselves.
    async fn append_group(
        self: Arc<Self>,
        appends: Arc<Vec<ChannelAppend>>,
        group: Range<usize>,
    ) -> Vec<ChannelAppended> {
        if group.len() > 1
            && let Some(results) = self.append_together(&appends[group.clone()]).await
        {
            let answered = |(append, result)| self.answered(append, result);
            return appends[group].iter().zip(results).map(answered).collect();
        }
        stream::iter(group)
            .map(|index| {
                let (link, appends) = (self.clone(), appends.clone());
                async move { link.append_alone(&appends[index]).await }
            })
            .buffered(AT_ONCE)
            .collect()
            .await
    }

    /// One attempt to store a group. `None`: nothing is stored, because of one of them, whichever it is.
    async fn append_together(&self, appends: &[ChannelAppend]) -> Option<Vec<Outcomes>> {
        let mut webhooks = self.webhooks();
        let mut transaction = self.shared.db.begin().await.ok()?;
        let mut rows = BytesMut::with_capacity(appends.iter().map(|append| rows_bytes(&append.messages)).sum());
        let mut plans = Vec::with_capacity(appends.len());
        for append in appends {
            let written =
                write(&mut *transaction, &mut rows, append.channel, view(append), &append.messages, &mut webhooks)
                    .await;
            plans.push(written.ok()?);
        }
        let outcome = transaction.commit().await;
        webhooks.wake();
        let refused = match outcome {
            CommitOutcome::Committed => None,
            CommitOutcome::Conflict => {
                self.shared.metrics.append_conflicts.inc();
                return None;
            }
            CommitOutcome::Failed(error) => Some(refusal(&error)),
            CommitOutcome::Unknown(error) => Some(self.unknown(appends.len(), &error)),
        };
        let result = |plan: Result<AppendPlan, HomeError>| match (plan, &refused) {
            (Err(error), _) => Err(self.outdated(&error)),
            // Also one that only found duplicates: they were read from a state that the store has not said to have been.
            (Ok(_), Some(refusal)) => Err(refusal.clone()),
            (Ok(plan), None) => Ok(plan.outcomes),
        };
        Some(plans.into_iter().map(result).collect())
    }

    async fn append_alone(&self, append: &ChannelAppend) -> ChannelAppended {
        let channel = append.channel;
        let mut view = view(append);
        let mut outcomes = Vec::with_capacity(append.messages.len());
        for part in parts(&append.messages) {
            match self.append_part(channel, view, &append.messages[part]).await {
                Ok((more, next_offset)) => {
                    outcomes.extend(more);
                    view.next_offset = next_offset;
                }
                Err(refusal) if view.next_offset == append.expected_offset => {
                    return self.answered(append, Err(refusal));
                }
                // Earlier parts are stored, so the answer cannot be "nothing is".
                Err(refusal) => {
                    self.shared.metrics.append_refused(Code::UnknownOutcome);
                    return ChannelAppended::unknown(channel, format!("only a part was stored: {refusal}"));
                }
            }
        }
        self.answered(append, Ok(outcomes))
    }

    /// One transaction of its own. Gives the outcomes and the next offset.
    async fn append_part(
        &self,
        channel: ChannelId,
        view: HomeView,
        messages: &[NewMessage],
    ) -> Result<(Vec<AppendOutcome>, Offset), Refusal> {
        for _ in 0..ATTEMPTS_MAX {
            let mut webhooks = self.webhooks();
            let mut transaction = self.shared.db.begin().await.map_err(|error| refusal(&error))?;
            let mut rows = BytesMut::with_capacity(rows_bytes(messages));
            let plan = write(&mut *transaction, &mut rows, channel, view, messages, &mut webhooks).await;
            let plan = plan.map_err(|error| refusal(&error))?.map_err(|error| self.outdated(&error))?;
            // Without writes it is committed at once.
            let outcome = transaction.commit().await;
            webhooks.wake();
            match outcome {
                CommitOutcome::Committed => return Ok((plan.outcomes, plan.head.next_offset)),
                CommitOutcome::Conflict => self.shared.metrics.append_conflicts.inc(),
                CommitOutcome::Failed(error) => return Err(refusal(&error)),
                CommitOutcome::Unknown(error) => return Err(self.unknown(1, &error)),
            }
        }
        Err(contended())
    }

    /// Before a transaction begins.
    fn webhooks(&self) -> Marking<'_> {
        Marking { webhooks: self.shared.webhooks.get(), begun: Instant::now(), marked: Vec::new() }
    }

    fn unknown(&self, channels: usize, error: &StoreError) -> Refusal {
        let node = &self.active.node;
        tracing::warn!(node, channels, error = error as &dyn std::error::Error, "appends may be stored or not");
        Refusal::new(Code::UnknownOutcome, error.to_string())
    }

    /// The answer for one channel, counted.
    fn answered(&self, append: &ChannelAppend, result: Outcomes) -> ChannelAppended {
        match &result {
            Ok(outcomes) => self.shared.metrics.appended(outcomes),
            Err(refusal) => self.shared.metrics.append_refused(refusal.code),
        }
        ChannelAppended { channel: append.channel, result }
    }
}

/// Webhooks, and those of them that will hear of messages.
struct Marking<'a> {
    webhooks: Option<&'a Webhooks>,
    begun: Instant,
    marked: Vec<(TenantId, Arc<str>)>,
}

impl Marking<'_> {
    /// Once the commit is over: who was woken in vain finds nothing.
    fn wake(self) {
        if let Some(webhooks) = self.webhooks {
            webhooks.wake(self.marked);
        }
    }
}

type Outcomes = Result<Vec<AppendOutcome>, Refusal>;

fn view(append: &ChannelAppend) -> HomeView {
    HomeView { term: append.term, epoch: append.epoch, next_offset: append.expected_offset }
}

/// Reads where a channel stands, and writes what an append makes of it. All keys and values are cut off `rows`, so that they cost one allocation
/// together.
///
/// The inner error: the home's view is outdated, nothing was written.
async fn write(
    transaction: &mut dyn Transaction,
    rows: &mut BytesMut,
    channel: ChannelId,
    view: HomeView,
    messages: &[NewMessage],
    marking: &mut Marking<'_>,
) -> Result<Result<AppendPlan, HomeError>, StoreError> {
    let batch = Batch::new(messages);
    let head_key = key::head_in(rows, channel);
    let head = record::head::get_at(transaction, channel, &head_key).await?;
    let mut known = Vec::with_capacity(batch.producers().len());
    let mut producer_keys = Vec::with_capacity(batch.producers().len());
    for (user, producer) in batch.producers() {
        let key = key::producer_in(rows, channel, user, *producer);
        let value = transaction.get(&key).await?;
        let row = value.map(|value| {
            let damaged = || StoreError::Damaged(format!("producer {producer} of {user} on channel {channel}"));
            record::producer::decode(&value).map(|(row, _)| row).ok_or_else(damaged)
        });
        known.push(row.transpose()?);
        producer_keys.push(key);
    }
    let plan = match batch.plan(view, head.as_ref(), known) {
        Ok(plan) if plan.is_empty() => return Ok(Ok(plan)),
        Ok(plan) => plan,
        Err(error) => return Ok(Err(error)),
    };
    transaction.put(head_key, record::head::encode(rows, &plan.head));
    for (offset, message) in plan.stored(messages) {
        let key = key::message_in(rows, channel, offset);
        transaction.put(key, record::message::encode(rows, plan.head.epoch, message));
    }
    if let Some(webhooks) = marking.webhooks
        && plan.head.history == HistoryClass::Durable
        && let Some((first, _)) = plan.stored(messages).next()
    {
        webhooks.mark(transaction, marking.begun, channel, first, &mut marking.marked).await?;
    }
    let expires_ms = now_unix_ms().saturating_add(record::producer::LIFE_MS);
    for (index, row, change) in plan.rows() {
        let key = &producer_keys[index];
        if change == RowChange::New {
            // Entered once: the sweep finds that the row lives on and enters it again.
            expiry::register(transaction, key, expires_ms);
        }
        transaction.put(key.clone(), record::producer::encode(rows, row, expires_ms));
    }
    Ok(Ok(plan))
}

/// Cuts the appends of a frame into groups that each fit into one transaction; one that does not fit is alone.
fn groups(appends: &[ChannelAppend]) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let begin = start;
        let (mut messages, mut bytes) = (0, 0);
        for append in appends[begin..].iter().take(GROUP_CHANNELS_MAX) {
            messages += append.messages.len();
            bytes += bytes_max(&append.messages);
            if start > begin && (messages > PART_MESSAGES_MAX || bytes > PART_BYTES_MAX) {
                break;
            }
            start += 1;
        }
        (start > begin).then_some(begin..start)
    })
}

/// Most that a transaction writes for messages of one channel, and the keys that it reads for them.
fn bytes_max(messages: &[NewMessage]) -> usize {
    HEAD_BYTES + MARKS_BYTES + messages.iter().map(message_bytes_max).sum::<usize>()
}

/// About what a transaction writes for messages of one channel: so much is taken at once, and more where it does not suffice.
fn rows_bytes(messages: &[NewMessage]) -> usize {
    let rows = |message: &NewMessage| 2 * MESSAGE_BYTES + 2 * message.user.as_str().len() + message.body.len();
    HEAD_BYTES + messages.iter().map(rows).sum::<usize>()
}

/// As if each message had a producer of its own: too much rather than too little.
fn message_bytes_max(message: &NewMessage) -> usize {
    MESSAGE_BYTES + PRODUCER_BYTES + 3 * message.user.as_str().len() + message.body.len()
}

/// Cuts a batch into parts that each fit into one transaction; an empty batch is one part.
fn parts(messages: &[NewMessage]) -> impl Iterator<Item = Range<usize>> {
    let mut start = Some(0);
    std::iter::from_fn(move || {
        let begin = start?;
        let mut bytes = 0;
        let mut end = begin;
        for message in messages[begin..].iter().take(PART_MESSAGES_MAX) {
            bytes += message_bytes_max(message);
            if bytes > PART_BYTES_MAX && end > begin {
                break;
            }
            end += 1;
        }
        start = (end < messages.len()).then_some(end);
        Some(begin..end)
    })
}

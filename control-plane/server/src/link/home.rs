//! Homes open and give back channels.

use std::sync::Arc;

use bytes::BytesMut;
use futures_util::stream::{self, StreamExt};
use millrace_domain::append::{ChannelHead, HomeError, HomeView};
use millrace_protocol::Code;
use millrace_protocol::code::Refusal;
use millrace_protocol::id::ChannelId;
use millrace_protocol::node::{CloseHome, FRAME_BYTES_MAX, Head, HistoryClass, ProducerState};
use millrace_store::{CommitOutcome, Direction, SCAN_ROWS_MAX, StoreError, Transaction};

use super::connection::Link;
use super::{ATTEMPTS_MAX, contended, refusal};
use crate::record::{self, key};

/// Channels of one request that are at work at the same time, so that their commits share groups.
const AT_ONCE: usize = 1024;
/// About what a producer takes in a reply.
const PRODUCER_BYTES: usize = 64;
/// Most producers that a home is told of.
const PRODUCERS_MAX: usize = 4096;
/// Most rows of producers that are looked at when a channel opens: about a tenth of a second.
const PRODUCERS_READ_MAX: u32 = 1 << 16;

impl Link {
    /// Opens channels under the link's term.
    pub(super) async fn open_homes(&self, channels: Vec<ChannelId>) -> Vec<(ChannelId, Result<Head, Refusal>)> {
        // All heads have to fit into one frame.
        let producers_max = (FRAME_BYTES_MAX / 4 / PRODUCER_BYTES / channels.len().max(1)).min(PRODUCERS_MAX);
        let link = Arc::new(self.clone());
        stream::iter(channels)
            .map(|channel| {
                let link = link.clone();
                async move { (channel, link.open_home(channel, producers_max).await) }
            })
            .buffered(AT_ONCE)
            .collect()
            .await
    }

    async fn open_home(&self, channel: ChannelId, producers_max: usize) -> Result<Head, Refusal> {
        for _ in 0..ATTEMPTS_MAX {
            let mut transaction = self.shared.db.begin().await.map_err(|error| refusal(&error))?;
            let head = match self.open_in(&mut *transaction, channel).await.map_err(|error| refusal(&error))? {
                Ok(head) => head,
                Err(refusal) => return Err(refusal),
            };
            let producers = match head.history {
                HistoryClass::None => return Ok(head.to_node(Vec::new())),
                HistoryClass::Durable => Vec::new(),
                HistoryClass::Windowed => {
                    let read = recent_producers(&mut *transaction, channel, producers_max).await;
                    read.map_err(|error| refusal(&error))?
                }
            };
            match transaction.commit().await {
                CommitOutcome::Committed => return Ok(head.to_node(producers)),
                CommitOutcome::Conflict => {}
                CommitOutcome::Failed(error) => return Err(refusal(&error)),
                // Whether or not the term is written: opening again is harmless for a durable channel. A windowed one may
                // begin two epochs instead of one.
                CommitOutcome::Unknown(error) => return Err(refusal(&error)),
            }
        }
        Err(contended())
    }

    async fn open_in(
        &self,
        transaction: &mut dyn Transaction,
        id: ChannelId,
    ) -> Result<Result<ChannelHead, Refusal>, StoreError> {
        let Some(channel) = record::channel::by_id(transaction, id).await? else {
            return Ok(Err(Refusal::new(Code::NoAccess, "no such channel")));
        };
        if channel.archived_ms.is_some() {
            return Ok(Err(Refusal::new(Code::Archived, "the channel is archived")));
        }
        // Nothing is ever stored there, not even a head.
        if channel.history == HistoryClass::None {
            return Ok(Ok(ChannelHead::empty(HistoryClass::None)));
        }
        let key = key::head(id);
        let head = record::head::get(transaction, id).await?.unwrap_or(ChannelHead::empty(channel.history));
        let opened = match head.open(self.term, channel.history) {
            Ok(opened) => opened,
            Err(error) => return Ok(Err(self.outdated(&error))),
        };
        transaction.put(key, record::head::encode(&mut BytesMut::new(), &opened));
        Ok(Ok(opened))
    }

    /// Closes homes that left nothing behind. One whose view is outdated stays open: the next home finds out.
    pub(super) async fn close_homes(&self, homes: Vec<CloseHome>) {
        let link = Arc::new(self.clone());
        stream::iter(homes)
            .map(|home| {
                let link = link.clone();
                async move { link.close_home(home).await }
            })
            .buffer_unordered(AT_ONCE)
            .for_each(|()| async {})
            .await;
    }

    async fn close_home(&self, home: CloseHome) {
        let closed = async {
            for _ in 0..ATTEMPTS_MAX {
                let mut transaction = self.shared.db.begin().await.map_err(|error| refusal(&error))?;
                let head = record::head::get(&mut *transaction, home.channel).await.map_err(|error| refusal(&error))?;
                let Some(head) = head else { return Ok(()) };
                let view = HomeView { term: home.term, epoch: home.epoch, next_offset: home.next_offset };
                let closed = head.close(view).map_err(|error| self.outdated(&error))?;
                transaction.put(key::head(home.channel), record::head::encode(&mut BytesMut::new(), &closed));
                match transaction.commit().await {
                    CommitOutcome::Committed => return Ok(()),
                    CommitOutcome::Conflict => {}
                    CommitOutcome::Failed(error) | CommitOutcome::Unknown(error) => return Err(refusal(&error)),
                }
            }
            Err(contended())
        };
        if let Err(refusal) = closed.await {
            tracing::debug!(channel = %home.channel, %refusal, "a home did not close cleanly");
        }
    }

    /// An outdated home, counted.
    pub(super) fn outdated(&self, error: &HomeError) -> Refusal {
        self.shared.metrics.outdated.inc();
        Refusal::new(error.code(), error.to_string())
    }
}

/// Producers of a windowed channel: the `max` that stored last, in no order.
///
/// Looks at [`PRODUCERS_READ_MAX`] rows at most. A home that does not know a producer lets it begin again, so the rest only costs a
/// duplicate of a message whose acknowledgement was lost in the restart.
async fn recent_producers(
    transaction: &mut dyn Transaction,
    channel: ChannelId,
    max: usize,
) -> Result<Vec<ProducerState>, StoreError> {
    let all = key::producers_of(channel);
    let damaged = || StoreError::Damaged(format!("producers of channel {channel}"));
    let mut producers = Vec::new();
    let mut range = all.clone();
    for _ in 0..PRODUCERS_READ_MAX.div_ceil(SCAN_ROWS_MAX) {
        let rows = transaction.scan(range.clone(), Direction::Forward, SCAN_ROWS_MAX).await?;
        for (row, value) in &rows {
            let (user, producer) = key::producer_of(&all, row).ok_or_else(damaged)?;
            let (known, _) = record::producer::decode(value).ok_or_else(damaged)?;
            producers.push(ProducerState { user, producer, sequence: known.last(), offset: known.last_offset() });
        }
        // After each scan, so that no more than a scan is held beside the result.
        if producers.len() > max {
            producers.sort_unstable_by_key(|producer| std::cmp::Reverse(producer.offset));
            producers.truncate(max);
        }
        match rows.last() {
            Some((last, _)) if rows.len() == SCAN_ROWS_MAX as usize => range.start = [last, &b"\0"[..]].concat().into(),
            _ => break,
        }
    }
    Ok(producers)
}

//! Read positions that data nodes bring: all of a request in one transaction, then the answer, then the news for every session.

use millrace_domain::{mark_read, readable};
use millrace_protocol::client::NO_EPOCH;
use millrace_protocol::code::Refusal;
use millrace_protocol::id::Position;
use millrace_protocol::node::{NodeBody, ReadMark};
use millrace_store::{CommitOutcome, StoreError, Transaction};

use super::connection::Link;
use super::{ATTEMPTS_MAX, LinkEnd, contended, refusal};
use crate::record;

/// Marks of one transaction: at most four reads each, far below the store's limit.
const MARKS_PER_TRANSACTION: usize = 256;

impl Link {
    /// Stores the marks, queues the answer, and tells all sessions.
    pub(super) async fn mark_reads(&self, id: u64, marks: Vec<ReadMark>) -> Result<(), LinkEnd> {
        let mut results = Vec::with_capacity(marks.len());
        for part in marks.chunks(MARKS_PER_TRANSACTION) {
            match self.mark_part(part).await {
                Ok(part) => results.extend(part),
                Err(refusal) => results.extend(part.iter().map(|_| Err(refusal.clone()))),
            }
        }
        // Told also if it had moved before: an earlier commit may have landed without anybody hearing of it.
        let moved: Vec<_> = marks
            .into_iter()
            .zip(&results)
            .filter_map(|(mark, result)| {
                let position = *result.as_ref().ok()?;
                (position.offset > 0).then_some(ReadMark { position, ..mark })
            })
            .collect();
        self.active.outbox.reply(id, NodeBody::ReadsMarked(results)).await?;
        if !moved.is_empty() {
            self.active.announce(NodeBody::ReadsMoved(moved));
        }
        Ok(())
    }

    async fn mark_part(&self, marks: &[ReadMark]) -> Result<Vec<Result<Position, Refusal>>, Refusal> {
        for _ in 0..ATTEMPTS_MAX {
            let mut transaction = self.shared.db.begin().await.map_err(|error| refusal(&error))?;
            let mut results = Vec::with_capacity(marks.len());
            for mark in marks {
                results.push(mark_one(&mut *transaction, mark).await.map_err(|error| refusal(&error))?);
            }
            match transaction.commit().await {
                CommitOutcome::Committed => return Ok(results),
                CommitOutcome::Conflict => {}
                // Whether it is stored or not: to mark again is harmless.
                CommitOutcome::Failed(error) | CommitOutcome::Unknown(error) => return Err(refusal(&error)),
            }
        }
        Err(contended())
    }
}

async fn mark_one(transaction: &mut dyn Transaction, mark: &ReadMark) -> Result<Result<Position, Refusal>, StoreError> {
    let channel = record::channel::by_id(transaction, mark.channel).await?;
    let Some(channel) = channel.filter(|channel| channel.tenant == mark.tenant) else {
        return Ok(Err(millrace_domain::no_access()));
    };
    let membership = record::member::get(transaction, channel.id, &mark.user).await?;
    if let Err(refusal) = readable(&channel, membership.as_ref()) {
        return Ok(Err(refusal));
    }
    let Some(membership) = membership else { return Ok(Err(millrace_domain::no_access())) };
    let head = record::head::peek(transaction, channel.id).await?;
    let read = match mark_read(membership.read, mark.position, head.as_ref()) {
        Ok(read) => read,
        Err(refusal) => return Ok(Err(refusal)),
    };
    if let Some(read) = read.filter(|read| membership.read != Some(*read)) {
        record::member::put_read(transaction, channel.id, &mark.user, &membership, read);
    }
    Ok(Ok(read.unwrap_or(Position { epoch: NO_EPOCH, offset: 0 })))
}

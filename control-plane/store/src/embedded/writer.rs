//! The writer: one thread that owns the engine, and turns the commits that wait into groups.
//!
//! A group is all that waits, bounded in count and bytes; nothing waits for a timer. While one group is synced the next one gathers, so
//! groups grow by themselves under load.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::queue::{Request, Wake};
use super::recent::{Fingerprint, RecentCommits};
use super::remembered::Written;
use super::{Published, Shared, WriterConfig};
use crate::directory::Directory;
use crate::engine::{Engine, Writes};
use crate::stats::Counters;
use crate::{CommitOutcome, StoreError};

type Reply = oneshot::Sender<CommitOutcome>;

/// A key that a group writes, with its value.
type Note = (Fingerprint, Written, Bytes, Option<Bytes>);

/// See the module.
pub(super) struct Writer<E: Engine> {
    shared: Arc<Shared<E::Snapshot>>,
    engine: E,
    recent: RecentCommits,
    /// The newest commit on disk.
    sequence: u64,
    /// The newest commit that the high-water mark knows.
    marked: u64,
    marked_at: Instant,
    config: WriterConfig,
    /// Dropped after the engine: it holds the lock that keeps other processes out.
    directory: Option<Directory>,
}

impl<E: Engine> Writer<E> {
    pub(super) fn new(
        engine: E,
        directory: Option<Directory>,
        recovered: u64,
        config: WriterConfig,
        shared: Arc<Shared<E::Snapshot>>,
    ) -> Self {
        Self {
            shared,
            engine,
            recent: RecentCommits::new(recovered, config.conflict_window_bytes),
            sequence: recovered,
            // Also what a crash left is marked: it has been visible since.
            marked: 0,
            marked_at: Instant::now(),
            config,
            directory,
        }
    }

    /// Works until the queue is closed and empty, or the engine fails. When it returns, the engine and the folder are released.
    pub(super) fn run(mut self) -> Result<(), String> {
        // A panic here is a bug after which nobody knows what is on disk: the same as a failed write.
        let result = catch_unwind(AssertUnwindSafe(|| self.work()))
            .unwrap_or_else(|_| Err(StoreError::Unavailable("its writer panicked".into())));
        // Nobody begins on the engine from here on, and what still waits cannot be served.
        self.shared.shut();
        self.shared.publish(None);
        if let Err(error) = &result {
            (self.config.on_failure.0)(error);
            let mut left = Vec::new();
            while matches!(self.shared.queue.take(&mut left, usize::MAX, usize::MAX, None), Wake::Group) {}
            for request in left {
                if !request.taken.swap(true, Ordering::AcqRel) {
                    answer(request.reply, CommitOutcome::Failed(StoreError::Unavailable("its engine failed".into())));
                }
            }
        }
        result.map_err(|error| error.to_string())
    }

    fn work(&mut self) -> Result<(), StoreError> {
        let mut group = Vec::new();
        loop {
            let mark_due = (self.directory.is_some() && self.marked < self.sequence)
                .then(|| self.marked_at + self.config.high_water_interval);
            let (commits_max, bytes_max) = (self.config.group_commits_max, self.config.group_bytes_max);
            match self.shared.queue.take(&mut group, commits_max, bytes_max, mark_due) {
                Wake::Group => self.commit(&mut group)?,
                Wake::Timeout => {}
                Wake::Closed => return self.raise_mark(),
            }
            // After the answers: only a start after damage needs the mark.
            if mark_due.is_some_and(|due| due <= Instant::now()) {
                self.raise_mark()?;
            }
        }
    }

    fn raise_mark(&mut self) -> Result<(), StoreError> {
        if let Some(directory) = &mut self.directory
            && self.marked < self.sequence
        {
            directory.raise(self.sequence).map_err(|error| StoreError::Engine(Box::new(error)))?;
            self.marked = self.sequence;
        }
        self.marked_at = Instant::now();
        Ok(())
    }

    /// Validates a group in the order of its arrival, writes what is accepted as one batch, and answers everybody.
    fn commit(&mut self, group: &mut Vec<Request>) -> Result<(), StoreError> {
        let sequence = self.sequence + 1;
        let now = Instant::now();
        let mut writes: Vec<Writes> = Vec::with_capacity(group.len());
        let mut notes: Vec<Note> = Vec::new();
        let mut bytes = 0;
        let mut accepted: Vec<Reply> = Vec::with_capacity(group.len());
        let mut conflicting: Vec<Reply> = Vec::new();
        for request in group.drain(..) {
            if request.taken.swap(true, Ordering::AcqRel) {
                continue; // Its deadline passed, and its caller has been told.
            }
            if request.deadline <= now {
                Counters::add(&self.shared.counters.expired, 1);
                answer(request.reply, CommitOutcome::Failed(StoreError::DeadlineExceeded));
                continue;
            }
            // The keys of those accepted before it in this group count already, with this group's sequence, which no snapshot has.
            if !self.recent.allows(request.sequence, &request.reads) {
                conflicting.push(request.reply);
                continue;
            }
            for (key, value) in &request.writes {
                let print = self.shared.fingerprints.of(key);
                self.recent.note(sequence, print);
                let how = if request.reads.contains(&print) { Written::AfterReading } else { Written::Blindly };
                notes.push((print, how, key.clone(), value.clone()));
            }
            writes.push(request.writes);
            bytes += request.bytes;
            accepted.push(request.reply);
        }
        if !accepted.is_empty() {
            let begun = Instant::now();
            if let Err(error) = self.write(sequence, merge(writes), &notes) {
                for reply in accepted {
                    let error = StoreError::Unavailable(format!("its engine failed: {error}"));
                    answer(reply, CommitOutcome::Unknown(error));
                }
                return Err(error);
            }
            self.shared.counters.group(accepted.len(), bytes, begun.elapsed());
        }
        for reply in accepted {
            answer(reply, CommitOutcome::Committed);
        }
        // Only now: one that tried again on the snapshot before this group would meet the same conflict.
        Counters::add(&self.shared.counters.conflicts, conflicting.len());
        for reply in conflicting {
            answer(reply, CommitOutcome::Conflict);
        }
        Ok(())
    }

    /// Makes a group durable, then visible. `notes` are its writes in the order of their commits.
    fn write(&mut self, sequence: u64, writes: Writes, notes: &[Note]) -> Result<(), StoreError> {
        self.engine.apply(sequence, writes)?;
        for (print, how, key, value) in notes {
            self.shared.remembered.note(sequence, *print, key, value.as_ref(), *how);
        }
        let snapshot = self.engine.snapshot()?;
        self.sequence = sequence;
        if self.config.high_water_interval.is_zero() {
            self.raise_mark()?;
        }
        self.shared.publish(Some(Arc::new(Published { sequence, snapshot })));
        Ok(())
    }
}

/// The writes of a group as one: in ascending order of their keys, and of each key the last.
fn merge(mut parts: Vec<Writes>) -> Writes {
    if parts.len() == 1 {
        return parts.pop().unwrap_or_default();
    }
    let mut writes = Vec::with_capacity(parts.iter().map(Vec::len).sum());
    parts.into_iter().for_each(|part| writes.extend(part));
    // Stable: of one key's writes the latest stays behind the others. Parts are in order already, which the sort makes use of.
    writes.sort_by(|(a, _), (b, _)| a.cmp(b));
    writes.dedup_by(|later, kept| {
        let same = later.0 == kept.0;
        if same {
            std::mem::swap(&mut later.1, &mut kept.1);
        }
        same
    });
    writes
}

fn answer(reply: Reply, outcome: CommitOutcome) {
    // A caller that has gone does not want to know.
    let _gone = reply.send(outcome);
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    /// As the last write of each key in an ordered map.
    #[test]
    fn of_each_key_the_last_write_is_left() {
        let part = |rows: &[(&'static str, Option<&'static str>)]| -> Writes {
            let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
            rows.iter().map(|(key, value)| (bytes(key), value.map(bytes))).collect()
        };
        for (parts, expect) in [
            (vec![part(&[("b", Some("1"))])], part(&[("b", Some("1"))])),
            (vec![part(&[("b", Some("1"))]), part(&[("a", None)])], part(&[("a", None), ("b", Some("1"))])),
            (
                vec![part(&[("a", Some("1")), ("b", Some("1"))]), part(&[("a", None)]), part(&[("a", Some("3"))])],
                part(&[("a", Some("3")), ("b", Some("1"))]),
            ),
            (vec![part(&[("a", Some("1"))]), part(&[("a", Some("2")), ("c", None)]), part(&[("a", None)])], {
                part(&[("a", None), ("c", None)])
            }),
        ] {
            assert_eq!(merge(parts.clone()), expect, "{parts:?}");
        }
    }
}

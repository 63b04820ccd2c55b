//! The fjall engine: a log-structured merge tree with a journal. The embedded default, for its cheap durable appends.
//!
//! Two properties of fjall shape this file (found in its source):
//! - A background flush or compaction takes a sequence number and makes everything below it visible to new snapshots, also a batch that
//!   is just being inserted row by row. A snapshot is therefore taken between batches only, by the writer, and shared.
//! - Recovery stops reading a journal file at the first entry that makes no sense, and goes on with the next file. A batch lost that way
//!   leaves no error. So each batch also writes its sequence into one slot of a ring, in the *same* keyspace as its data, so that both
//!   share every journal record and every flush; a hole in the ring is a lost batch.

use std::path::Path;

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode, Readable, Slice};

use super::{Engine, Page, Snapshot, Writes};
use crate::embedded::WriterConfig;
use crate::{Direction, KeyRange, StoreError};

/// First byte of the ring's keys, then the slot in 4 bytes. The value is the sequence in 8 bytes, all big-endian.
const RING: u8 = 0;
/// First byte of the rows' keys, then the key.
const ROW: u8 = 1;
/// Slots of the ring. A batch takes at least 150 bytes of memtable, and fjall holds writes back at four memtables that wait for their
/// flush: with 8 MiB each, fewer batches than this are ever in the journals alone.
const RING_SLOTS: u64 = 1 << 18;
/// fjall refuses less.
const JOURNAL_BYTES_MIN: u64 = 64 << 20;

/// Sizes of the fjall engine. The defaults suit a small machine: about 130 MB of memory, a reopen within a second.
#[derive(Debug, Clone)]
pub struct FjallConfig {
    /// Memory for blocks that were read, in bytes. Default 64 MiB.
    pub cache_bytes: u64,
    /// Memory that collects writes before they are flushed to a table, in bytes. Default 8 MiB. Fixed when the store is created.
    pub memtable_bytes: u64,
    /// Journals on disk before older ones are forced out, in bytes; they are read again at a start after a crash. At least and by
    /// default 64 MiB and 96 MiB.
    pub journal_bytes_max: u64,
    /// Threads that flush and compact. Default 1: with more, fjall's first one does nothing but hand itself compactions, as fast as a
    /// processor can, while another one compacts.
    pub worker_threads: usize,
    /// The writer in front of the engine.
    pub writer: WriterConfig,
}

impl Default for FjallConfig {
    fn default() -> Self {
        Self {
            cache_bytes: 64 << 20,
            memtable_bytes: 8 << 20,
            journal_bytes_max: 96 << 20,
            worker_threads: 1,
            writer: WriterConfig::default(),
        }
    }
}

/// See the module.
pub(crate) struct FjallEngine {
    database: Database,
    keyspace: Keyspace,
    /// Where keys are put together.
    key: Vec<u8>,
}

impl FjallEngine {
    /// Opens or creates the database in the folder `path`.
    pub(crate) fn open(path: &Path, config: &FjallConfig) -> Result<Self, StoreError> {
        if config.journal_bytes_max < JOURNAL_BYTES_MIN {
            return Err(StoreError::Config(format!(
                "the fjall journals' limit is {} bytes, the least is {JOURNAL_BYTES_MIN}",
                config.journal_bytes_max
            )));
        }
        if config.worker_threads == 0 {
            return Err(StoreError::Config("fjall needs at least one worker thread".into()));
        }
        let database = Database::builder(path)
            .cache_size(config.cache_bytes)
            .max_journaling_size(config.journal_bytes_max)
            .worker_threads(config.worker_threads)
            // Every batch names its own durability.
            .manual_journal_persist(true)
            .open()
            .map_err(|error| opening(path, error))?;
        let keyspace = database
            .keyspace("rows", || KeyspaceCreateOptions::default().max_memtable_size(config.memtable_bytes))
            .map_err(|error| opening(path, error))?;
        Ok(Self { database, keyspace, key: Vec::with_capacity(64) })
    }

    /// The sequences in the ring, ascending.
    fn ring(&self) -> Result<Vec<u64>, StoreError> {
        let mut sequences = Vec::new();
        for row in self.keyspace.prefix([RING]) {
            let (_, value) = row.into_inner().map_err(reading)?;
            let Ok(sequence) = value.as_ref().try_into() else {
                return Err(StoreError::Damaged("a slot of the commit sequence cannot be read".into()));
            };
            sequences.push(u64::from_be_bytes(sequence));
        }
        sequences.sort_unstable();
        Ok(sequences)
    }
}

fn ring_key(sequence: u64) -> [u8; 5] {
    let slot = u32::try_from(sequence % RING_SLOTS).unwrap_or_default().to_be_bytes();
    [RING, slot[0], slot[1], slot[2], slot[3]]
}

fn row_key(key: &[u8]) -> Vec<u8> {
    let mut prefixed = Vec::with_capacity(1 + key.len());
    prefixed.push(ROW);
    prefixed.extend_from_slice(key);
    prefixed
}

impl Engine for FjallEngine {
    type Snapshot = FjallSnapshot;

    fn snapshot(&self) -> Result<FjallSnapshot, StoreError> {
        Ok(FjallSnapshot { snapshot: self.database.snapshot(), keyspace: self.keyspace.clone() })
    }

    fn apply(&mut self, sequence: u64, writes: Writes) -> Result<(), StoreError> {
        let batch = OwnedWriteBatch::with_capacity(self.database.clone(), writes.len() + 1);
        let mut batch = batch.durability(Some(PersistMode::SyncData));
        for (key, value) in &writes {
            self.key.clear();
            self.key.push(ROW);
            self.key.extend_from_slice(key);
            let key = Slice::from(self.key.as_slice());
            match value {
                Some(value) => batch.insert(&self.keyspace, key, Slice::from(value.as_ref())),
                None => batch.remove(&self.keyspace, key),
            }
        }
        batch.insert(&self.keyspace, ring_key(sequence), sequence.to_be_bytes());
        batch.commit().map_err(reading)
    }

    fn recovered(&self, baseline: u64) -> Result<u64, StoreError> {
        let sequences = self.ring()?;
        check_ring(&sequences, RING_SLOTS, baseline)?;
        Ok(sequences.last().copied().unwrap_or(0))
    }
}

/// Whether a ring's sequences, ascending, are those of its last turn, apart from what may be missing up to `baseline`.
fn check_ring(sequences: &[u64], slots: u64, baseline: u64) -> Result<(), StoreError> {
    let newest = sequences.last().copied().unwrap_or(0);
    let known = newest.saturating_sub(slots).max(baseline);
    let first = sequences.partition_point(|sequence| *sequence <= known);
    for (found, expected) in sequences[first..].iter().zip(known.saturating_add(1)..) {
        if *found != expected {
            return Err(StoreError::Damaged(format!(
                "commits {expected} to {} are missing, but later ones are there",
                found - 1
            )));
        }
    }
    Ok(())
}

/// A fjall snapshot with the keyspace that it reads.
pub(crate) struct FjallSnapshot {
    snapshot: fjall::Snapshot,
    keyspace: Keyspace,
}

impl FjallSnapshot {
    fn collect(rows: impl Iterator<Item = fjall::Guard>, limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let mut page = Page::new(limit);
        for row in rows.take(limit) {
            let (key, value) = row.into_inner().map_err(reading)?;
            // Copied: a slice of fjall's would keep its whole block in memory.
            page.push(Bytes::copy_from_slice(key.get(1..).unwrap_or_default()), Bytes::copy_from_slice(&value))?;
        }
        Ok(page.rows)
    }
}

impl Snapshot for FjallSnapshot {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let value = self.snapshot.get(&self.keyspace, row_key(key)).map_err(reading)?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(&self, range: &KeyRange, direction: Direction, limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let rows = self.snapshot.range(&self.keyspace, row_key(&range.start)..row_key(&range.end));
        match direction {
            Direction::Forward => Self::collect(rows, limit),
            Direction::Backward => Self::collect(rows.rev(), limit),
        }
    }
}

/// An error while opening: what cannot be decoded there is damage.
fn opening(path: &Path, error: fjall::Error) -> StoreError {
    use std::io::ErrorKind;
    match error {
        fjall::Error::Locked => StoreError::Unavailable(format!("another process has {} open", path.display())),
        fjall::Error::Io(ref io)
            if matches!(io.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof | ErrorKind::InvalidData) =>
        {
            StoreError::Damaged(format!("{}: {io}", path.display()))
        }
        error => reading(error),
    }
}

fn reading(error: fjall::Error) -> StoreError {
    use fjall::Error;
    match error {
        Error::JournalRecovery(_)
        | Error::InvalidVersion(_)
        | Error::Decompress(_)
        | Error::InvalidTrailer
        | Error::InvalidTag(_)
        | Error::Unrecoverable => StoreError::Damaged(error.to_string()),
        Error::Storage(ref inner) if std::error::Error::source(inner).is_none() => {
            // Everything but an I/O error is something that could not be decoded.
            StoreError::Damaged(error.to_string())
        }
        error => StoreError::Engine(Box::new(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_in_the_ring_is_damage() {
        for (sequences, baseline, whole) in [
            ([].as_slice(), 0, true),
            (&[1], 0, true),
            (&[1, 2, 3], 0, true),
            (&[1, 3], 0, false),
            (&[2, 3], 0, false),
            // After more than one turn of 4 slots.
            (&[6, 7, 8, 9], 0, true),
            (&[5, 6, 7, 9], 0, false), // The slot of 8 holds nothing newer than 4: never written, or lost with 8.
            (&[4, 6, 7, 9], 0, false),
            // What was accepted as lost.
            (&[1, 3], 3, true),
            (&[1, 3, 4], 3, true),
            (&[1, 3, 5], 3, false),
            (&[1, 3], u64::MAX, true),
        ] {
            assert_eq!(check_ring(sequences, 4, baseline).is_ok(), whole, "{sequences:?} from {baseline}");
        }
    }

    /// The sequence is stored with the rows of its batch, and found again.
    #[test]
    fn a_lost_batch_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let write = |sequences: &[u64]| {
            let mut engine = FjallEngine::open(folder.path(), &FjallConfig::default()).unwrap();
            for sequence in sequences {
                let row = (Bytes::from(sequence.to_be_bytes().to_vec()), Some(Bytes::from_static(b"row")));
                engine.apply(*sequence, Writes::from([row])).unwrap();
            }
            engine.recovered(0)
        };
        assert_eq!(write(&[1, 2, 3]).unwrap(), 3);
        assert_eq!(write(&[4]).unwrap(), 4);
        let Err(StoreError::Damaged(message)) = write(&[6, 7]) else { panic!("a hole went unnoticed") };
        assert_eq!(message, "commits 5 to 5 are missing, but later ones are there");
    }
}

//! The redb engine: a copy-on-write B-tree in one file. Slower durable appends than fjall, and the simpler machine: each commit swaps
//! one checksummed root, so what is on disk is always one whole commit and its sequence tells which.

use std::path::Path;

use bytes::Bytes;
use redb::{Database, DatabaseError, ReadOnlyTable, ReadableDatabase, StorageError, TableDefinition};

use super::{Engine, Page, Snapshot, Writes};
use crate::embedded::WriterConfig;
use crate::{Direction, KeyRange, StoreError};

const ROWS: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("rows");
/// One row: the commit sequence.
const SEQUENCE: TableDefinition<'static, (), u64> = TableDefinition::new("sequence");

/// Sizes of the redb engine.
#[derive(Debug, Clone)]
pub struct RedbConfig {
    /// Memory for pages, in bytes. Default 64 MiB.
    pub cache_bytes: usize,
    /// Makes a reopen after a crash immediate, for slower commits. Off by default: then the reopen reads the whole file.
    pub quick_repair: bool,
    /// The writer in front of the engine.
    pub writer: WriterConfig,
}

impl Default for RedbConfig {
    fn default() -> Self {
        Self { cache_bytes: 64 << 20, quick_repair: false, writer: WriterConfig::default() }
    }
}

/// See the module.
pub(crate) struct RedbEngine {
    database: Database,
    quick_repair: bool,
}

impl RedbEngine {
    /// Opens or creates the database in the file `path`.
    pub(crate) fn open(path: &Path, config: &RedbConfig) -> Result<Self, StoreError> {
        let database = Database::builder()
            .set_cache_size(config.cache_bytes)
            .set_repair_callback(|session| {
                tracing::info!(progress = session.progress(), "reading the whole store after a crash");
            })
            .create(path)
            .map_err(|error| match error {
                DatabaseError::DatabaseAlreadyOpen => {
                    StoreError::Unavailable(format!("another process has {} open", path.display()))
                }
                DatabaseError::RepairAborted | DatabaseError::UpgradeRequired(_) => {
                    StoreError::Damaged(format!("{}: {error}", path.display()))
                }
                // redb finds a file that does not begin like one of its own "invalid data".
                DatabaseError::Storage(StorageError::Io(ref io))
                    if matches!(io.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof) =>
                {
                    StoreError::Damaged(format!("{}: {io}", path.display()))
                }
                error => engine(error),
            })?;
        let engine = Self { database, quick_repair: config.quick_repair };
        engine.create_tables()?;
        Ok(engine)
    }

    /// Makes the tables exist, so that a snapshot can open them.
    fn create_tables(&self) -> Result<(), StoreError> {
        let transaction = self.database.begin_write().map_err(engine)?;
        transaction.open_table(ROWS).map_err(engine)?;
        transaction.open_table(SEQUENCE).map_err(engine)?;
        transaction.commit().map_err(engine)
    }
}

impl Engine for RedbEngine {
    type Snapshot = RedbSnapshot;

    fn snapshot(&self) -> Result<RedbSnapshot, StoreError> {
        let transaction = self.database.begin_read().map_err(engine)?;
        Ok(RedbSnapshot { rows: transaction.open_table(ROWS).map_err(engine)? })
    }

    fn apply(&mut self, sequence: u64, writes: Writes) -> Result<(), StoreError> {
        let mut transaction = self.database.begin_write().map_err(engine)?;
        transaction.set_quick_repair(self.quick_repair);
        {
            let mut rows = transaction.open_table(ROWS).map_err(engine)?;
            for (key, value) in writes {
                match value {
                    Some(value) => drop(rows.insert(key.as_ref(), value.as_ref()).map_err(engine)?),
                    None => drop(rows.remove(key.as_ref()).map_err(engine)?),
                }
            }
            transaction.open_table(SEQUENCE).map_err(engine)?.insert((), sequence).map_err(engine)?;
        }
        transaction.commit().map_err(engine)
    }

    fn recovered(&self, _baseline: u64) -> Result<u64, StoreError> {
        let transaction = self.database.begin_read().map_err(engine)?;
        let sequence = transaction.open_table(SEQUENCE).map_err(engine)?.get(()).map_err(engine)?;
        Ok(sequence.map_or(0, |sequence| sequence.value()))
    }
}

/// A redb read transaction's table of rows.
pub(crate) struct RedbSnapshot {
    rows: ReadOnlyTable<&'static [u8], &'static [u8]>,
}

impl Snapshot for RedbSnapshot {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let value = self.rows.get(key).map_err(engine)?;
        Ok(value.map(|value| Bytes::copy_from_slice(value.value())))
    }

    fn scan(&self, range: &KeyRange, direction: Direction, limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let mut rows = self.rows.range(range.start.as_ref()..range.end.as_ref()).map_err(engine)?;
        let mut page = Page::new(limit);
        while !page.is_full() {
            let row = match direction {
                Direction::Forward => rows.next(),
                Direction::Backward => rows.next_back(),
            };
            let Some(row) = row else { break };
            let (key, value) = row.map_err(engine)?;
            page.push(Bytes::copy_from_slice(key.value()), Bytes::copy_from_slice(value.value()))?;
        }
        Ok(page.rows)
    }
}

fn engine(error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        error @ (redb::Error::Corrupted(_) | redb::Error::TableTypeMismatch { .. }) => {
            StoreError::Damaged(error.to_string())
        }
        error => StoreError::Engine(Box::new(error)),
    }
}

//! The memory engine: versions of rows in an ordered map. Nothing survives the process; for tests and for trying things out.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;

use super::{Engine, Page, Snapshot, Writes};
use crate::{Direction, KeyRange, StoreError};

/// See the module.
#[derive(Default)]
pub(crate) struct MemoryEngine {
    shared: Arc<RwLock<Versions>>,
    latest: u64,
}

#[derive(Default)]
struct Versions {
    /// Per key its versions, oldest first; `None` is a removal.
    rows: BTreeMap<Bytes, Vec<(u64, Option<Bytes>)>>,
    /// How many snapshots look at each sequence.
    snapshots: BTreeMap<u64, usize>,
    /// Keys whose older versions can go once no snapshot is older than the sequence.
    superseded: VecDeque<(u64, Bytes)>,
}

impl Versions {
    /// Forgets every version that no snapshot can see any more.
    fn prune(&mut self, latest: u64) {
        let oldest = self.snapshots.keys().next().copied().unwrap_or(latest);
        while self.superseded.front().is_some_and(|(sequence, _)| *sequence <= oldest) {
            let Some((_, key)) = self.superseded.pop_front() else { return };
            let Some(versions) = self.rows.get_mut(&key) else { continue };
            let visible = versions.iter().rposition(|(sequence, _)| *sequence <= oldest).unwrap_or(0);
            versions.drain(..visible);
            if let [(sequence, None)] = versions.as_slice()
                && *sequence <= oldest
            {
                self.rows.remove(&key);
            }
        }
    }
}

fn copy(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn read(shared: &RwLock<Versions>) -> RwLockReadGuard<'_, Versions> {
    shared.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(shared: &RwLock<Versions>) -> RwLockWriteGuard<'_, Versions> {
    shared.write().unwrap_or_else(PoisonError::into_inner)
}

impl Engine for MemoryEngine {
    type Snapshot = MemorySnapshot;

    fn snapshot(&self) -> Result<MemorySnapshot, StoreError> {
        *write(&self.shared).snapshots.entry(self.latest).or_default() += 1;
        Ok(MemorySnapshot { shared: Arc::clone(&self.shared), sequence: self.latest })
    }

    fn apply(&mut self, sequence: u64, writes: Writes) -> Result<(), StoreError> {
        let mut versions = write(&self.shared);
        for (key, value) in writes {
            // Copied: a caller may have cut many rows from one buffer, which the longest-lived of them would keep.
            let (key, value) = (copy(&key), value.as_ref().map(copy));
            versions.rows.entry(key.clone()).or_default().push((sequence, value));
            versions.superseded.push_back((sequence, key));
        }
        self.latest = sequence;
        versions.prune(sequence);
        Ok(())
    }

    fn recovered(&self, _baseline: u64) -> Result<u64, StoreError> {
        Ok(self.latest)
    }
}

/// A view of the rows as of one sequence.
pub(crate) struct MemorySnapshot {
    shared: Arc<RwLock<Versions>>,
    sequence: u64,
}

impl MemorySnapshot {
    fn visible<'a>(&self, versions: &'a [(u64, Option<Bytes>)]) -> Option<&'a Bytes> {
        let (_, value) = versions.iter().rev().find(|(sequence, _)| *sequence <= self.sequence)?;
        value.as_ref()
    }

    fn collect<'a>(
        &self,
        rows: impl Iterator<Item = (&'a Bytes, &'a Vec<(u64, Option<Bytes>)>)>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let mut page = Page::new(limit);
        for (key, versions) in rows {
            if page.is_full() {
                break;
            }
            if let Some(value) = self.visible(versions) {
                page.push(key.clone(), value.clone())?;
            }
        }
        Ok(page.rows)
    }
}

impl Snapshot for MemorySnapshot {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(read(&self.shared).rows.get(key).and_then(|versions| self.visible(versions)).cloned())
    }

    fn scan(&self, range: &KeyRange, direction: Direction, limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let versions = read(&self.shared);
        let rows = versions.rows.range(range.start.clone()..range.end.clone());
        match direction {
            Direction::Forward => self.collect(rows, limit),
            Direction::Backward => self.collect(rows.rev(), limit),
        }
    }
}

impl Drop for MemorySnapshot {
    fn drop(&mut self) {
        let mut versions = write(&self.shared);
        if let Some(count) = versions.snapshots.get_mut(&self.sequence) {
            *count -= 1;
            if *count == 0 {
                versions.snapshots.remove(&self.sequence);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writes(rows: &[(&str, Option<&str>)]) -> Writes {
        rows.iter()
            .map(|(key, value)| {
                (Bytes::copy_from_slice(key.as_bytes()), value.map(|value| Bytes::copy_from_slice(value.as_bytes())))
            })
            .collect()
    }

    /// A snapshot keeps the versions it sees, and nothing keeps a version that no snapshot sees.
    #[test]
    fn versions_live_as_long_as_a_snapshot_sees_them() {
        let mut engine = MemoryEngine::default();
        engine.apply(1, writes(&[("a", Some("1")), ("b", Some("1"))])).unwrap();
        let old = engine.snapshot().unwrap();
        engine.apply(2, writes(&[("a", Some("2")), ("b", None)])).unwrap();
        let new = engine.snapshot().unwrap();
        assert_eq!(old.get(b"a").unwrap().unwrap(), "1");
        assert_eq!(old.get(b"b").unwrap().unwrap(), "1");
        assert_eq!(new.get(b"a").unwrap().unwrap(), "2");
        assert_eq!(new.get(b"b").unwrap(), None);
        drop((old, new));
        engine.apply(3, writes(&[("c", Some("3"))])).unwrap();
        let versions = read(&engine.shared);
        assert_eq!(versions.rows.values().map(Vec::len).collect::<Vec<_>>(), [1, 1], "a and c, one version each");
        assert!(versions.superseded.is_empty() && versions.snapshots.is_empty());
    }
}

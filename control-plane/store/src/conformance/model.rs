//! Random interleavings of transactions, checked step by step against a slow obvious store: a list of whole maps, one per commit.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{BlindWrites, Subject};
use crate::{CommitOutcome, Direction, KeyRange, Transaction};

/// How many transactions may be open at once.
pub const SLOTS: usize = 4;

/// One step. Keys are small numbers, so that transactions meet.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// Begins a transaction in a slot, rolling back the one that is there.
    Begin {
        /// Which slot, modulo [`SLOTS`].
        slot: usize,
    },
    /// Reads a key and compares.
    Get {
        /// Which transaction.
        slot: usize,
        /// Which key.
        key: u8,
    },
    /// Scans and compares.
    Scan {
        /// Which transaction.
        slot: usize,
        /// First key inside.
        start: u8,
        /// First key outside.
        end: u8,
        /// Which end to begin at.
        direction: Direction,
        /// Most rows.
        limit: u32,
    },
    /// Writes a key.
    Put {
        /// Which transaction.
        slot: usize,
        /// Which key.
        key: u8,
        /// What to write.
        value: u16,
    },
    /// Removes a key.
    Delete {
        /// Which transaction.
        slot: usize,
        /// Which key.
        key: u8,
    },
    /// Commits and compares the outcome.
    Commit {
        /// Which transaction.
        slot: usize,
    },
}

type Rows = BTreeMap<u8, u16>;

/// A transaction of the model beside that of the store.
struct Open {
    transaction: Box<dyn Transaction>,
    /// How many commits its snapshot holds.
    begun: usize,
    /// The snapshot with its own writes.
    rows: Rows,
    /// Keys read from the snapshot.
    reads: BTreeSet<u8>,
    writes: BTreeMap<u8, Option<u16>>,
}

/// The store, slowly.
struct Model {
    rows: Rows,
    /// Per commit the keys that it wrote.
    commits: Vec<BTreeSet<u8>>,
}

impl Model {
    /// Whether a commit after `begun` wrote one of `keys`.
    fn changed(&self, begun: usize, keys: impl Fn(&u8) -> bool) -> bool {
        self.commits[begun..].iter().flatten().any(keys)
    }
}

/// Runs the steps under `prefix`, where the store must hold nothing.
///
/// # Panics
/// When the store and the model differ.
pub async fn check(subject: &Subject, prefix: &[u8], steps: &[Step]) {
    let key = |key: u8| Bytes::from([prefix, &[key]].concat());
    let value = |value: u16| Bytes::copy_from_slice(&value.to_be_bytes());
    let mut model = Model { rows: Rows::new(), commits: Vec::new() };
    let mut open: [Option<Open>; SLOTS] = Default::default();
    for (at, step) in steps.iter().copied().enumerate() {
        match step {
            Step::Begin { slot } => {
                open[slot % SLOTS] = Some(Open {
                    transaction: subject.begin().await,
                    begun: model.commits.len(),
                    rows: model.rows.clone(),
                    reads: BTreeSet::new(),
                    writes: BTreeMap::new(),
                });
            }
            Step::Get { slot, key: read } => {
                let Some(open) = &mut open[slot % SLOTS] else { continue };
                let found = open.transaction.get(&key(read)).await.expect("get");
                assert_eq!(found, open.rows.get(&read).copied().map(value), "step {at}: {step:?}");
                if !open.writes.contains_key(&read) {
                    open.reads.insert(read);
                }
            }
            Step::Scan { slot, start, end, direction, limit } => {
                let Some(open) = &mut open[slot % SLOTS] else { continue };
                let range = KeyRange { start: key(start), end: key(end) };
                let found = open.transaction.scan(range, direction, limit).await.expect("scan");
                let mut expect: Vec<_> = open
                    .rows
                    .iter()
                    .filter(|(key, _)| (start..end).contains(key))
                    .map(|(k, v)| (key(*k), value(*v)))
                    .collect();
                if direction == Direction::Backward {
                    expect.reverse();
                }
                expect.truncate(limit as usize);
                assert_eq!(found, expect, "step {at}: {step:?}");
            }
            Step::Put { slot, key: written, value: number } => {
                let Some(open) = &mut open[slot % SLOTS] else { continue };
                open.transaction.put(key(written), value(number));
                open.rows.insert(written, number);
                open.writes.insert(written, Some(number));
            }
            Step::Delete { slot, key: removed } => {
                let Some(open) = &mut open[slot % SLOTS] else { continue };
                open.transaction.delete(key(removed));
                open.rows.remove(&removed);
                open.writes.insert(removed, None);
            }
            Step::Commit { slot } => {
                let Some(open) = open[slot % SLOTS].take() else { continue };
                let conflict = !open.writes.is_empty() && model.changed(open.begun, |key| open.reads.contains(key));
                let overwrites = model.changed(open.begun, |key| open.writes.contains_key(key));
                match open.transaction.commit().await {
                    CommitOutcome::Committed => {
                        assert!(!conflict, "step {at}: committed over a change of {:?}", open.reads);
                        for (key, value) in &open.writes {
                            match value {
                                Some(value) => drop(model.rows.insert(*key, *value)),
                                None => drop(model.rows.remove(key)),
                            }
                        }
                        if !open.writes.is_empty() {
                            model.commits.push(open.writes.keys().copied().collect());
                        }
                    }
                    CommitOutcome::Conflict => {
                        let allowed = subject.blind_writes == BlindWrites::MayConflict && overwrites;
                        assert!(conflict || allowed, "step {at}: a conflict, but nothing has changed");
                    }
                    other => panic!("step {at}: {other:?}"),
                }
            }
        }
    }
}

//! Which keys the recent commits wrote, and when: what a read set is validated against. Pure.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};

use rustc_hash::{FxHashMap, FxHashSet};

/// Memory of one entry: two words in a map that may be half empty, two in a queue that may be.
const ENTRY_BYTES: usize = 64;

/// A key by 64 bits under a seed that nobody knows. Two keys that share one, of which nobody can choose a pair, cost a transaction that
/// is run again without need, and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Fingerprint(u64);

impl Fingerprint {
    /// Which of so many parts it belongs to.
    pub(super) fn part(self, parts: usize) -> usize {
        // Maps use the lowest bits and the highest.
        usize::try_from(self.0 >> 24 & 0xffff).unwrap_or_default() % parts
    }
}

/// Makes the fingerprints of one store.
#[derive(Debug, Default)]
pub(super) struct Fingerprints(RandomState);

impl Fingerprints {
    pub(super) fn of(&self, key: &[u8]) -> Fingerprint {
        Fingerprint(self.0.hash_one(key))
    }
}

/// Keys that a transaction has read.
pub(super) type Reads = FxHashSet<Fingerprint>;

/// Per key the last commit that wrote it, as far back as the memory reaches.
pub(super) struct RecentCommits {
    last: FxHashMap<Fingerprint, u64>,
    /// The same entries in the order they were made, to forget the oldest first.
    order: VecDeque<(u64, Fingerprint)>,
    entries_max: usize,
    /// Entries up to this commit may have been forgotten.
    floor: u64,
}

impl RecentCommits {
    /// Knows nothing of the commits up to `floor`, which any transaction from now on has seen.
    pub(super) fn new(floor: u64, bytes_max: usize) -> Self {
        let entries_max = bytes_max / ENTRY_BYTES;
        Self { last: FxHashMap::default(), order: VecDeque::new(), entries_max, floor }
    }

    /// Whether a transaction that has seen the commits up to `sequence` may commit after reading `reads`.
    pub(super) fn allows(&self, sequence: u64, reads: &Reads) -> bool {
        // A snapshot older than the floor: what it read may have been overwritten by a commit that is forgotten here.
        reads.is_empty()
            || (sequence >= self.floor
                && reads.iter().all(|key| self.last.get(key).is_none_or(|written| *written <= sequence)))
    }

    /// Notes that commit `sequence` writes `key`. Sequences never fall.
    pub(super) fn note(&mut self, sequence: u64, key: Fingerprint) {
        if self.last.insert(key, sequence) == Some(sequence) {
            return;
        }
        self.order.push_back((sequence, key));
        while self.order.len() > self.entries_max {
            let Some((old, key)) = self.order.pop_front() else { return };
            // A newer write of the same key has an entry of its own, and then nothing is forgotten.
            if self.last.get(&key) == Some(&old) {
                self.last.remove(&key);
                self.floor = old;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The seed changes from run to run, and these tests hold under any.
    fn prints() -> (Fingerprints, impl Fn(&Fingerprints, &[&str]) -> Reads) {
        (Fingerprints::default(), |prints, keys| keys.iter().map(|key| prints.of(key.as_bytes())).collect())
    }

    #[test]
    fn a_key_written_after_the_snapshot_conflicts() {
        let (prints, reads) = prints();
        let mut recent = RecentCommits::new(5, 1 << 20);
        recent.note(6, prints.of(b"a"));
        recent.note(7, prints.of(b"b"));
        for (sequence, keys, allowed) in [
            (5, ["c"].as_slice(), true),
            (5, &["a"], false),
            (6, &["a"], true),
            (6, &["a", "b"], false),
            (7, &["a", "b"], true),
            (5, &[], true),
        ] {
            assert_eq!(recent.allows(sequence, &reads(&prints, keys)), allowed, "{sequence} {keys:?}");
        }
    }

    #[test]
    fn a_snapshot_older_than_the_memory_conflicts_unless_it_read_nothing() {
        let (prints, reads) = prints();
        let mut recent = RecentCommits::new(0, 4 * ENTRY_BYTES);
        for sequence in 1..=10_u64 {
            recent.note(sequence, prints.of(&[b'a' + u8::try_from(sequence).unwrap()]));
        }
        assert_eq!(recent.order.len(), 4);
        assert_eq!(recent.last.len(), 4);
        assert!(!recent.allows(5, &reads(&prints, &["z"])), "commits up to 6 are forgotten");
        assert!(recent.allows(6, &reads(&prints, &["z"])));
        assert!(recent.allows(0, &reads(&prints, &[])));
    }

    #[test]
    fn rewriting_one_key_forgets_nothing() {
        let (prints, reads) = prints();
        let mut recent = RecentCommits::new(0, 4 * ENTRY_BYTES);
        for sequence in 1..=10 {
            recent.note(sequence, prints.of(b"a"));
        }
        assert!(recent.allows(1, &reads(&prints, &["z"])));
        assert!(!recent.allows(9, &reads(&prints, &["a"])));
        assert!(recent.allows(10, &reads(&prints, &["a"])));
    }
}

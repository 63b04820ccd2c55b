//! Which keys the recent commits wrote, and when: what a read set is validated against. Pure.

use std::collections::{HashMap, HashSet, VecDeque};

use bytes::Bytes;

/// Memory of one entry besides its key's bytes: two map slots, two handles, two sequences.
const ENTRY_BYTES: usize = 128;

/// Per key the last commit that wrote it, as far back as the memory reaches.
pub(super) struct RecentCommits {
    last: HashMap<Bytes, u64>,
    /// The same entries in the order they were made, to forget the oldest first.
    order: VecDeque<(u64, Bytes)>,
    bytes: usize,
    bytes_max: usize,
    /// Entries up to this commit may have been forgotten.
    floor: u64,
}

impl RecentCommits {
    /// Knows nothing of the commits up to `floor`, which any transaction from now on has seen.
    pub(super) fn new(floor: u64, bytes_max: usize) -> Self {
        Self { last: HashMap::new(), order: VecDeque::new(), bytes: 0, bytes_max, floor }
    }

    /// Whether a transaction that has seen the commits up to `sequence` may commit after reading `reads`.
    pub(super) fn allows(&self, sequence: u64, reads: &HashSet<Bytes>) -> bool {
        // A snapshot older than the floor: what it read may have been overwritten by a commit that is forgotten here.
        reads.is_empty()
            || (sequence >= self.floor
                && reads.iter().all(|key| self.last.get(key).is_none_or(|written| *written <= sequence)))
    }

    /// Notes that commit `sequence` writes `key`. Sequences never fall.
    pub(super) fn note(&mut self, sequence: u64, key: &Bytes) {
        if self.last.insert(key.clone(), sequence) == Some(sequence) {
            return;
        }
        self.order.push_back((sequence, key.clone()));
        self.bytes += key.len() + ENTRY_BYTES;
        while self.bytes > self.bytes_max {
            let Some((old, key)) = self.order.pop_front() else { return };
            self.bytes -= key.len() + ENTRY_BYTES;
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

    fn reads(keys: &[&'static str]) -> HashSet<Bytes> {
        keys.iter().map(|key| Bytes::from_static(key.as_bytes())).collect()
    }

    #[test]
    fn a_key_written_after_the_snapshot_conflicts() {
        let mut recent = RecentCommits::new(5, 1 << 20);
        recent.note(6, &Bytes::from_static(b"a"));
        recent.note(7, &Bytes::from_static(b"b"));
        for (sequence, keys, allowed) in [
            (5, ["c"].as_slice(), true),
            (5, &["a"], false),
            (6, &["a"], true),
            (6, &["a", "b"], false),
            (7, &["a", "b"], true),
            (5, &[], true),
        ] {
            assert_eq!(recent.allows(sequence, &reads(keys)), allowed, "{sequence} {keys:?}");
        }
    }

    #[test]
    fn a_snapshot_older_than_the_memory_conflicts_unless_it_read_nothing() {
        let mut recent = RecentCommits::new(0, 4 * (1 + ENTRY_BYTES));
        for sequence in 1..=10_u64 {
            recent.note(sequence, &Bytes::copy_from_slice(&[b'a' + u8::try_from(sequence).unwrap()]));
        }
        assert_eq!(recent.order.len(), 4);
        assert_eq!(recent.last.len(), 4);
        assert!(!recent.allows(5, &reads(&["z"])), "commits up to 6 are forgotten");
        assert!(recent.allows(6, &reads(&["z"])));
        assert!(recent.allows(0, &reads(&[])));
    }

    #[test]
    fn rewriting_one_key_forgets_nothing() {
        let mut recent = RecentCommits::new(0, 4 * (1 + ENTRY_BYTES));
        for sequence in 1..=10 {
            recent.note(sequence, &Bytes::from_static(b"a"));
        }
        assert!(recent.allows(1, &reads(&["z"])));
        assert!(!recent.allows(9, &reads(&["a"])));
        assert!(recent.allows(10, &reads(&["a"])));
    }
}

//! Rows that transactions have read and rewritten lately, with their newest value. What counts (a channel's head, a producer's row) is
//! read and rewritten with every append, and to look for it in all of an engine's tables costs more than the rest of the append.
//!
//! **Invariant:** an entry is what the newest commit that wrote its key left, with that commit's sequence. The writer enters what a commit
//! wrote before a snapshot that holds the commit is published, so whoever's snapshot holds an entry's commit reads from the entry what the
//! snapshot would say; who began earlier reads the snapshot.

use std::collections::hash_map::Entry;
use std::sync::{PoisonError, RwLock};

use bytes::Bytes;
use rustc_hash::FxHashMap;

use super::recent::Fingerprint;

/// Parts with a lock of their own, so that readers do not wait while the writer enters a large group.
const PARTS: usize = 16;
/// Larger rows, key and value together, are not remembered.
const ROW_BYTES_MAX: usize = 1 << 10;
/// Memory of a row besides its bytes: its place in a map that may be half empty, two allocations.
const ENTRY_BYTES: usize = 160;

/// Bounded in bytes: two generations, the older of which goes when the younger has taken half of the room. What is rewritten is young.
pub(super) struct Remembered {
    parts: [RwLock<Generations>; PARTS],
    /// Of one part's younger generation.
    young_bytes_max: usize,
}

#[derive(Default)]
struct Generations {
    /// A key is in one of the two at most.
    young: FxHashMap<Fingerprint, Row>,
    old: FxHashMap<Fingerprint, Row>,
    young_bytes: usize,
}

struct Row {
    /// Whole: what two keys with one fingerprint would mix up is not a transaction run again, but a value.
    key: Box<[u8]>,
    value: Option<Bytes>,
    sequence: u64,
}

impl Row {
    fn bytes(&self) -> usize {
        ENTRY_BYTES + self.key.len() + self.value.as_ref().map_or(0, Bytes::len)
    }
}

/// Whether the transaction that wrote a key had read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    Blindly,
    AfterReading,
}

impl Remembered {
    /// Takes about so many bytes of memory at most; none remembers nothing.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { parts: std::array::from_fn(|_| RwLock::default()), young_bytes_max: bytes_max / 2 / PARTS }
    }

    fn part(&self, print: Fingerprint) -> &RwLock<Generations> {
        &self.parts[print.part(PARTS)]
    }

    /// What a snapshot of this sequence says of a key, if that is remembered: a value, or that there is none.
    pub(super) fn get(&self, sequence: u64, print: Fingerprint, key: &[u8]) -> Option<Option<Bytes>> {
        let part = self.part(print).read().unwrap_or_else(PoisonError::into_inner);
        let row = part.young.get(&print).or_else(|| part.old.get(&print))?;
        (row.sequence <= sequence && *row.key == *key).then(|| row.value.clone())
    }

    /// Commit `sequence` wrote a key. Sequences never fall. To be called for every write, before a snapshot that holds it is published.
    pub(super) fn note(&self, sequence: u64, print: Fingerprint, key: &[u8], value: Option<&Bytes>, how: Written) {
        let mut part = self.part(print).write().unwrap_or_else(PoisonError::into_inner);
        part.note(self.young_bytes_max, print, key, how, || Row {
            key: key.into(),
            // A copy: the value is a piece of all that its transaction wrote.
            value: value.map(|value| Bytes::copy_from_slice(value)),
            sequence,
        });
    }
}

impl Generations {
    fn note(&mut self, bytes_max: usize, print: Fingerprint, key: &[u8], how: Written, row: impl FnOnce() -> Row) {
        let is_known = [&self.young, &self.old].iter().any(|rows| rows.get(&print).is_some_and(|row| *row.key == *key));
        if how == Written::Blindly && !is_known {
            return;
        }
        self.forget(print);
        let row = row();
        let bytes = row.bytes();
        if how == Written::Blindly || bytes > ENTRY_BYTES + ROW_BYTES_MAX || bytes > bytes_max {
            return;
        }
        if self.young_bytes + bytes > bytes_max {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += bytes;
        self.young.insert(print, row);
    }

    fn forget(&mut self, print: Fingerprint) {
        if let Entry::Occupied(row) = self.young.entry(print) {
            self.young_bytes -= row.remove().bytes();
        }
        self.old.remove(&print);
    }
}

#[cfg(test)]
mod tests {
    use super::super::recent::Fingerprints;
    use super::*;

    struct Bench {
        prints: Fingerprints,
        remembered: Remembered,
    }

    impl Bench {
        fn new(bytes_max: usize) -> Self {
            Self { prints: Fingerprints::default(), remembered: Remembered::new(bytes_max) }
        }

        fn note(&self, sequence: u64, key: &str, value: Option<&str>, how: Written) {
            let value = value.map(|value| Bytes::copy_from_slice(value.as_bytes()));
            let print = self.prints.of(key.as_bytes());
            self.remembered.note(sequence, print, key.as_bytes(), value.as_ref(), how);
        }

        fn check(&self, sequence: u64, key: &str, expect: Option<Option<&str>>) {
            let found = self.remembered.get(sequence, self.prints.of(key.as_bytes()), key.as_bytes());
            let found = found.as_ref().map(|value| value.as_ref().map(|value| &value[..]));
            assert_eq!(found, expect.map(|value| value.map(str::as_bytes)), "{key} in {sequence}");
        }

        fn bytes(&self) -> usize {
            let of = |part: &RwLock<Generations>| {
                let part = part.read().expect("nobody panicked");
                assert_eq!(part.young_bytes, part.young.values().map(Row::bytes).sum::<usize>());
                assert!(part.young.keys().all(|print| !part.old.contains_key(print)));
                part.young.values().chain(part.old.values()).map(Row::bytes).sum::<usize>()
            };
            self.remembered.parts.iter().map(of).sum()
        }
    }

    #[test]
    fn only_who_has_seen_the_commit_gets_its_value() {
        let bench = Bench::new(1 << 20);
        bench.check(9, "head", None);
        bench.note(5, "head", Some("a"), Written::AfterReading);
        bench.check(4, "head", None);
        bench.check(5, "head", Some(Some("a")));
        bench.note(7, "head", None, Written::AfterReading);
        bench.check(6, "head", None);
        bench.check(7, "head", Some(None));
    }

    #[test]
    fn what_was_not_read_is_not_remembered_and_what_is_overwritten_is_forgotten() {
        let bench = Bench::new(1 << 20);
        bench.note(1, "message", Some("a"), Written::Blindly);
        bench.check(1, "message", None);
        bench.note(2, "head", Some("a"), Written::AfterReading);
        bench.note(3, "head", Some("b"), Written::Blindly);
        bench.check(3, "head", None);
        bench.note(4, "head", Some("c"), Written::AfterReading);
        let long = "x".repeat(ROW_BYTES_MAX);
        bench.note(5, "head", Some(&long), Written::AfterReading);
        bench.check(5, "head", None);
        assert_eq!(bench.bytes(), 0);
    }

    /// Whatever is forgotten, what is found is what was written last.
    #[test]
    fn it_is_bounded_and_never_wrong() {
        let bench = Bench::new(64 << 10);
        let mut model = std::collections::HashMap::new();
        let mut random = 7_u64;
        let mut found = 0;
        for sequence in 1..=20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let key = format!("key {}", (random >> 33) % 600);
            let value = (!random.is_multiple_of(7)).then(|| format!("value {sequence}"));
            let how = if random >> 60 == 0 { Written::Blindly } else { Written::AfterReading };
            bench.note(sequence, &key, value.as_deref(), how);
            model.insert(key, value);
            let asked = format!("key {}", (random >> 13) % 600);
            let print = bench.prints.of(asked.as_bytes());
            if let Some(value) = bench.remembered.get(sequence, print, asked.as_bytes()) {
                found += 1;
                let value = value.map(|value| String::from_utf8_lossy(&value).into_owned());
                assert_eq!(Some(&value), model.get(&asked), "{asked} after {sequence}");
            }
            assert!(sequence % 100 > 0 || bench.bytes() <= 64 << 10);
        }
        assert!((1_000..19_000).contains(&found), "{found} of 20,000");
        let none = Bench::new(0);
        none.note(1, "head", Some("a"), Written::AfterReading);
        none.check(1, "head", None);
    }

    /// Two keys of one fingerprint, which nobody can choose, do not see each other's values.
    #[test]
    fn a_shared_fingerprint_mixes_nothing_up() {
        let bench = Bench::new(1 << 20);
        let (print, value) = (bench.prints.of(b"one"), Bytes::from_static(b"a"));
        bench.remembered.note(1, print, b"one", Some(&value), Written::AfterReading);
        assert_eq!(bench.remembered.get(1, print, b"other"), None);
        bench.remembered.note(2, print, b"other", Some(&value), Written::Blindly);
        assert_eq!(bench.remembered.get(2, print, b"one"), Some(Some(value.clone())), "that was another key");
        bench.remembered.note(3, print, b"other", Some(&value), Written::AfterReading);
        assert_eq!(bench.remembered.get(3, print, b"one"), None);
        assert_eq!(bench.remembered.get(3, print, b"other"), Some(Some(value)));
    }
}

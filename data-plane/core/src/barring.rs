//! A refused publish bars those that its producer sent behind it, or they would take its place in the order, or take room in a
//! full queue only to be refused there.
//!
//! It ends when the refused one comes again, or its place turns out to be taken by another copy of it, or after a second: by
//! then its sender has heard of it, and the producer's row keeps the order.

use millrace_protocol::{Code, ProducerSequence};

/// How long a bar holds, ms.
const HOLD_MS: u64 = 1_000;
/// Producers barred at one time. The oldest bar goes first: stored channels keep their order anyway.
const BARS_MAX: usize = 64;

/// Bars by producer; `K` says which.
#[derive(Debug)]
pub(crate) struct Barring<K> {
    bars: Vec<Bar<K>>,
}

#[derive(Debug)]
struct Bar<K> {
    of: K,
    sequence: ProducerSequence,
    until_ms: u64,
}

impl<K> Default for Barring<K> {
    fn default() -> Self {
        Self { bars: Vec::new() }
    }
}

impl<K: PartialEq> Barring<K> {
    pub(crate) fn is_empty(&self) -> bool {
        self.bars.is_empty()
    }

    /// Whether this publish must wait because an earlier one was refused.
    ///
    /// # Errors
    /// `Blocked`.
    pub(crate) fn check(&mut self, now_ms: u64, of: &K, sequence: ProducerSequence) -> Result<(), Code> {
        match self.bars.iter().position(|bar| bar.of == *of) {
            Some(place) if sequence > self.bars[place].sequence && now_ms < self.bars[place].until_ms => {
                Err(Code::Blocked)
            }
            Some(place) => {
                self.bars.remove(place);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// A publish is refused: those after it wait.
    pub(crate) fn bar(&mut self, now_ms: u64, of: K, sequence: ProducerSequence) {
        let until_ms = now_ms + HOLD_MS;
        if let Some(bar) = self.bars.iter_mut().find(|bar| bar.of == of) {
            bar.sequence = bar.sequence.min(sequence);
            bar.until_ms = until_ms;
            return;
        }
        if self.bars.len() >= BARS_MAX {
            self.bars.remove(0);
        }
        self.bars.push(Bar { of, sequence, until_ms });
    }

    /// The producer's messages before `expected` are known to be accepted: none of them comes again.
    pub(crate) fn lift(&mut self, of: &K, expected: ProducerSequence) {
        self.bars.retain(|bar| bar.of != *of || bar.sequence >= expected);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_sequences_wait_for_a_refused_one() {
        let sequence = |n| ProducerSequence::new(n).unwrap();
        let mut barring = Barring::default();
        barring.bar(0, "a", sequence(3));
        let check = |barring: &mut Barring<&str>, now_ms: u64, of: &'static str, n: u64, expect| {
            assert_eq!(barring.check(now_ms, &of, sequence(n)), expect, "{now_ms} {of} {n}");
        };
        check(&mut barring, 0, "a", 4, Err(Code::Blocked));
        check(&mut barring, 0, "b", 4, Ok(()));
        check(&mut barring, 0, "a", 5, Err(Code::Blocked));
        check(&mut barring, 0, "a", 3, Ok(()));
        check(&mut barring, 0, "a", 4, Ok(()));
        // Another copy of the refused one may have been accepted.
        barring.bar(0, "a", sequence(3));
        barring.lift(&"a", sequence(3));
        check(&mut barring, 0, "a", 4, Err(Code::Blocked));
        barring.lift(&"a", sequence(4));
        check(&mut barring, 0, "a", 4, Ok(()));
        // And its sender may know of that already.
        barring.bar(0, "a", sequence(3));
        check(&mut barring, HOLD_MS - 1, "a", 4, Err(Code::Blocked));
        check(&mut barring, HOLD_MS, "a", 4, Ok(()));
        assert!(barring.is_empty());
    }

    #[test]
    fn bars_are_bounded() {
        let mut barring = Barring::default();
        for n in 0..1_000 {
            barring.bar(0, n, ProducerSequence::FIRST);
        }
        assert_eq!(barring.bars.len(), BARS_MAX);
    }
}

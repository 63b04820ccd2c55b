//! The last sequence of each producer of a windowed channel: what control checks for a durable one, the home checks here.

use millrace_protocol::node::ProducerState;
use millrace_protocol::{Offset, Producer, ProducerSequence, UserId};

use crate::recent::{Recent, Weigh};
use crate::seeded::Seeded;

/// Bounded: the producer that was silent for longest is forgotten, and must begin anew.
///
/// **Invariant:** the newest `producers_max` are known, and never more than twice as many.
pub(crate) struct Producers {
    last: Recent<(UserId, Producer), Last, Seeded>,
}

#[derive(Debug, Clone, Copy)]
struct Last {
    sequence: ProducerSequence,
    offset: Offset,
}

impl Weigh for Last {}

/// What a publish is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    Next,
    /// Accepted before; where, if it was the last one.
    Duplicate(Option<Offset>),
    OutOfOrder {
        expected: ProducerSequence,
    },
}

impl Producers {
    /// Clients choose their producers' numbers, so `hasher` must have a key that they do not know.
    pub(crate) fn new(producers_max: u32, known: &[ProducerState], hasher: Seeded) -> Self {
        // What forgets by halves keeps half of its bound for certain.
        let mut last = Recent::new(2 * producers_max as usize, hasher);
        // They come in no order: the newest go in last, or they would be the first to go.
        let mut known: Vec<&ProducerState> = known.iter().collect();
        known.sort_unstable_by_key(|state| state.offset);
        for state in known {
            let of = Last { sequence: state.sequence, offset: state.offset };
            last.insert((state.user.clone(), state.producer), of);
        }
        Self { last }
    }

    pub(crate) fn check(&mut self, user: &UserId, producer: Producer, sequence: ProducerSequence) -> Check {
        let last = self.last.get(&(user.clone(), producer)).copied();
        let expected = last.map_or(ProducerSequence::FIRST, |last| last.sequence.next());
        match (last, sequence.cmp(&expected)) {
            (_, std::cmp::Ordering::Equal) => Check::Next,
            (_, std::cmp::Ordering::Greater) => Check::OutOfOrder { expected },
            (Some(last), std::cmp::Ordering::Less) if last.sequence == sequence => Check::Duplicate(Some(last.offset)),
            (_, std::cmp::Ordering::Less) => Check::Duplicate(None),
        }
    }

    pub(crate) fn accept(&mut self, user: &UserId, producer: Producer, sequence: ProducerSequence, offset: Offset) {
        self.last.insert((user.clone(), producer), Last { sequence, offset });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_are_taken_once_and_in_order() {
        let user = |name: &str| UserId::new(name).unwrap();
        let sequence = |n| ProducerSequence::new(n).unwrap();
        let offset = |n| Offset::new(n).unwrap();
        let producer = Producer::new(5).unwrap();
        let known = ProducerState { user: user("ann"), producer, sequence: sequence(4), offset: offset(40) };
        let mut producers = Producers::new(100, &[known], Seeded::new(1));
        let mut check = |name: &str, n: u64, expect: Check| {
            assert_eq!(producers.check(&user(name), producer, sequence(n)), expect, "{name} {n}");
            if expect == Check::Next {
                producers.accept(&user(name), producer, sequence(n), offset(n + 100));
            }
        };
        check("ann", 4, Check::Duplicate(Some(offset(40))));
        check("ann", 3, Check::Duplicate(None));
        check("ann", 6, Check::OutOfOrder { expected: sequence(5) });
        check("ann", 5, Check::Next);
        check("ann", 5, Check::Duplicate(Some(offset(105))));
        check("bob", 2, Check::OutOfOrder { expected: sequence(1) });
        check("bob", 1, Check::Next);
        check("bob", 2, Check::Next);
    }

    /// Whether the control plane tells them newest first, last or mixed, those who published last are known, however many there are.
    #[test]
    fn the_newest_are_known_whatever_order_they_come_in() {
        const MAX: u32 = 100;
        let state = |n: u64| ProducerState {
            user: UserId::new("ann").unwrap(),
            producer: Producer::new(n).unwrap(),
            sequence: ProducerSequence::new(7).unwrap(),
            offset: Offset::new(n).unwrap(),
        };
        let check = |told: Vec<u64>, accepted: u64| {
            let newest = told.iter().copied().max().unwrap() + accepted;
            let mut producers =
                Producers::new(MAX, &told.iter().copied().map(state).collect::<Vec<_>>(), Seeded::new(1));
            for n in newest - accepted + 1..=newest {
                let ProducerState { user, producer, sequence, offset } = state(n);
                producers.accept(&user, producer, sequence, offset);
            }
            for n in (newest + 1).saturating_sub(MAX.into()).max(1)..=newest {
                let ProducerState { user, producer, sequence, offset } = state(n);
                let expect = Check::Duplicate(Some(offset));
                assert_eq!(producers.check(&user, producer, sequence), expect, "{n} of {newest}");
            }
            assert!(producers.last.weight() <= 2 * MAX as usize);
        };
        check((1..=100).rev().collect(), 0);
        check((1..=100).collect(), 0);
        check((0..100).map(|n| n * 37 % 100 + 1).collect(), 0);
        check((1..=300).rev().collect(), 0);
        check((1..=100).rev().collect(), 70);
        check(vec![1], 1_000);
    }
}

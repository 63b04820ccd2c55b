//! When connections have to be looked at, in slots of a millisecond. Lazy: a connection's timer moves with every packet, an entry only to
//! an earlier time, and what is looked at too early is put in again. What a later look made needless goes when its slot comes.

use std::time::{Duration, Instant};

/// What is due later is looked at when the wheel has gone round.
const SLOTS: u64 = 1 << 15;

pub(super) struct Timers {
    began: Instant,
    /// Milliseconds since then, all of which have been looked at.
    at: u64,
    slots: Box<[Vec<u32>]>,
}

impl Timers {
    pub(super) fn new(now: Instant) -> Self {
        Self { began: now, at: 0, slots: (0..SLOTS).map(|_| Vec::new()).collect() }
    }

    /// Puts a value in, and gives the time at which it comes out: not before `due`, unless that is beyond the horizon.
    pub(super) fn insert(&mut self, due: Instant, value: u32) -> Instant {
        // Rounded up: whoever looks too early has to look again.
        let us = due.saturating_duration_since(self.began).as_micros().div_ceil(1000);
        let ms = u64::try_from(us).unwrap_or(u64::MAX).clamp(self.at + 1, self.at + SLOTS - 1);
        self.slots[slot(ms)].push(value);
        self.began + Duration::from_millis(ms)
    }

    /// The first entry's time, if it comes before this.
    pub(super) fn next_before(&self, until: Instant) -> Option<Instant> {
        let ms = u64::try_from(until.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX);
        let mut within = self.at + 1..=ms.min(self.at + SLOTS - 1);
        within.find(|&ms| !self.slots[slot(ms)].is_empty()).map(|ms| self.began + Duration::from_millis(ms))
    }

    /// Takes out what is due.
    pub(super) fn advance(&mut self, now: Instant, due: &mut Vec<u32>) {
        let ms = u64::try_from(now.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX);
        let last = ms.min(self.at + SLOTS - 1);
        for ms in self.at + 1..=last {
            due.append(&mut self.slots[slot(ms)]);
        }
        self.at = self.at.max(ms);
    }
}

fn slot(ms: u64) -> usize {
    usize::try_from(ms % SLOTS).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn it_agrees_with_a_sorted_list() {
        let began = Instant::now();
        let (mut timers, mut model) = (Timers::new(began), BTreeMap::<Instant, Vec<u32>>::new());
        let (mut random, mut now) = (1_u64, began);
        let mut draw = |bound: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % bound
        };
        for value in 0..20_000 {
            let due = now + Duration::from_micros(draw(60_000_000) / (1 + draw(2_000)));
            let at = timers.insert(due, value);
            assert!(at >= due || at >= now + Duration::from_millis(SLOTS - 2), "value {value}");
            model.entry(at).or_default().push(value);
            let horizon = now + Duration::from_millis(100);
            let first = model.keys().next().copied().filter(|at| *at <= horizon);
            // The wheel's milliseconds and this horizon's do not begin together.
            assert!(
                timers.next_before(horizon) == first || first.is_some_and(|at| at + Duration::from_millis(1) > horizon)
            );
            now += Duration::from_micros(draw(40_000));
            let (mut due, mut expect) = (Vec::new(), Vec::new());
            timers.advance(now, &mut due);
            while let Some(entry) = model.first_entry().filter(|entry| *entry.key() <= now) {
                expect.extend(entry.remove());
            }
            due.sort_unstable();
            expect.sort_unstable();
            assert_eq!(due, expect, "value {value}");
        }
    }

    #[test]
    fn what_waited_for_longer_than_a_round_comes_out_once() {
        let began = Instant::now();
        let (mut timers, mut due) = (Timers::new(began), Vec::new());
        timers.insert(began + Duration::from_millis(5), 7);
        timers.advance(began + Duration::from_secs(3_600), &mut due);
        timers.advance(began + Duration::from_secs(3_601), &mut due);
        assert_eq!(due, [7]);
    }
}

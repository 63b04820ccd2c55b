//! A hashed timing wheel: one small entry for each thing that waits, none for each event that puts it off.
//!
//! Entries fire at their tick or, beyond the horizon, travel round the wheel. An entry cannot be taken out: its owner notes
//! which tick counts and ignores the others.

/// Length of a tick, ms: how late something may fire.
pub(crate) const TICK_MS: u64 = 50;
const SLOTS: usize = 1024;
/// The same in ticks.
const ROUND: Tick = 1024;
const WORDS: usize = SLOTS / 64;

/// A time in ticks since the shard began. 2^32 ticks are 6.8 years.
pub(crate) type Tick = u32;

pub(crate) struct Wheel<T> {
    slots: Box<[Vec<(Tick, T)>]>,
    occupied: [u64; WORDS],
    /// Everything up to this tick has fired.
    current: Tick,
}

impl<T> Wheel<T> {
    pub(crate) fn new() -> Self {
        Self { slots: (0..SLOTS).map(|_| Vec::new()).collect(), occupied: [0; WORDS], current: 0 }
    }

    /// Fires at `due`, or at the next tick if that is past. Gives the tick back.
    pub(crate) fn insert(&mut self, due: Tick, item: T) -> Tick {
        let due = due.max(self.current.saturating_add(1));
        let horizon = self.current.saturating_add(ROUND - 1);
        let slot = due.min(horizon) as usize % SLOTS;
        self.slots[slot].push((due, item));
        self.occupied[slot / 64] |= 1 << (slot % 64);
        due
    }

    /// Takes everything due up to and including `now`, with the tick at which it was to fire.
    pub(crate) fn advance(&mut self, now: Tick, fired: &mut Vec<(Tick, T)>) {
        while self.current < now {
            // Beyond one round every slot has been seen; what is left is due later.
            if now - self.current > ROUND {
                let far = now - ROUND;
                self.current = far.max(self.current);
            }
            self.current += 1;
            let slot = self.current as usize % SLOTS;
            if self.occupied[slot / 64] & 1 << (slot % 64) == 0 {
                continue;
            }
            self.occupied[slot / 64] &= !(1 << (slot % 64));
            for (due, item) in std::mem::take(&mut self.slots[slot]) {
                if due <= now {
                    fired.push((due, item));
                } else {
                    self.insert(due, item);
                }
            }
        }
    }

    /// The tick at which to look again, if anything waits: never later than the earliest entry.
    pub(crate) fn next(&self) -> Option<Tick> {
        let start = (self.current as usize + 1) % SLOTS;
        let slot = (0..=WORDS).find_map(|step| {
            let word = (start / 64 + step) % WORDS;
            let mut bits = self.occupied[word];
            if step == 0 {
                bits &= u64::MAX << (start % 64);
            }
            (bits != 0).then(|| word * 64 + bits.trailing_zeros() as usize)
        })?;
        let ahead = (slot + SLOTS - start) % SLOTS;
        Some(self.current + 1 + Tick::try_from(ahead).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_a_sorted_list() {
        let mut random = 0x9E37_79B9_u64;
        let mut next_random = move |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        let mut wheel = Wheel::new();
        let mut model: Vec<(Tick, u32)> = Vec::new();
        let mut now: Tick = 0;
        for item in 0..20_000_u32 {
            let range = if item % 10 == 0 { 10_000 } else { 300 };
            let due = now + 1 + Tick::try_from(next_random(range)).unwrap();
            wheel.insert(due, item);
            model.push((due, item));
            if item % 3 == 0 {
                let far = if item % 999 == 0 { 5_000 } else { 20 };
                now += Tick::try_from(next_random(far)).unwrap();
                let earliest = model.iter().map(|&(due, _)| due).min();
                assert!(wheel.next() <= earliest, "never late");
                let mut fired = Vec::new();
                wheel.advance(now, &mut fired);
                fired.sort_unstable();
                let mut expect: Vec<_> = model.iter().copied().filter(|&(due, _)| due <= now).collect();
                expect.sort_unstable();
                assert_eq!(fired, expect);
                model.retain(|&(due, _)| due > now);
            }
        }
        while let Some(tick) = wheel.next() {
            wheel.advance(tick, &mut Vec::new());
        }
        assert!(wheel.slots.iter().all(|slot| slot.capacity() == 0), "empty slots own nothing");
    }

    #[test]
    fn the_past_fires_at_the_next_tick() {
        let mut wheel = Wheel::new();
        let mut fired = Vec::new();
        wheel.advance(10, &mut fired);
        assert_eq!(wheel.insert(3, 'a'), 11);
        assert_eq!(wheel.next(), Some(11));
        wheel.advance(11, &mut fired);
        assert_eq!(fired, [(11, 'a')]);
        assert_eq!(wheel.next(), None);
    }
}

//! When connections have to be looked at: one entry for each, in slots of a millisecond. Lazy: a connection's timers move with
//! every packet, its entry only to an earlier time; one that comes too early is put in again.

use std::time::{Duration, Instant};

/// Slots, each of 1 ms. What is due later is looked at when the wheel has gone round.
const SLOTS: usize = 1 << 15;
const NONE: u32 = u32::MAX;
/// Places for so many entries stay when all are gone.
const ENTRIES_KEPT: usize = 1024;

pub(crate) struct Wheel {
    began: Instant,
    /// Ms since then, all of which have been looked at.
    at: u64,
    /// First entry of each slot.
    slots: Box<[u32]>,
    /// A bit for each slot that has entries.
    taken: Box<[u64]>,
    entries: Vec<Entry>,
    free: u32,
    count: usize,
}

struct Entry {
    value: u64,
    next: u32,
    /// The one before in its slot; [`NONE`] for the first.
    before: u32,
    slot: u16,
}

/// An entry, until it comes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Armed {
    /// When it comes out.
    pub(crate) at: Instant,
    place: u32,
}

impl Wheel {
    pub(crate) fn new(now: Instant) -> Self {
        let slots = vec![NONE; SLOTS].into_boxed_slice();
        let taken = vec![0; SLOTS / 64].into_boxed_slice();
        Self { began: now, at: 0, slots, taken, entries: Vec::new(), free: NONE, count: 0 }
    }

    /// Puts a value in: it comes out not before `due`, unless that is beyond the horizon.
    pub(crate) fn insert(&mut self, due: Instant, value: u64) -> Armed {
        let ms = self.ms(due);
        let slot = slot(ms);
        let next = self.slots[slot];
        let entry = Entry { value, next, before: NONE, slot: u16::try_from(slot).expect("there are 2^15 slots") };
        let place = if self.free == NONE {
            self.entries.push(entry);
            u32::try_from(self.entries.len() - 1).expect("connections are bounded far below 2^32")
        } else {
            let place = self.free;
            self.free = std::mem::replace(&mut self.entries[place as usize], entry).next;
            place
        };
        if let Some(next) = self.entries.get_mut(next as usize) {
            next.before = place;
        }
        self.slots[slot] = place;
        self.taken[slot / 64] |= 1 << (slot % 64);
        self.count += 1;
        Armed { at: self.instant(ms), place }
    }

    /// Whether an entry put in now for `due` would come out before this one.
    pub(crate) fn is_before(&self, due: Instant, armed: Armed) -> bool {
        self.instant(self.ms(due)) < armed.at
    }

    /// The slot's time, rounded up: whoever looks too early has to look again.
    fn ms(&self, due: Instant) -> u64 {
        let us = due.saturating_duration_since(self.began).as_micros();
        let ms = u64::try_from(us.div_ceil(1000)).unwrap_or(u64::MAX);
        ms.clamp(self.at + 1, self.at + SLOTS as u64 - 1)
    }

    /// Takes an entry away that has not come out.
    pub(crate) fn remove(&mut self, armed: Armed) {
        let Entry { next, before, slot, .. } = self.entries[armed.place as usize];
        let slot = usize::from(slot);
        match self.entries.get_mut(before as usize) {
            Some(before) => before.next = next,
            None => self.slots[slot] = next,
        }
        if let Some(next) = self.entries.get_mut(next as usize) {
            next.before = before;
        }
        if self.slots[slot] == NONE {
            self.taken[slot / 64] &= !(1 << (slot % 64));
        }
        self.entries[armed.place as usize].next = self.free;
        self.free = armed.place;
        self.count -= 1;
        self.shrink();
    }

    /// How many entries there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// The first slot with entries.
    pub(crate) fn next(&self) -> Option<Instant> {
        if self.count == 0 {
            return None;
        }
        let from = slot(self.at + 1);
        let words = self.taken.len();
        // Once around, and the part of the first word that lies before.
        (0..=words).find_map(|step| {
            let word = (from / 64 + step) % words;
            let mut bits = self.taken[word];
            if step == 0 {
                bits &= u64::MAX << (from % 64);
            }
            (bits != 0).then(|| {
                let found = word * 64 + bits.trailing_zeros() as usize;
                let ahead = (found + SLOTS - from) % SLOTS;
                self.instant(self.at + 1 + ahead as u64)
            })
        })
    }

    /// Takes out what is due.
    pub(crate) fn advance(&mut self, now: Instant, due: &mut Vec<u64>) {
        let ms = u64::try_from(now.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX);
        while self.at < ms {
            if self.count == 0 {
                self.at = ms;
                break;
            }
            self.at += 1;
            let slot = slot(self.at);
            let word = self.taken[slot / 64];
            if word == 0 {
                // Nothing in the rest of these 64 slots.
                let rest = 63 - (slot % 64) as u64;
                self.at = (self.at + rest).min(ms);
                continue;
            }
            if word & 1 << (slot % 64) == 0 {
                continue;
            }
            self.taken[slot / 64] &= !(1 << (slot % 64));
            let mut place = std::mem::replace(&mut self.slots[slot], NONE);
            while place != NONE {
                let entry = &mut self.entries[place as usize];
                due.push(entry.value);
                let next = std::mem::replace(&mut entry.next, self.free);
                self.free = place;
                self.count -= 1;
                place = next;
            }
        }
        self.shrink();
    }

    fn shrink(&mut self) {
        if self.count == 0 && self.entries.len() > ENTRIES_KEPT {
            self.entries = Vec::new();
            self.free = NONE;
        }
    }

    fn instant(&self, ms: u64) -> Instant {
        self.began + Duration::from_millis(ms)
    }
}

fn slot(ms: u64) -> usize {
    usize::try_from(ms % SLOTS as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn it_agrees_with_a_sorted_list() {
        let began = Instant::now();
        let mut wheel = Wheel::new(began);
        let mut model: BTreeMap<Instant, Vec<u64>> = BTreeMap::new();
        let mut kept: BTreeMap<u64, Armed> = BTreeMap::new();
        let (mut random, mut now, mut value) = (1_u64, began, 0);
        let mut draw = |bound: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % bound
        };
        for step in 0..20_000 {
            for _ in 0..draw(3) {
                let due = now + Duration::from_micros(draw(60_000_000) / (1 + draw(2000)));
                value += 1;
                let armed = wheel.insert(due, value);
                let at = armed.at;
                assert!(at >= due || at >= now + Duration::from_millis(SLOTS as u64 - 2), "step {step}");
                if draw(3) == 0 {
                    wheel.remove(armed);
                } else {
                    model.entry(at).or_default().push(value);
                    kept.insert(value, armed);
                }
            }
            // One that waits already, from anywhere in its slot.
            if let Some((&value, &armed)) = kept.iter().nth(usize::try_from(draw(40)).unwrap()) {
                kept.remove(&value);
                wheel.remove(armed);
                let of = model.get_mut(&armed.at).unwrap();
                of.retain(|&other| other != value);
                if of.is_empty() {
                    model.remove(&armed.at);
                }
            }
            assert_eq!(wheel.next(), model.keys().next().copied(), "step {step}");
            now += Duration::from_micros(draw(40_000));
            let mut due = Vec::new();
            wheel.advance(now, &mut due);
            let mut expect = Vec::new();
            while let Some(entry) = model.first_entry()
                && *entry.key() <= now
            {
                expect.extend(entry.remove());
            }
            due.sort_unstable();
            expect.sort_unstable();
            assert_eq!(due, expect, "step {step}");
            kept.retain(|value, _| due.binary_search(value).is_err());
            assert_eq!(wheel.len(), kept.len(), "step {step}");
        }
    }

    #[test]
    fn an_empty_wheel_gives_its_memory_back() {
        let now = Instant::now();
        let mut wheel = Wheel::new(now);
        assert_eq!(wheel.next(), None);
        for value in 0..2000 {
            wheel.insert(now, value);
        }
        let mut due = Vec::new();
        wheel.advance(now + Duration::from_secs(3600), &mut due);
        assert_eq!((due.len(), wheel.next(), wheel.entries.capacity()), (2000, None, 0));
        let armed: Vec<Armed> = (0..2000).map(|value| wheel.insert(now, value)).collect();
        armed.into_iter().for_each(|armed| wheel.remove(armed));
        assert_eq!((wheel.next(), wheel.entries.capacity()), (None, 0));
    }
}

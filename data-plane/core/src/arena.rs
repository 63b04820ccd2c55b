//! Where sessions live: stable places in chunks, so that growth copies nothing, and keys that never name a second session.

use crate::SessionKey;

const CHUNK: usize = 64;
const NONE: u32 = u32::MAX;

pub(crate) struct Arena<T> {
    chunks: Vec<Box<[Slot<T>]>>,
    free: u32,
    len: u32,
    generation: u32,
}

enum Slot<T> {
    Free { next: u32 },
    Used { generation: u32, value: T },
}

impl<T> Arena<T> {
    pub(crate) const fn new() -> Self {
        Self { chunks: Vec::new(), free: NONE, len: 0, generation: 0 }
    }

    pub(crate) const fn len(&self) -> u32 {
        self.len
    }

    /// Indexes are below this.
    pub(crate) fn end(&self) -> u32 {
        u32::try_from(self.chunks.len() * CHUNK).unwrap_or(NONE)
    }

    pub(crate) fn insert(&mut self, value: T) -> SessionKey {
        if self.free == NONE {
            self.grow();
        }
        let index = self.free;
        // Keys differ in their generation until 2^32 sessions have come and gone on this place's shard.
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let slot = &mut self.chunks[index as usize / CHUNK][index as usize % CHUNK];
        let Slot::Free { next } = *slot else { unreachable!("the free list holds free slots") };
        *slot = Slot::Used { generation, value };
        self.free = next;
        self.len += 1;
        SessionKey { index, generation }
    }

    pub(crate) fn remove(&mut self, key: SessionKey) -> Option<T> {
        self.get(key)?;
        let slot = &mut self.chunks[key.index as usize / CHUNK][key.index as usize % CHUNK];
        let Slot::Used { value, .. } = std::mem::replace(slot, Slot::Free { next: self.free }) else { return None };
        self.free = key.index;
        self.len -= 1;
        if self.len == 0 && self.chunks.len() > 1 {
            self.chunks = Vec::new();
            self.free = NONE;
        }
        Some(value)
    }

    pub(crate) fn get(&self, key: SessionKey) -> Option<&T> {
        match self.slot(key.index)? {
            Slot::Used { generation, value } if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    pub(crate) fn get_mut(&mut self, key: SessionKey) -> Option<&mut T> {
        match self.chunks.get_mut(key.index as usize / CHUNK)?.get_mut(key.index as usize % CHUNK)? {
            Slot::Used { generation, value } if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    /// The value at a place, whatever its generation.
    #[inline]
    pub(crate) fn at_mut(&mut self, index: u32) -> Option<&mut T> {
        match self.chunks.get_mut(index as usize / CHUNK)?.get_mut(index as usize % CHUNK)? {
            Slot::Used { value, .. } => Some(value),
            Slot::Free { .. } => None,
        }
    }

    /// The key and the value at a place.
    #[inline]
    pub(crate) fn entry_mut(&mut self, index: u32) -> Option<(SessionKey, &mut T)> {
        match self.chunks.get_mut(index as usize / CHUNK)?.get_mut(index as usize % CHUNK)? {
            Slot::Used { generation, value } => Some((SessionKey { index, generation: *generation }, value)),
            Slot::Free { .. } => None,
        }
    }

    pub(crate) fn at(&self, index: u32) -> Option<&T> {
        match self.slot(index)? {
            Slot::Used { value, .. } => Some(value),
            Slot::Free { .. } => None,
        }
    }

    /// The key of what is at a place.
    pub(crate) fn key(&self, index: u32) -> Option<SessionKey> {
        match self.slot(index)? {
            Slot::Used { generation, .. } => Some(SessionKey { index, generation: *generation }),
            Slot::Free { .. } => None,
        }
    }

    fn slot(&self, index: u32) -> Option<&Slot<T>> {
        self.chunks.get(index as usize / CHUNK)?.get(index as usize % CHUNK)
    }

    fn grow(&mut self) {
        let start = self.end();
        let end = start + u32::try_from(CHUNK).unwrap_or(0);
        let chunk = (start..end).map(|index| Slot::Free { next: if index + 1 == end { NONE } else { index + 1 } });
        self.chunks.push(chunk.collect());
        self.free = start;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_outlives_its_value_harmlessly() {
        let mut arena = Arena::new();
        let a = arena.insert("a");
        assert_eq!(arena.remove(a), Some("a"));
        let b = arena.insert("b");
        assert_eq!((arena.get(a), arena.get(b)), (None, Some(&"b")));
        assert_eq!(arena.remove(a), None);
        assert_eq!(arena.key(b.index), Some(b));
    }

    #[test]
    fn places_are_used_again_and_freed_when_empty() {
        let mut arena = Arena::new();
        let keys: Vec<_> = (0..200).map(|n| arena.insert(n)).collect();
        assert_eq!((arena.len(), arena.end()), (200, 256));
        for &key in &keys[..100] {
            arena.remove(key);
        }
        for n in 0..100 {
            assert!(arena.insert(n).index < 200);
        }
        for &key in &keys[100..] {
            assert!(arena.remove(key).is_some());
        }
        for index in 0..arena.end() {
            if let Some(key) = arena.key(index) {
                arena.remove(key);
            }
        }
        assert_eq!((arena.len(), arena.end()), (0, 0));
        // One that comes and goes alone does not take and give a chunk each time.
        for _ in 0..3 {
            let alone = arena.insert(7);
            assert_eq!(arena.remove(alone), Some(7));
            assert_eq!((arena.len(), arena.end()), (0, 64));
        }
    }
}

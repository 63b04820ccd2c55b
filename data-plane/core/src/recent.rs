//! A bounded map that forgets what was not used for longest, roughly: two generations, the older of which goes when the younger
//! is full. Constant time and no links between entries.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};

/// How much of the bound a value takes.
pub(crate) trait Weigh {
    fn weight(&self) -> usize {
        1
    }
}

pub(crate) struct Recent<K, V, S> {
    young: HashMap<K, V, S>,
    old: HashMap<K, V, S>,
    young_weight: usize,
    old_weight: usize,
    weight_max: usize,
}

impl<K: Hash + Eq, V: Weigh, S: BuildHasher + Clone> Recent<K, V, S> {
    pub(crate) fn new(weight_max: usize, hasher: S) -> Self {
        Self {
            young: HashMap::with_hasher(hasher.clone()),
            old: HashMap::with_hasher(hasher),
            young_weight: 0,
            old_weight: 0,
            weight_max,
        }
    }

    /// Never above the bound that it was made with, once a value is itself within half of it.
    pub(crate) fn weight(&self) -> usize {
        self.young_weight + self.old_weight
    }

    pub(crate) fn get(&mut self, key: &K) -> Option<&V> {
        self.promote(key);
        self.young.get(key)
    }

    /// A value to change; its weight must stay.
    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.promote(key);
        self.young.get_mut(key)
    }

    /// Changes a value, or makes it from nothing.
    pub(crate) fn update(&mut self, key: K, change: impl FnOnce(&mut V))
    where
        V: Default,
    {
        self.promote(&key);
        let value = self.young.entry(key).or_default();
        let before = value.weight();
        change(value);
        let after = value.weight();
        // A value just made has been counted nowhere; an old one with its weight.
        self.young_weight = self.young_weight + after - before;
        self.rotate();
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        self.remove(&key);
        self.young_weight += value.weight();
        self.young.insert(key, value);
        self.rotate();
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        if let Some(value) = self.young.remove(key) {
            self.young_weight -= value.weight();
            return Some(value);
        }
        let value = self.old.remove(key)?;
        self.old_weight -= value.weight();
        Some(value)
    }

    /// Changes every value; those that then weigh nothing go.
    pub(crate) fn sweep(&mut self, mut change: impl FnMut(&K, &mut V)) {
        for (map, weight) in [(&mut self.young, &mut self.young_weight), (&mut self.old, &mut self.old_weight)] {
            map.retain(|key, value| {
                *weight -= value.weight();
                change(key, value);
                *weight += value.weight();
                value.weight() > 0
            });
        }
    }

    pub(crate) fn clear(&mut self) {
        let hasher = self.young.hasher().clone();
        *self = Self::new(self.weight_max, hasher);
    }

    fn promote(&mut self, key: &K) {
        if self.old.is_empty() || self.young.contains_key(key) {
            return;
        }
        if let Some((key, value)) = self.old.remove_entry(key) {
            let weight = value.weight();
            self.old_weight -= weight;
            self.young_weight += weight;
            self.young.insert(key, value);
        }
    }

    fn rotate(&mut self) {
        if self.young_weight >= self.weight_max.div_ceil(2) {
            let hasher = self.young.hasher().clone();
            self.old = std::mem::replace(&mut self.young, HashMap::with_hasher(hasher));
            self.old_weight = std::mem::take(&mut self.young_weight);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::hash::RandomState;

    use super::*;

    impl Weigh for u32 {}
    impl Weigh for Vec<u8> {
        fn weight(&self) -> usize {
            self.len()
        }
    }

    #[test]
    fn stays_bounded_and_keeps_what_is_used() {
        let mut recent = Recent::new(100, RandomState::new());
        recent.insert(0, 7_u32);
        for key in 1..10_000 {
            recent.insert(key, 1);
            assert_eq!(recent.get(&0), Some(&7), "used all the time");
            assert!(recent.weight() <= 100, "{}", recent.weight());
        }
        assert_eq!(recent.get(&1), None);
        assert_eq!(recent.get(&9_999), Some(&1));
    }

    #[test]
    fn weights_follow_changes() {
        let mut recent: Recent<&str, Vec<u8>, _> = Recent::new(10, RandomState::new());
        recent.update("a", |value| value.extend([1, 2]));
        recent.update("b", |value| value.push(3));
        assert_eq!(recent.weight(), 3);
        recent.update("a", |value| value.push(9));
        assert_eq!(recent.weight(), 4);
        recent.sweep(|_, value| value.retain(|&n| n > 2));
        assert_eq!(recent.weight(), 2);
        assert_eq!(recent.get(&"a"), Some(&vec![9]));
        recent.update("c", |value| value.extend([5; 4]));
        recent.update("a", |value| value.push(1));
        assert_eq!(recent.weight(), 7);
        assert_eq!(recent.remove(&"c"), Some(vec![5; 4]));
        recent.clear();
        assert_eq!((recent.weight(), recent.get(&"a")), (0, None));
    }
}

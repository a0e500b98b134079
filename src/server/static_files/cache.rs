//! A Cache of what was loaded, by mount and name: bounded in bytes, entries and open files.
//!
//! When it is full, a hand goes round and evicts the first entry that nobody asked for since it last came by ("clock"):
//! nearly as good as least-recently-used, and a hit costs one store.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    pub bytes: usize,
    pub entries: usize,
    /// Descriptors held open.
    pub files: usize,
}

/// What an entry counts for.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Weight {
    pub bytes: usize,
    pub files: usize,
}

pub struct Entry<V> {
    pub value: V,
    pub checked: Instant,
    mount: usize,
    name: Arc<[u8]>,
    weight: Weight,
    was_used: bool,
}

pub struct Cache<V> {
    /// By mount, then by name: where in `slots`.
    places: Vec<HashMap<Arc<[u8]>, usize>>,
    slots: Vec<Option<Entry<V>>>,
    free: Vec<usize>,
    hand: usize,
    limits: Limits,
    used: Weight,
}

impl<V> Cache<V> {
    pub fn new(mounts: usize, limits: Limits) -> Self {
        let places = (0..mounts).map(|_| HashMap::new()).collect();
        Cache { places, slots: Vec::new(), free: Vec::new(), hand: 0, limits, used: Weight::default() }
    }

    pub fn get(&mut self, mount: usize, name: &[u8]) -> Option<&mut Entry<V>> {
        let entry = self.slots[*self.places[mount].get(name)?].as_mut()?;
        entry.was_used = true;
        Some(entry)
    }

    /// Keep `value`, in place of what has this name; evicts others, or keeps nothing if it alone is too much.
    pub fn insert(&mut self, mount: usize, name: &[u8], value: V, weight: Weight, now: Instant) {
        self.remove(mount, name);
        if weight.bytes > self.limits.bytes || weight.files > self.limits.files || self.limits.entries == 0 {
            return;
        }
        while self.used.files + weight.files > self.limits.files {
            self.evict(|entry| entry.weight.files > 0);
        }
        while self.used.bytes + weight.bytes > self.limits.bytes || self.len() >= self.limits.entries {
            self.evict(|_| true);
        }
        let name: Arc<[u8]> = name.into();
        let place = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.places[mount].insert(name.clone(), place);
        self.used = Weight { bytes: self.used.bytes + weight.bytes, files: self.used.files + weight.files };
        self.slots[place] = Some(Entry { value, checked: now, mount, name, weight, was_used: false });
    }

    pub fn remove(&mut self, mount: usize, name: &[u8]) {
        if let Some(place) = self.places[mount].remove(name) {
            self.vacate(place);
        }
    }

    /// Forget everything of one mount.
    pub fn clear(&mut self, mount: usize) {
        for (_, place) in std::mem::take(&mut self.places[mount]) {
            self.vacate(place);
        }
    }

    /// Bytes that its entries count for.
    pub fn bytes(&self) -> usize {
        self.used.bytes
    }

    fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn vacate(&mut self, place: usize) {
        if let Some(entry) = self.slots[place].take() {
            self.used.bytes -= entry.weight.bytes;
            self.used.files -= entry.weight.files;
            self.free.push(place);
        }
    }

    /// Let go of one entry that is `wanted`. There must be one.
    fn evict(&mut self, wanted: impl Fn(&Entry<V>) -> bool) {
        loop {
            self.hand = (self.hand + 1) % self.slots.len();
            let Some(entry) = self.slots[self.hand].as_mut().filter(|entry| wanted(entry)) else { continue };
            if !std::mem::take(&mut entry.was_used) {
                let (mount, name) = (entry.mount, entry.name.clone());
                return self.remove(mount, &name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(bytes: usize, entries: usize, files: usize) -> Cache<u32> {
        Cache::new(2, Limits { bytes, entries, files })
    }

    fn put(cache: &mut Cache<u32>, name: &str, bytes: usize, files: usize) {
        cache.insert(0, name.as_bytes(), 7, Weight { bytes, files }, Instant::now());
    }

    fn has(cache: &mut Cache<u32>, name: &str) -> bool {
        cache.places[0].contains_key(name.as_bytes())
    }

    #[test]
    fn what_is_asked_for_stays_and_what_is_not_goes() {
        let mut cache = cache(100, 100, 100);
        for name in ["a", "b", "c", "d"] {
            put(&mut cache, name, 25, 0);
        }
        assert!(cache.get(0, b"a").is_some() && cache.get(0, b"c").is_some());
        put(&mut cache, "e", 50, 0);
        let kept: Vec<_> = ["a", "b", "c", "d", "e"].into_iter().filter(|name| has(&mut cache, name)).collect();
        assert_eq!(kept, ["a", "c", "e"]);
        assert_eq!(cache.used, Weight { bytes: 100, files: 0 });
    }

    #[test]
    fn every_bound_holds() {
        let mut cache = cache(1000, 3, 2);
        for n in 0..50 {
            put(&mut cache, &format!("small{n}"), 10, 0);
            put(&mut cache, &format!("open{n}"), 10, 1);
            assert!(cache.len() <= 3 && cache.used.bytes <= 1000 && cache.used.files <= 2);
            assert_eq!(cache.places.iter().map(HashMap::len).sum::<usize>(), cache.len());
        }
        put(&mut cache, "too large", 1001, 0);
        put(&mut cache, "too many", 1, 3);
        assert!(!has(&mut cache, "too large") && !has(&mut cache, "too many"));
    }

    #[test]
    fn descriptors_are_not_won_by_evicting_what_holds_none() {
        let mut cache = cache(1000, 100, 1);
        put(&mut cache, "small", 10, 0);
        put(&mut cache, "open", 10, 1);
        put(&mut cache, "other", 10, 1);
        assert!(has(&mut cache, "small") && has(&mut cache, "other") && !has(&mut cache, "open"));
    }

    #[test]
    fn a_name_is_replaced_and_a_mount_forgotten() {
        let mut cache = cache(100, 100, 100);
        put(&mut cache, "a", 60, 1);
        put(&mut cache, "a", 80, 0);
        cache.insert(1, b"a", 8, Weight { bytes: 10, files: 0 }, Instant::now());
        assert_eq!(cache.used, Weight { bytes: 90, files: 0 });
        cache.clear(0);
        assert_eq!((cache.used.bytes, cache.len()), (10, 1));
        assert_eq!(cache.get(1, b"a").map(|entry| entry.value), Some(8));
        assert!(cache.get(0, b"a").is_none());
    }
}

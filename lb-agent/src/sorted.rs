//! Maps and sets of few elements, in as little memory as those take: what every
//! Service has several of must not be a tree each.

use std::collections::BTreeSet;

/// A map as a run of its elements, sorted by key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SortedMap<K, V>(Vec<(K, V)>);

/// A set as a run of its elements, sorted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SortedSet<T>(Vec<T>);

impl<K: Ord, V> SortedMap<K, V> {
    #[must_use]
    pub fn get(&self, key: &K) -> Option<&V> {
        let index = self.find(key).ok()?;
        Some(&self.0[index].1)
    }

    #[must_use]
    pub fn contains_key(&self, key: &K) -> bool {
        self.find(key).is_ok()
    }

    /// What the key stood for before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.find(&key) {
            Ok(index) => Some(std::mem::replace(&mut self.0[index].1, value)),
            Err(index) => {
                self.0.insert(index, (key, value));
                None
            }
        }
    }

    /// Leaves what the key stands for already.
    pub fn insert_new(&mut self, key: K, value: V) {
        if let Err(index) = self.find(&key) {
            self.0.insert(index, (key, value));
        }
    }

    pub fn remove(&mut self, key: &K) -> Option<V> {
        let index = self.find(key).ok()?;
        Some(self.0.remove(index).1)
    }

    fn find(&self, key: &K) -> Result<usize, usize> {
        self.0.binary_search_by(|(other, _)| other.cmp(key))
    }
}

impl<K, V> SortedMap<K, V> {
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> + Clone {
        self.0.iter().map(|(key, value)| (key, value))
    }

    pub fn keys(&self) -> impl Iterator<Item = &K> + Clone {
        self.0.iter().map(|(key, _)| key)
    }

    pub fn values(&self) -> impl Iterator<Item = &V> + Clone {
        self.0.iter().map(|(_, value)| value)
    }

    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.0.iter_mut().map(|(_, value)| value)
    }

    /// Removes the elements that `gone` picks, and returns them.
    pub fn extract(&mut self, mut gone: impl FnMut(&K, &V) -> bool) -> Vec<(K, V)> {
        self.0
            .extract_if(.., |(key, value)| gone(key, value))
            .collect()
    }

    /// Gives back the room that insertions have taken ahead.
    pub fn shrink(&mut self) {
        self.0.shrink_to_fit();
    }
}

impl<K, V> Default for SortedMap<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

/// Of a key that comes several times the last is kept.
impl<K: Ord, V> FromIterator<(K, V)> for SortedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(elements: I) -> Self {
        let mut elements: Vec<(K, V)> = elements.into_iter().collect();
        elements.sort_by(|(one, _), (other, _)| one.cmp(other));
        elements.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            if same {
                std::mem::swap(later, kept);
            }
            same
        });
        elements.shrink_to_fit();
        Self(elements)
    }
}

impl<K: Ord, V, const N: usize> From<[(K, V); N]> for SortedMap<K, V> {
    fn from(elements: [(K, V); N]) -> Self {
        elements.into_iter().collect()
    }
}

impl<'a, K, V> IntoIterator for &'a SortedMap<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = std::iter::Map<std::slice::Iter<'a, (K, V)>, fn(&'a (K, V)) -> (&'a K, &'a V)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter().map(|(key, value)| (key, value))
    }
}

impl<T: Ord> SortedSet<T> {
    #[must_use]
    pub fn contains(&self, element: &T) -> bool {
        self.0.binary_search(element).is_ok()
    }

    pub fn insert(&mut self, element: T) {
        if let Err(index) = self.0.binary_search(&element) {
            self.0.reserve_exact(1);
            self.0.insert(index, element);
        }
    }

    pub fn remove(&mut self, element: &T) {
        if let Ok(index) = self.0.binary_search(element) {
            self.0.remove(index);
        }
    }

    #[must_use]
    pub fn get(&self, element: &T) -> Option<&T> {
        let index = self.0.binary_search(element).ok()?;
        Some(&self.0[index])
    }

    /// All elements of both, in order.
    pub fn union<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a T> {
        let all: BTreeSet<&T> = self.iter().chain(other).collect();
        all.into_iter()
    }
}

impl<T> SortedSet<T> {
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> std::slice::Iter<'_, T> {
        self.0.iter()
    }
}

impl<T> Default for SortedSet<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Ord> FromIterator<T> for SortedSet<T> {
    fn from_iter<I: IntoIterator<Item = T>>(elements: I) -> Self {
        let mut elements: Vec<T> = elements.into_iter().collect();
        elements.sort_unstable();
        elements.dedup();
        elements.shrink_to_fit();
        Self(elements)
    }
}

impl<'a, T> IntoIterator for &'a SortedSet<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<T> IntoIterator for SortedSet<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_map_is_as_a_tree(
            start in prop::collection::vec((0..8_u8, any::<u8>()), 0..8),
            steps in prop::collection::vec((0..4_u8, 0..8_u8, any::<u8>()), 0..16),
        ) {
            let mut tree: BTreeMap<u8, u8> = start.iter().copied().collect();
            let mut map: SortedMap<u8, u8> = start.into_iter().collect();
            for (step, key, value) in steps {
                match step {
                    0 => prop_assert_eq!(map.insert(key, value), tree.insert(key, value)),
                    1 => prop_assert_eq!(map.remove(&key), tree.remove(&key)),
                    2 => {
                        map.insert_new(key, value);
                        tree.entry(key).or_insert(value);
                    }
                    _ => {
                        let gone = map.extract(|other, _| *other < key);
                        let left = tree.split_off(&key);
                        prop_assert_eq!(gone, tree.into_iter().collect::<Vec<_>>());
                        tree = left;
                    }
                }
                prop_assert!(map.iter().eq(&tree));
                prop_assert_eq!(map.get(&key), tree.get(&key));
            }
        }

        #[test]
        fn a_set_is_as_a_tree(
            one in prop::collection::vec(0..8_u8, 0..8),
            other in prop::collection::vec(0..8_u8, 0..8),
        ) {
            let both = [&one, &other];
            let trees = both.map(|all| all.iter().copied().collect::<BTreeSet<u8>>());
            let sets = both.map(|all| all.iter().copied().collect::<SortedSet<u8>>());
            prop_assert!(sets[0].iter().eq(&trees[0]));
            prop_assert!(sets[0].union(&sets[1]).eq(trees[0].union(&trees[1])));
            let mut grown = sets[0].clone();
            other.iter().for_each(|element| grown.insert(*element));
            prop_assert!(grown.iter().eq(trees[0].union(&trees[1])));
        }
    }
}

//! Values from a range: those that are stated, those that were allocated
//! before, then new ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::Hasher,
    net::IpAddr,
};

use ipnet::IpNet;

use super::ledger::{Entry, Table};
use crate::model::ObjectName;

/// What values are allocated from.
pub(super) trait Range {
    type Value: Copy + Ord;

    fn len(&self) -> u128;

    fn at(&self, index: u128) -> Self::Value;

    fn contains(&self, value: Self::Value) -> bool;
}

/// The addresses of a CIDR that can be given to a Service: not the first,
/// and in IPv4 not the last.
pub(super) struct Addresses(pub(super) IpNet);

impl Range for Addresses {
    type Value = IpAddr;

    fn len(&self) -> u128 {
        let bits = u32::from(self.0.max_prefix_len() - self.0.prefix_len());
        let all = 1u128.checked_shl(bits).unwrap_or(u128::MAX);
        let reserved = match self.0 {
            IpNet::V4(_) => 2,
            IpNet::V6(_) => 1,
        };
        all.saturating_sub(reserved)
    }

    fn at(&self, index: u128) -> IpAddr {
        match self.0.network() {
            IpAddr::V4(network) => {
                let offset = u32::try_from(index + 1).unwrap_or(u32::MAX);
                IpAddr::V4(u32::from(network).saturating_add(offset).into())
            }
            IpAddr::V6(network) => IpAddr::V6((u128::from(network) + index + 1).into()),
        }
    }

    fn contains(&self, value: IpAddr) -> bool {
        let last = matches!(self.0, IpNet::V4(_)) && value == self.0.broadcast();
        self.0.contains(&value) && value != self.0.network() && !last
    }
}

pub(super) struct Ports(pub(super) std::ops::RangeInclusive<u16>);

impl Range for Ports {
    type Value = u16;

    fn len(&self) -> u128 {
        u128::from(self.0.end() - self.0.start()) + 1
    }

    fn at(&self, index: u128) -> u16 {
        self.0.start() + u16::try_from(index).unwrap_or_default()
    }

    fn contains(&self, value: u16) -> bool {
        self.0.contains(&value)
    }
}

/// What is in use, and what was.
pub(super) struct Pool<V> {
    owners: BTreeMap<V, ObjectName>,
    remembered: BTreeSet<V>,
}

impl<V: Copy + Ord> Pool<V> {
    /// `remembered` are all values of the ledger: they are not handed out
    /// while there are others.
    pub(super) fn new(remembered: BTreeSet<V>) -> Self {
        Self {
            owners: BTreeMap::new(),
            remembered,
        }
    }

    /// Takes `value` for `owner`, or tells who else has it.
    pub(super) fn take(&mut self, value: V, owner: &ObjectName) -> Result<(), &ObjectName> {
        let holder = self.owners.entry(value).or_insert_with(|| owner.clone());
        if holder == owner { Ok(()) } else { Err(holder) }
    }

    /// The value that `key` has in `table`, if it still can have it.
    pub(super) fn keep(
        &mut self,
        table: &mut Table<V>,
        key: &str,
        owner: &ObjectName,
        usable: impl Fn(V) -> bool,
    ) -> Option<V> {
        let entry = table.get_mut(key)?;
        if !usable(entry.value) || self.owners.contains_key(&entry.value) {
            return None;
        }
        entry.released = None;
        self.owners.insert(entry.value, owner.clone());
        Some(entry.value)
    }

    /// A new value for `key`: the first from its hash on that nobody has or
    /// had, else the one that was given back first. `None` when all are in
    /// use.
    pub(super) fn allocate<R: Range<Value = V>>(
        &mut self,
        range: &R,
        table: &mut Table<V>,
        key: &str,
        owner: &ObjectName,
    ) -> Option<V> {
        let value = match self.probe(range, key) {
            Some(value) => value,
            None => {
                let value = self.oldest(range, table)?;
                table.retain(|_, entry| entry.value != value);
                value
            }
        };
        let released = None;
        table.insert(key.to_owned(), Entry { value, released });
        self.owners.insert(value, owner.clone());
        Some(value)
    }

    fn probe<R: Range<Value = V>>(&self, range: &R, key: &str) -> Option<V> {
        let len = range.len();
        let start = u128::from(hash(key)).checked_rem(len)?;
        (0..len)
            .map(|step| range.at((start + step) % len))
            // Of more values than are taken, one is free.
            .take(self.owners.len() + self.remembered.len() + 1)
            .find(|value| !self.owners.contains_key(value) && !self.remembered.contains(value))
    }

    fn oldest<R: Range<Value = V>>(&self, range: &R, table: &Table<V>) -> Option<V> {
        let free = table
            .values()
            .filter(|entry| range.contains(entry.value) && !self.owners.contains_key(&entry.value));
        let released = free.filter_map(|entry| Some((entry.released?, entry.value)));
        released.min().map(|(_, value)| value)
    }
}

/// The same on every machine and in every version, so that agents that do not
/// share a ledger mostly agree.
fn hash(key: &str) -> u64 {
    let mut hasher = fnv::FnvHasher::default();
    hasher.write(key.as_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        fn check(cidr: &str, len: u128, first: &str, last: &str, outside: &[&str]) {
            let range = Addresses(cidr.parse().unwrap());
            assert_eq!(range.len(), len, "{cidr}");
            assert_eq!(range.at(0).to_string(), first, "{cidr}");
            assert_eq!(range.at(len - 1).to_string(), last, "{cidr}");
            assert!(
                range.contains(range.at(0)) && range.contains(range.at(len - 1)),
                "{cidr}"
            );
            for address in outside {
                assert!(
                    !range.contains(address.parse().unwrap()),
                    "{cidr} {address}"
                );
            }
        }
        check(
            "10.96.0.0/16",
            65_534,
            "10.96.0.1",
            "10.96.255.254",
            &["10.96.0.0", "10.96.255.255", "10.97.0.1"],
        );
        check(
            "fd00:10:96::/112",
            65_535,
            "fd00:10:96::1",
            "fd00:10:96::ffff",
            &["fd00:10:96::", "fd00::1"],
        );
        check("10.0.0.0/30", 2, "10.0.0.1", "10.0.0.2", &["10.0.0.3"]);
        assert_eq!(Addresses("10.0.0.0/32".parse().unwrap()).len(), 0);
    }

    #[test]
    fn the_hash_is_stable() {
        assert_eq!(hash(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash("a"), 0xaf63_dc4c_8601_ec8c);
    }

    #[test]
    fn released_values_come_last_and_oldest_first() {
        let range = Ports(30_000..=30_002);
        let owner = ObjectName::new("ns", "x");
        let mut table: Table<u16> = [(30_000, Some(7)), (30_001, Some(3))]
            .map(|(value, released)| (value.to_string(), Entry { value, released }))
            .into();
        let mut pool = Pool::new([30_000, 30_001].into());
        let mut next = |key: &str| pool.allocate(&range, &mut table, key, &owner);
        let found = ["a", "b", "c", "d"].map(&mut next);
        assert_eq!(found, [Some(30_002), Some(30_001), Some(30_000), None]);
        assert_eq!(table.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
    }
}

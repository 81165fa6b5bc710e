//! The maps: names, kinds and sizes, once for both halves.

use crate::{
    Address, Affinity, Backend, ClientKey, Connection, Fragment, FragmentKey, Frontend,
    FrontendKey, Holdings, Hop, Interface, NetworkKey, Settings, Tuple, known, ports,
    sets::{self, Element, Mark, Members, Secret, Set},
    verdict::COUNTERS,
};

pub const FRONTENDS: usize = 1 << 19;
pub const SLOTS: usize = 1 << 21;
pub const BACKENDS: usize = 1 << 19;
/// Elements, two a connection.
pub const ASSURED: usize = 1 << 18;
/// What the table of sets is for.
pub const UNASSURED: usize = 1 << 17;
pub const HOLDINGS: usize = 1 << 17;
pub const FRAGMENTS: usize = 1 << 13;
pub const AFFINITY: usize = 1 << 17;
pub const NETWORKS: usize = 1 << 17;
pub const INTERFACES: usize = 1 << 14;
pub const LOCAL_ADDRESSES: usize = 1 << 14;

/// A pinned map. Its pin's name ends in a hash of all this, so a program never
/// opens a map that another version laid out differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    /// Symbol in the object, and first part of the pin's name.
    pub name: &'static str,
    pub kind: &'static str,
    pub key: &'static str,
    /// With the layouts of what it is made of.
    pub value: &'static [&'static str],
    pub max_entries: u32,
}

impl Map {
    /// FNV-1a, 64 bit, over every part.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut add = |bytes: &[u8]| {
            for &byte in bytes {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        };
        let parts = [self.name, self.kind, self.key].into_iter();
        for part in parts.chain(self.value.iter().copied()) {
            add(part.as_bytes());
            add(&[0]);
        }
        add(&self.max_entries.to_le_bytes());
        hash
    }
}

pub const ALL: [Map; 17] = [
    Map {
        name: "FRONTENDS",
        kind: "hash",
        key: FrontendKey::LAYOUT,
        value: &[Frontend::LAYOUT],
        max_entries: FRONTENDS as u32,
    },
    Map {
        name: "PORTS",
        kind: "array",
        key: "u32",
        value: &["u64"],
        max_entries: ports::WORDS,
    },
    Map {
        name: "SLOTS",
        kind: "array",
        key: "u32",
        value: &["u32"],
        max_entries: SLOTS as u32,
    },
    Map {
        name: "BACKENDS",
        kind: "array",
        key: "u32",
        value: &[Backend::LAYOUT],
        max_entries: BACKENDS as u32,
    },
    // Those that their sets have no room for.
    Map {
        name: "ASSURED",
        kind: "hash",
        key: Tuple::LAYOUT,
        value: &[Connection::LAYOUT],
        max_entries: ASSURED as u32,
    },
    Map {
        name: "SETS",
        kind: "array",
        key: "u32",
        value: &[
            Set::LAYOUT,
            Mark::LAYOUT,
            Members::LAYOUT,
            Element::LAYOUT,
            Tuple::LAYOUT,
            Connection::LAYOUT,
            Hop::LAYOUT,
            Secret::LAYOUT,
        ],
        max_entries: sets::sets(UNASSURED as u32),
    },
    // Neither of both is of use with another layout of the other, so they change
    // names with both.
    Map {
        name: "CONNECTIONS",
        kind: "array",
        key: "u32",
        value: &[
            Members::LAYOUT,
            Element::LAYOUT,
            Tuple::LAYOUT,
            Connection::LAYOUT,
            Hop::LAYOUT,
            Set::LAYOUT,
            Mark::LAYOUT,
            Secret::LAYOUT,
        ],
        max_entries: sets::sets(UNASSURED as u32),
    },
    Map {
        name: "SECRET",
        kind: "array",
        key: "u32",
        value: &[Secret::LAYOUT],
        max_entries: 1,
    },
    Map {
        name: "KNOWN",
        kind: "array",
        key: "u32",
        value: &["u64"],
        max_entries: known::ELEMENTS,
    },
    Map {
        name: "HOLDINGS",
        kind: "hash",
        key: "u32",
        value: &[Holdings::LAYOUT],
        max_entries: HOLDINGS as u32,
    },
    Map {
        name: "FRAGMENTS",
        kind: "lru_hash",
        key: FragmentKey::LAYOUT,
        value: &[Fragment::LAYOUT],
        max_entries: FRAGMENTS as u32,
    },
    Map {
        name: "AFFINITY",
        kind: "lru_hash",
        key: ClientKey::LAYOUT,
        value: &[Affinity::LAYOUT],
        max_entries: AFFINITY as u32,
    },
    Map {
        name: "NETWORKS",
        kind: "lpm_trie",
        key: NetworkKey::LAYOUT,
        value: &["u32"],
        max_entries: NETWORKS as u32,
    },
    Map {
        name: "SETTINGS",
        kind: "array",
        key: "u32",
        value: &[Settings::LAYOUT],
        max_entries: 1,
    },
    Map {
        name: "INTERFACES",
        kind: "hash",
        key: "u32",
        value: &[Interface::LAYOUT],
        max_entries: INTERFACES as u32,
    },
    Map {
        name: "LOCAL_ADDRESSES",
        kind: "hash",
        key: Address::LAYOUT,
        value: &["u32"],
        max_entries: LOCAL_ADDRESSES as u32,
    },
    Map {
        name: "COUNTERS",
        kind: "percpu_array",
        key: "u32",
        value: &["u64"],
        max_entries: COUNTERS,
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn sets_and_what_is_in_them_change_names_together() {
        let layouts = ["SETS", "CONNECTIONS"].map(|name| {
            let map = ALL.iter().find(|map| map.name == name).unwrap();
            BTreeSet::from_iter(map.value)
        });
        assert_eq!(layouts[0], layouts[1]);
    }

    /// Another name is another map: whatever the one before held is lost to those
    /// who upgrade. To be changed with a layout, and for no other reason.
    #[test]
    fn names_of_maps_stay() {
        for (name, fingerprint) in [
            ("FRONTENDS", 0x88e5_2655_0ea1_8311),
            ("SLOTS", 0xbe32_8aab_bebb_634d),
            ("BACKENDS", 0xaa62_cadc_ec26_4939),
            ("ASSURED", 0x8324_606b_f2ac_09ed),
            ("HOLDINGS", 0xe72e_a6db_053d_06b1),
            ("NETWORKS", 0xf314_5276_f114_4bad),
            ("AFFINITY", 0xa13f_7e61_a290_5fa7),
        ] {
            let map = ALL.iter().find(|map| map.name == name).unwrap();
            assert_eq!(
                map.fingerprint(),
                fingerprint,
                "{name} {:#x}",
                map.fingerprint()
            );
        }
    }
}

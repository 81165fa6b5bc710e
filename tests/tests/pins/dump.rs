//! The maps as they are, byte by byte.

use std::{collections::BTreeMap, path::Path};

use aya::maps::{Array, HashMap, MapData};
use lb_common::{Address, Backend, Frontend, FrontendKey, Interface};

use super::kernel::{Kernel, hash};

/// All that decides where packets go.
#[derive(Debug, PartialEq)]
pub(crate) struct Dump {
    frontends: BTreeMap<FrontendKey, Frontend>,
    slots: BTreeMap<u32, u32>,
    backends: BTreeMap<u32, Backend>,
    interfaces: BTreeMap<u32, Interface>,
    addresses: BTreeMap<Address, u32>,
}

pub(crate) fn dump(pins: &Path) -> Dump {
    /// Enough for the few that these tests need.
    const FIRST: u32 = 64;

    fn entries<K: aya::Pod + Ord, V: aya::Pod>(map: &HashMap<MapData, K, V>) -> BTreeMap<K, V> {
        map.iter().map(Result::unwrap).collect()
    }
    fn values<V: aya::Pod>(map: &Array<MapData, V>) -> BTreeMap<u32, V> {
        (0..FIRST)
            .map(|index| (index, map.get(&index, 0).unwrap()))
            .collect()
    }
    let kernel = Kernel::open(pins);
    Dump {
        frontends: entries(&kernel.frontends),
        slots: values(&kernel.slots),
        backends: values(&kernel.backends),
        interfaces: entries(&hash(pins, "INTERFACES")),
        addresses: entries(&hash(pins, "LOCAL_ADDRESSES")),
    }
}

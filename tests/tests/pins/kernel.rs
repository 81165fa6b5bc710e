//! What the pins hold, read past the agent.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData},
    programs::links::{FdLink, PinnedLink},
};
use lb_common::{Backend, Frontend, FrontendKey, Slice};

/// The one pin of a map; a fingerprint ends its name.
pub(crate) fn map_path(pins: &Path, name: &str) -> PathBuf {
    let prefix = format!("{name}_");
    let mut paths = Vec::new();
    for entry in fs::read_dir(pins.join("maps")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            paths.push(entry.path());
        }
    }
    assert_eq!(paths.len(), 1, "{paths:?}");
    paths.remove(0)
}

pub(crate) fn hash<K: Pod, V: Pod>(pins: &Path, name: &str) -> HashMap<MapData, K, V> {
    let data = MapData::from_pin(map_path(pins, name)).unwrap();
    Map::HashMap(data).try_into().unwrap()
}

pub(crate) fn array<V: Pod>(pins: &Path, name: &str) -> Array<MapData, V> {
    let data = MapData::from_pin(map_path(pins, name)).unwrap();
    Map::Array(data).try_into().unwrap()
}

/// The maps that decide where a new connection goes.
pub(crate) struct Kernel {
    pub(crate) frontends: HashMap<MapData, FrontendKey, Frontend>,
    pub(crate) slots: Array<MapData, u32>,
    pub(crate) backends: Array<MapData, Backend>,
}

impl Kernel {
    pub(crate) fn open(pins: &Path) -> Self {
        Self {
            frontends: hash(pins, "FRONTENDS"),
            slots: array(pins, "SLOTS"),
            backends: array(pins, "BACKENDS"),
        }
    }

    /// What pods may reach at a frontend; nothing while it changes.
    pub(crate) fn chosen(&self, key: &FrontendKey) -> BTreeSet<SocketAddr> {
        let Ok(frontend) = self.frontends.get(key, 0) else {
            return BTreeSet::new();
        };
        let slice = Slice::unpack(frontend.inside);
        let backend = |slot| {
            let backend = self.backends.get(&self.slots.get(&slot, 0).ok()?, 0).ok()?;
            let address: IpAddr = backend.address.into();
            Some(SocketAddr::new(address, u16::from_be(backend.port)))
        };
        (slice.base..slice.base.saturating_add(slice.count))
            .filter_map(backend)
            .collect()
    }
}

/// Link and program ids by the name of the link's pin.
pub(crate) fn links(pins: &Path) -> BTreeMap<String, (u32, u32)> {
    let entries = fs::read_dir(pins.join("links")).unwrap();
    entries
        .map(|entry| {
            let entry = entry.unwrap();
            let link = FdLink::from(PinnedLink::from_pin(entry.path()).unwrap());
            let info = link.info().unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, (info.id(), info.program_id()))
        })
        .collect()
}

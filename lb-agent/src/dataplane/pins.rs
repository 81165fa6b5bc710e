//! Where maps are pinned: the name of a pin says layout and size.

use std::{
    fs,
    path::{Path, PathBuf},
};

use aya::maps::MapInfo;
use lb_common::{
    maps::{self, Map},
    sets,
};

use super::bpffs;
use crate::connections::Limits;

/// Frontends hold runs of slots and sets of networks, slots ids of backends.
const LINKED: [&str; 4] = ["FRONTENDS", "SLOTS", "BACKENDS", "NETWORKS"];

/// The maps of this agent, of the sizes that it is told.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    folder: PathBuf,
    pub(super) maps: [Map; maps::ALL.len()],
}

impl Pins {
    pub(super) fn new(folder: &Path, limits: &Limits) -> Self {
        Self {
            folder: folder.to_owned(),
            maps: maps::ALL.map(|map| Map {
                max_entries: match map.name {
                    "ASSURED" => 2 * limits.assured,
                    "SETS" | "CONNECTIONS" => sets::sets(2 * limits.unassured),
                    _ => map.max_entries,
                },
                ..map
            }),
        }
    }

    /// Where the map of this name is pinned.
    pub(super) fn of(&self, name: &str) -> PathBuf {
        let map = self.maps.iter().find(|map| map.name == name);
        map.map_or_else(|| bpffs::maps(&self.folder), |map| self.path(map))
    }

    /// Other layouts have other names. Maps that hold each other's ids change
    /// names together.
    pub(super) fn path(&self, map: &Map) -> PathBuf {
        let mut fingerprint = map.fingerprint();
        if LINKED.contains(&map.name) {
            fingerprint = self
                .linked()
                .fold(0, |all: u64, map| all.rotate_left(1) ^ map.fingerprint());
        }
        bpffs::maps(&self.folder).join(format!("{}_{fingerprint:016x}", map.name))
    }

    /// Pinned maps that this agent would not write.
    pub(super) fn foreign(&self) -> Vec<PathBuf> {
        let ours: Vec<PathBuf> = self.maps.iter().map(|map| self.path(map)).collect();
        let mut foreign = bpffs::files(&bpffs::maps(&self.folder));
        foreign.retain(|path| !ours.contains(path));
        foreign
    }

    /// Those of [`Self::foreign`] that are this map but for their size.
    pub(super) fn other_sizes(&self, name: &str) -> Vec<PathBuf> {
        let Some(map) = self.maps.iter().find(|map| map.name == name) else {
            return Vec::new();
        };
        let mut others = self.foreign();
        others.retain(|path| {
            let room = room(path).unwrap_or_default();
            self.sized(map, room).is_some_and(|sized| sized == *path)
        });
        others
    }

    /// The same of SETS and CONNECTIONS, which belong together.
    pub(super) fn other_sets(&self) -> Vec<[PathBuf; 2]> {
        let Some(members) = self.maps.iter().find(|map| map.name == "CONNECTIONS") else {
            return Vec::new();
        };
        let both = self.other_sizes("SETS").into_iter().filter_map(|sets| {
            let members = self.sized(members, room(&sets)?)?;
            Some([sets, members])
        });
        both.collect()
    }

    /// Where this map is pinned in another size, if it is.
    fn sized(&self, map: &Map, max_entries: u32) -> Option<PathBuf> {
        let sized = Map {
            max_entries,
            ..*map
        };
        let path = self.path(&sized);
        fits(&path, &sized).then_some(path)
    }

    /// Unpins what bears one of our names and is something else: someone put it
    /// there. It would be misread, or fail the load.
    pub(super) fn discard_misfits(&self) {
        for map in &self.maps {
            let path = self.path(map);
            if path.exists() && !fits(&path, map) {
                tracing::warn!(path = %path.display(), "pinned map is not what its name says");
                discard(&path);
            }
        }
        let sets = ["SETS", "CONNECTIONS"].map(|name| self.of(name));
        if !self.of("SECRET").exists() {
            discard_all(&sets, "nobody knows what its keys are hashed with");
        }
        let linked: Vec<PathBuf> = self.linked().map(|map| self.path(map)).collect();
        for together in [&sets[..], &linked] {
            if !together.iter().all(|path| path.exists()) {
                discard_all(together, "pinned map lacks those it refers to");
            }
        }
    }

    /// Unpins the map, if it is pinned.
    pub(super) fn discard(&self, name: &str) {
        let path = self.of(name);
        if path.exists() {
            discard(&path);
        }
    }

    fn linked(&self) -> impl Iterator<Item = &Map> {
        let all = self.maps.iter();
        all.filter(|map| LINKED.contains(&map.name))
    }
}

fn discard_all(paths: &[PathBuf], why: &str) {
    for path in paths.iter().filter(|path| path.exists()) {
        tracing::warn!(path = %path.display(), "{why}");
        discard(path);
    }
}

fn discard(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(path = %path.display(), %error, "not removed");
    }
}

/// How many elements it takes.
fn room(path: &Path) -> Option<u32> {
    MapInfo::from_pin(path).ok().map(|info| info.max_entries())
}

fn fits(path: &Path, map: &Map) -> bool {
    let Ok(info) = MapInfo::from_pin(path) else {
        return false;
    };
    let size = |layout: &str| match layout {
        "u32" => Some(4),
        "u64" => Some(8),
        layout => layout.split([':', '{']).nth(1)?.parse::<u32>().ok(),
    };
    let prefix_length = match map.kind {
        "lpm_trie" => 4,
        _ => 0,
    };
    info.max_entries() == map.max_entries
        && Some(info.key_size()) == size(map.key).map(|size| size + prefix_length)
        && Some(info.value_size()) == map.value.first().and_then(|layout| size(layout))
}

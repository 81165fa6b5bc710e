//! Loads the object; adopts pinned maps of the same layout.

use std::{
    fs,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{Array, Map, MapError},
    programs::{ProgramError, SchedClassifier, Xdp},
};
use lb_common::{Settings, maps};

use super::{Dataplane, DataplaneError, Options, attach::Attachments, bpffs, settings};

pub(super) const XDP: &str = "lb_xdp";
pub(super) const INGRESS: &str = "lb_ingress";
pub(super) const EGRESS: &str = "lb_egress";

/// Frontends hold runs of slots and sets of networks, slots ids of backends.
const LINKED: [&str; 4] = ["FRONTENDS", "SLOTS", "BACKENDS", "NETWORKS"];

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-ebpf"));

pub(super) fn open(options: &Options) -> Result<Dataplane, DataplaneError> {
    bpffs::prepare(&options.bpffs)?;
    let pins = &options.bpffs;
    discard_misfits(pins);
    let frontends = pin_of(pins, "FRONTENDS");
    let adopted = frontends.exists();
    let configured = pin_of(pins, "SETTINGS").exists();

    let mut loader = loader(options.trace_packets);
    for map in &maps::ALL {
        loader.map_pin_path(map.name, pin(pins, map));
    }
    let mut ebpf = loader.load(OBJECT).map_err(Box::new)?;
    load_programs(&mut ebpf)?;
    let mut settings: Array<_, Settings> = take(&mut ebpf, "SETTINGS")?;
    if !configured {
        let initial = settings.set(0, settings::initial(), 0);
        initial.map_err(|source| DataplaneError::Map {
            map: "SETTINGS",
            source,
        })?;
    }
    let mut dataplane = Dataplane {
        frontends: take(&mut ebpf, "FRONTENDS")?,
        slots: take(&mut ebpf, "SLOTS")?,
        backends: take(&mut ebpf, "BACKENDS")?,
        networks: take(&mut ebpf, "NETWORKS")?,
        settings,
        affinity: take(&mut ebpf, "AFFINITY")?,
        interfaces: take(&mut ebpf, "INTERFACES")?,
        local_addresses: take(&mut ebpf, "LOCAL_ADDRESSES")?,
        counters: take(&mut ebpf, "COUNTERS")?,
        attachments: Attachments::new(pins, options.xdp, options.tc),
        pins: pins.clone(),
        adopted,
        ebpf,
    };
    if adopted && !configured {
        dataplane.cover_cluster_ips()?;
    }
    Ok(dataplane)
}

/// As [`open`] begins, but nothing is pinned and no program loaded.
pub(super) fn unloaded(trace_packets: bool) -> Result<Ebpf, DataplaneError> {
    let mut loader = loader(trace_packets);
    loader.verifier_log_level(VerifierLogLevel::STATS);
    Ok(loader.load(OBJECT).map_err(Box::new)?)
}

/// Pinned maps that this version would not write.
pub(super) fn foreign_maps(pins: &Path) -> Vec<PathBuf> {
    let ours: Vec<PathBuf> = maps::ALL.iter().map(|map| pin(pins, map)).collect();
    let mut foreign = bpffs::files(&bpffs::maps(pins));
    foreign.retain(|path| !ours.contains(path));
    foreign
}

/// Where the map of this name is pinned.
pub(super) fn pin_of(pins: &Path, name: &str) -> PathBuf {
    let map = maps::ALL.iter().find(|map| map.name == name);
    map.map_or_else(|| bpffs::maps(pins), |map| pin(pins, map))
}

fn loader(trace_packets: bool) -> EbpfLoader<'static> {
    let level: &u8 = if trace_packets { &u8::MAX } else { &0 };
    let mut loader = EbpfLoader::new();
    loader.override_global("AYA_LOG_LEVEL", level, false);
    loader
}

/// The name says the layout: other layouts have other names.
///
/// Maps that hold each other's ids change names together.
fn pin(pins: &Path, map: &maps::Map) -> PathBuf {
    let mut fingerprint = map.fingerprint();
    if LINKED.contains(&map.name) {
        let linked = maps::ALL.iter().filter(|map| LINKED.contains(&map.name));
        fingerprint = linked.fold(0, |all: u64, map| all.rotate_left(1) ^ map.fingerprint());
    }
    bpffs::maps(pins).join(format!("{}_{fingerprint:016x}", map.name))
}

/// Unpins what bears one of our names and is something else: someone put it
/// there. It would be misread, or fail the load.
fn discard_misfits(pins: &Path) {
    for map in &maps::ALL {
        let path = pin(pins, map);
        if path.exists() && !fits(&path, map) {
            tracing::warn!(path = %path.display(), "pinned map is not what its name says");
            discard(&path);
        }
    }
    let linked = maps::ALL.iter().filter(|map| LINKED.contains(&map.name));
    let linked: Vec<PathBuf> = linked.map(|map| pin(pins, map)).collect();
    if linked.iter().all(|path| path.exists()) {
        return;
    }
    for path in linked.iter().filter(|path| path.exists()) {
        tracing::warn!(path = %path.display(), "pinned map lacks those it refers to");
        discard(path);
    }
}

fn discard(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(path = %path.display(), %error, "not removed");
    }
}

fn fits(path: &Path, map: &maps::Map) -> bool {
    let Ok(info) = aya::maps::MapInfo::from_pin(path) else {
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
        && Some(info.value_size()) == size(map.value)
}

fn load_programs(ebpf: &mut Ebpf) -> Result<(), DataplaneError> {
    fn refused(program: &'static str) -> impl Fn(ProgramError) -> DataplaneError {
        move |error| DataplaneError::Program {
            program,
            reason: format!("{:#}", anyhow::Error::new(error)),
        }
    }
    let xdp: &mut Xdp = program(ebpf, XDP)?;
    xdp.load().map_err(refused(XDP))?;
    for name in [INGRESS, EGRESS] {
        let classifier: &mut SchedClassifier = program(ebpf, name)?;
        classifier.load().map_err(refused(name))?;
    }
    Ok(())
}

pub(super) fn program<'a, T>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<T, DataplaneError>
where
    T: TryFrom<&'a mut aya::programs::Program>,
{
    ebpf.program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or(DataplaneError::Incomplete {
            what: "program",
            name,
        })
}

fn take<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, DataplaneError>
where
    T: TryFrom<Map, Error = MapError>,
{
    let map = ebpf
        .take_map(name)
        .ok_or(DataplaneError::Incomplete { what: "map", name })?;
    T::try_from(map).map_err(|source| DataplaneError::Map { map: name, source })
}

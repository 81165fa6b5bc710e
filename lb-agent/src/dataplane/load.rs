//! Loads the object; adopts pinned maps of the same layout.

use std::collections::BTreeSet;

use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{Array, Map, MapError},
    programs::{ProgramError, SchedClassifier, Xdp},
};
use lb_common::Settings;

use super::{
    Connections, Dataplane, DataplaneError, Options, attach::Attachments, bpffs, former::Former,
    pins::Pins, settings,
};
use crate::shortcut::ShortcutOption;

pub(super) const XDP: &str = "lb_xdp";
pub(super) const INGRESS: &str = "lb_ingress";
pub(super) const EGRESS: &str = "lb_egress";
pub(super) const COLLECT: &str = "lb_collect";

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-ebpf"));

pub(super) fn open(options: &Options) -> Result<Dataplane, DataplaneError> {
    bpffs::prepare(&options.bpffs)?;
    let pins = Pins::new(&options.bpffs, &options.connections.limits);
    pins.discard_misfits();
    let adopted = pins.of("FRONTENDS").exists();
    let configured = pins.of("SETTINGS").exists();
    let counted = ["ASSURED", "HOLDINGS"].map(|name| pins.of(name).exists());
    let former = Former::find(&pins);

    let mut loader = loader(options.trace_packets);
    for map in &pins.maps {
        loader.map_pin_path(map.name, pins.path(map));
        loader.map_max_entries(map.name, map.max_entries);
    }
    let mut ebpf = loader.load(OBJECT).map_err(Box::new)?;
    load_programs(&mut ebpf)?;
    let own_programs = [INGRESS, EGRESS].map(|name| program_id(&ebpf, name));
    let mut settings: Array<_, Settings> = take(&mut ebpf, "SETTINGS")?;
    settings::write(&mut settings, configured, &options.connections).map_err(|source| {
        DataplaneError::Map {
            map: "SETTINGS",
            source,
        }
    })?;
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
        connections: Connections {
            assured: take_map(&mut ebpf, "ASSURED")?,
            unassured: take_map(&mut ebpf, "UNASSURED")?,
            holdings: take_map(&mut ebpf, "HOLDINGS")?,
            former,
            miscounted: counted != [true; 2],
        },
        attachments: Attachments::new(&options.bpffs, options.xdp, options.tc),
        pins,
        own_programs,
        peers: BTreeSet::new(),
        any_peer: options.shortcut == ShortcutOption::Always,
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

fn loader(trace_packets: bool) -> EbpfLoader<'static> {
    let level: &u8 = if trace_packets { &u8::MAX } else { &0 };
    let mut loader = EbpfLoader::new();
    loader.override_global("AYA_LOG_LEVEL", level, false);
    loader
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
    for name in [INGRESS, EGRESS, COLLECT] {
        let classifier: &mut SchedClassifier = program(ebpf, name)?;
        classifier.load().map_err(refused(name))?;
    }
    Ok(())
}

/// 0, which is no program's, if the kernel does not say.
fn program_id(ebpf: &Ebpf, name: &str) -> u32 {
    let info = ebpf.program(name).map(aya::programs::Program::info);
    info.and_then(Result::ok).map_or(0, |info| info.id())
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
    let map = take_map(ebpf, name)?;
    T::try_from(map).map_err(|source| DataplaneError::Map { map: name, source })
}

fn take_map(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, DataplaneError> {
    ebpf.take_map(name)
        .ok_or(DataplaneError::Incomplete { what: "map", name })
}

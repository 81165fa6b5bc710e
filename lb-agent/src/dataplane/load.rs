//! Loads the object; adopts pinned maps of the same layout.

use std::{collections::BTreeSet, sync::Arc, thread};

use aya::{
    Ebpf, EbpfLoader, Pod, VerifierLogLevel,
    maps::{Array, Map, MapError},
    programs::{Program, ProgramError},
};
use bytemuck::Zeroable;
use lb_common::Settings;

use super::{
    Batches, Connections, Dataplane, DataplaneError, Options, attach::Attachments, bpffs,
    elements::Elements, former::Former, known::Known, pins::Pins, ports::Ports, sets, settings,
};
use crate::shortcut::ShortcutOption;

pub(super) const XDP: &str = "lb_xdp";
pub(super) const INGRESS: &str = "lb_ingress";
pub(super) const EGRESS: &str = "lb_egress";
pub(super) const COLLECT: &str = "lb_collect";

pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-ebpf"));

pub(super) fn open(options: &Options) -> Result<Dataplane, DataplaneError> {
    bpffs::prepare(&options.bpffs)?;
    let pins = Pins::new(&options.bpffs, &options.connections.limits);
    pins.discard_misfits();
    let adopted = pins.of("FRONTENDS").exists();
    let configured = pins.of("SETTINGS").exists();
    let are_there = ["ASSURED", "SETS", "HOLDINGS"].map(|name| pins.of(name).exists());
    let [has_overflow, has_sets, _] = are_there;
    let former = Former::find(&pins);
    // What the former hold is counted when it is taken along.
    let miscounted = former.is_empty() && are_there.contains(&true) && are_there.contains(&false);
    if miscounted {
        pins.discard("HOLDINGS");
    }

    let mut loader = loader(options.trace_packets);
    for map in &pins.maps {
        if map.name != "HOLDINGS" || !miscounted {
            loader.map_pin_path(map.name, pins.path(map));
        }
        loader.map_max_entries(map.name, map.max_entries);
        if map.name == "SETS" {
            loader.override_global("CONNECTION_SETS", &map.max_entries, true);
        }
    }
    let mut ebpf = loader.load(OBJECT).map_err(Box::new)?;
    load_programs(&mut ebpf)?;
    let own_programs = [INGRESS, EGRESS].map(|name| program_id(&ebpf, name));
    let known = Known::open(&take_map(&mut ebpf, "KNOWN")?)?;
    // Whoever entered them may not have noted it.
    if has_overflow || has_sets || !former.is_empty() {
        known.admit_all();
    }
    let mut secret = take(&mut ebpf, "SECRET")?;
    sets::draw(&mut secret)?;
    let mut settings: Array<_, Settings> = take(&mut ebpf, "SETTINGS")?;
    settings::write(&mut settings, configured, &options.connections).map_err(|source| {
        DataplaneError::Map {
            map: "SETTINGS",
            source,
        }
    })?;
    let ports = Ports::open(take(&mut ebpf, "PORTS")?).map_err(|source| DataplaneError::Map {
        map: "PORTS",
        source,
    })?;
    let batches = Batches {
        frontends: elements(&ebpf, "FRONTENDS")?,
        slots: elements(&ebpf, "SLOTS")?,
        backends: elements(&ebpf, "BACKENDS")?,
    };
    let mut dataplane = Dataplane {
        batches,
        frontends: take(&mut ebpf, "FRONTENDS")?,
        ports,
        slots: take(&mut ebpf, "SLOTS")?,
        backends: take(&mut ebpf, "BACKENDS")?,
        networks: take(&mut ebpf, "NETWORKS")?,
        settings,
        affinity: take(&mut ebpf, "AFFINITY")?,
        interfaces: take(&mut ebpf, "INTERFACES")?,
        local_addresses: take(&mut ebpf, "LOCAL_ADDRESSES")?,
        counters: take(&mut ebpf, "COUNTERS")?,
        connections: Connections {
            overflow: take_map(&mut ebpf, "ASSURED")?,
            sets: take_map(&mut ebpf, "SETS")?,
            members: take_map(&mut ebpf, "CONNECTIONS")?,
            secret,
            holdings: take_map(&mut ebpf, "HOLDINGS")?,
            known: Arc::new(known),
            former,
            miscounted,
        },
        attachments: Attachments::new(&options.bpffs, options.xdp, options.tc),
        pins,
        own_programs,
        peers: BTreeSet::new(),
        any_peer: options.shortcut == ShortcutOption::Always,
        adopted,
        ebpf,
    };
    if adopted {
        dataplane.admit_entered()?;
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

/// All at once: the verifier takes its time over each.
fn load_programs(ebpf: &mut Ebpf) -> Result<(), DataplaneError> {
    for name in [XDP, INGRESS, EGRESS, COLLECT] {
        ebpf.program(name).ok_or(DataplaneError::Incomplete {
            what: "program",
            name,
        })?;
    }
    thread::scope(|scope| {
        let programs = ebpf.programs_mut();
        let loading: Vec<_> = programs
            .map(|(name, program)| {
                let name = name.to_owned();
                scope.spawn(move || load_program(name, program))
            })
            .collect();
        let mut results = loading.into_iter().map(|thread| {
            let ended = thread.join();
            ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        results.try_for_each(|result| result)
    })
}

fn load_program(name: String, program: &mut Program) -> Result<(), DataplaneError> {
    let result = match program {
        Program::Xdp(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    };
    result.map_err(|error| DataplaneError::Program {
        program: name,
        reason: format!("{:#}", anyhow::Error::new(error)),
    })
}

/// 0, which is no program's, if the kernel does not say.
fn program_id(ebpf: &Ebpf, name: &str) -> u32 {
    let info = ebpf.program(name).map(Program::info);
    info.and_then(Result::ok).map_or(0, |info| info.id())
}

pub(super) fn program<'a, T>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<T, DataplaneError>
where
    T: TryFrom<&'a mut Program>,
{
    ebpf.program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or(DataplaneError::Incomplete {
            what: "program",
            name,
        })
}

fn elements<K: Pod + Zeroable, V: Pod + Zeroable>(
    ebpf: &Ebpf,
    name: &'static str,
) -> Result<Elements<K, V>, DataplaneError> {
    let map = ebpf.map(name);
    Elements::open(
        name,
        map.ok_or(DataplaneError::Incomplete { what: "map", name })?,
    )
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

//! The kernel side as the agent sees it: programs, maps, pins, attachments.
//!
//! Architecture Invariant: aya types stay in this module.

mod attach;
mod bpf;
mod bpffs;
mod collect;
mod connections;
mod elements;
mod former;
mod holdings;
mod known;
mod load;
mod peers;
mod pins;
mod ports;
mod sets;
mod settings;
mod tables;
mod trace;

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use aya::maps::{Array, HashMap as BpfHashMap, LpmTrie, Map, MapData, PerCpuArray};
use lb_common::{
    Address, Affinity, Backend, ClientKey, Frontend, FrontendKey, Hook, Interface, NetworkKey,
    Settings, Verdict, sets::Secret,
};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use thiserror::Error;

use self::attach::Attachments;
pub use self::attach::{Attached, AttachmentError, TcMode, TcModeOption, XdpMode, XdpModeOption};
pub use self::collect::{Collector, Tick};
pub use self::connections::{Census, ConnectionTable, OpenConnection};
pub use self::sets::Sets;
use self::{elements::Elements, former::Former, known::Known, pins::Pins, ports::Ports};
use crate::{
    connections::Settings as ConnectionSettings,
    interfaces::{self, Device},
    shortcut::ShortcutOption,
};

#[derive(Debug, Error)]
pub enum DataplaneError {
    #[error("{path}: {source}")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is not on a BPF filesystem; mount one with `mount -t bpf bpf /sys/fs/bpf`")]
    NotBpffs { path: PathBuf },
    #[error("the kernel refused program {program}: {reason}")]
    Program { program: String, reason: String },
    #[error("{path}: another agent is at work here")]
    Locked { path: PathBuf },
    #[error("the object lacks {what} {name}; it was built from other sources")]
    Incomplete {
        what: &'static str,
        name: &'static str,
    },
    #[error(transparent)]
    Load(#[from] Box<aya::EbpfError>),
    #[error("map {map}: {source}")]
    Map {
        map: &'static str,
        #[source]
        source: aya::maps::MapError,
    },
}

/// Where and how to attach.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder for pins, on a BPF filesystem.
    pub bpffs: PathBuf,
    pub xdp: XdpModeOption,
    pub tc: TcModeOption,
    pub connections: ConnectionSettings,
    /// Whether new connections may take shortcuts, and past what;
    /// [`Dataplane::set_shortcut`] says if they do.
    pub shortcut: ShortcutOption,
    /// Log every packet's verdict. For a person who looks, never for load.
    pub trace_packets: bool,
}

/// Loaded programs and their maps. Dropping it leaves all of it working in
/// the kernel.
pub struct Dataplane {
    batches: Batches,
    frontends: BpfHashMap<MapData, FrontendKey, Frontend>,
    ports: Ports,
    slots: Array<MapData, u32>,
    backends: Array<MapData, Backend>,
    networks: LpmTrie<MapData, NetworkKey, u32>,
    settings: Array<MapData, Settings>,
    affinity: BpfHashMap<MapData, ClientKey, Affinity>,
    interfaces: BpfHashMap<MapData, u32, Interface>,
    local_addresses: BpfHashMap<MapData, Address, u32>,
    counters: PerCpuArray<MapData, u64>,
    connections: Connections,
    attachments: Attachments,
    pins: Pins,
    /// Ids of the TC programs.
    own_programs: [u32; 2],
    /// Indices of the interfaces whose other end shortcuts lead to.
    peers: BTreeSet<u32>,
    /// They lead to every other end that can be reached.
    any_peer: bool,
    /// Whether maps of an earlier agent were found and taken over.
    adopted: bool,
    ebpf: aya::Ebpf,
}

/// The maps that are written by the thousand.
struct Batches {
    frontends: Elements<FrontendKey, Frontend>,
    slots: Elements<u32, u32>,
    backends: Elements<u32, Backend>,
}

/// The tables of connections, and what is counted of them.
struct Connections {
    /// Assured ones that their sets have no room for.
    overflow: Map,
    sets: Map,
    /// What is in the sets.
    members: Map,
    secret: Array<MapData, Secret>,
    holdings: Map,
    known: Arc<Known>,
    /// Tables of other sizes, in use until programs of this agent are attached.
    former: Former,
    /// The holdings are not those of the connections, and so not pinned.
    miscounted: bool,
}

impl Dataplane {
    /// Loads the programs and opens the maps, those of an earlier agent if
    /// they are of this version's layout. Attaches nothing.
    pub fn open(options: &Options) -> Result<Self, DataplaneError> {
        load::open(options)
    }

    /// Makes programs run on exactly these interfaces, and tells them about
    /// each. What an earlier version left attached is replaced in place.
    /// Interfaces that fail are reported and left for the next call.
    pub fn sync_interfaces(
        &mut self,
        interfaces: &[interfaces::Interface],
    ) -> Vec<AttachmentError> {
        self.copy_connections_once();
        // The programs expect an Ethernet header.
        let framed: Vec<_> = interfaces
            .iter()
            .filter(|interface| interface.device != Device::Unframed)
            .cloned()
            .collect();
        // Where XDP may run, TC must know before it does.
        let may_run = |this: &Self, interface: &_| this.attachments.may_run_xdp(interface);
        let mut errors = self.write_interfaces(&framed, may_run, Self::was_peer);
        errors.extend(self.attachments.sync(&mut self.ebpf, &framed));
        let runs = |this: &Self, interface: &_| this.attachments.runs_xdp(interface);
        errors.extend(self.write_interfaces(&framed, runs, Self::is_peer));
        // Programs of before that could not be replaced make it wrong by what they do.
        if self.connections.miscounted {
            self.recount_holdings();
        }
        errors
    }

    /// Makes every client choose its backend anew with its next connection.
    pub fn forget_clients(&mut self) -> Result<(), DataplaneError> {
        let failed = |source| DataplaneError::Map {
            map: "AFFINITY",
            source,
        };
        let clients: Result<Vec<_>, _> = self.affinity.keys().collect();
        for client in clients.map_err(failed)? {
            match self.affinity.remove(&client) {
                Ok(()) | Err(aya::maps::MapError::KeyNotFound) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }

    /// Interfaces with programs on them.
    #[must_use]
    pub fn attached(&self) -> Vec<Attached> {
        self.attachments.list(&self.peers)
    }

    /// Removes pinned maps of other layouts and sizes. To be called when this
    /// version's programs are attached everywhere.
    pub fn forget_other_versions(&mut self) {
        self.settle_connections();
        self.connections.known.rely_on_tables();
        for path in self.pins.foreign() {
            match fs::remove_file(&path) {
                Ok(()) => {
                    tracing::info!(path = %path.display(), "removed a map of another version")
                }
                Err(error) => tracing::warn!(path = %path.display(), %error, "map not removed"),
            }
        }
    }

    /// Packets by hook and verdict, over all CPUs; zeros left out.
    pub fn counters(&self) -> Result<Vec<(Hook, Verdict, u64)>, DataplaneError> {
        let mut counters = Vec::new();
        for hook in Hook::ALL {
            for &verdict in Verdict::ALL {
                let values = self
                    .counters
                    .get(&verdict.counter(hook), 0)
                    .map_err(|source| DataplaneError::Map {
                        map: "COUNTERS",
                        source,
                    })?;
                let sum: u64 = values.iter().sum();
                if sum > 0 {
                    counters.push((hook, verdict, sum));
                }
            }
        }
        Ok(counters)
    }

    /// Logs each packet's verdict from now on, if the programs were loaded with
    /// [`Options::trace_packets`]. Needs a tokio runtime.
    pub fn follow_packets(&mut self) {
        if let Err(error) = trace::follow(&mut self.ebpf) {
            tracing::warn!(%error, "no packet log");
        }
    }

    /// The programs, not loaded yet, with unpinned maps of their own: to see
    /// what the verifier makes of them. Its statistics are in the log of a load.
    pub fn unloaded(trace_packets: bool) -> Result<aya::Ebpf, DataplaneError> {
        load::unloaded(trace_packets)
    }

    /// The object that the programs are loaded from.
    #[must_use]
    pub fn object() -> &'static [u8] {
        load::OBJECT
    }

    /// The loaded programs, for BPF_PROG_TEST_RUN.
    pub fn ebpf_mut(&mut self) -> &mut aya::Ebpf {
        &mut self.ebpf
    }
}

/// Keeps other agents, and clean-up, from the pins for as long as it lives.
pub struct Lock {
    _folder: Flock<File>,
}

/// Takes the pins for this process; makes their folder first.
pub fn lock(pins: &Path) -> Result<Lock, DataplaneError> {
    bpffs::prepare(pins)?;
    let folder = File::open(pins).map_err(|source| DataplaneError::Io {
        path: pins.to_owned(),
        source,
    })?;
    match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
        Ok(folder) => Ok(Lock { _folder: folder }),
        Err((_, Errno::EWOULDBLOCK)) => Err(DataplaneError::Locked {
            path: pins.to_owned(),
        }),
        Err((_, errno)) => Err(DataplaneError::Io {
            path: pins.to_owned(),
            source: errno.into(),
        }),
    }
}

/// Detaches everything and removes every pin below `pins`. Returns what was
/// removed; an absent folder is nothing to do. Refused while an agent runs.
pub fn cleanup(pins: &Path) -> Result<Vec<PathBuf>, DataplaneError> {
    if !pins.exists() {
        attach::detach_clsact(|_| false);
        return Ok(Vec::new());
    }
    let _lock = lock(pins)?;
    attach::detach_clsact(|_| false);
    let mut removed = Vec::new();
    for folder in [bpffs::links(pins), bpffs::maps(pins), pins.to_owned()] {
        for path in bpffs::files(&folder) {
            fs::remove_file(&path).map_err(|source| DataplaneError::Io {
                path: path.clone(),
                source,
            })?;
            removed.push(path);
        }
        match fs::remove_dir(&folder) {
            Ok(()) => removed.push(folder),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => {
                return Err(DataplaneError::Io {
                    path: folder,
                    source,
                });
            }
        }
    }
    Ok(removed)
}

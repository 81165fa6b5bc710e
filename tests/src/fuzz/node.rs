//! A node in a namespace of its own, its maps, and the loaded programs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    maps::{Array, HashMap as BpfHashMap, Map, MapData},
    programs::{Program, TestRun as _, TestRunOptions},
};
use lb_agent::{
    compile::{Port, PortId, frontend_key},
    dataplane::{Dataplane, Options, TcMode, TcModeOption, XdpModeOption},
    node,
    reconcile::{Reconciler, Snapshot},
    shortcut::ShortcutOption,
};
use lb_common::{
    Affinity, ClientKey, Fragment, FragmentKey, FrontendKey, Holdings, Hook, Interface, Settings,
    Verdict,
};
use nix::net::if_::if_nameindex;

use super::{
    counters::Counters,
    model::Endpoint,
    ports::{all_of, every_port, port_of, told_protocol},
    world::World,
};
use crate::{
    lab::{Netns, Residue, forwarding, stay_on_this_cpu},
    packet::{Place, Returned, Table, context, pinned, wiring},
};

/// Longer than what is retired rests.
const REST: Duration = Duration::from_secs(60);
/// What the programs send by themselves ends where it comes out.
const SILENCE: &str = "table inet silence {
    chain in { type filter hook prerouting priority raw; policy drop; }
    chain out { type filter hook output priority raw; policy drop; }
}";
/// Room for what comes out longer than it went in.
const GROWTH: usize = 2048;

pub(crate) struct Node {
    pub(super) options: Options,
    pub(super) dataplane: Dataplane,
    pub(super) reconciler: Reconciler,
    pub(super) now: Duration,
    pub(super) counters: Counters,
    pub(super) assured: Table,
    pub(super) unassured: Table,
    pub(super) fragments: BpfHashMap<MapData, FragmentKey, Fragment>,
    pub(super) holdings: BpfHashMap<MapData, u32, Holdings>,
    pub(super) settings: Array<MapData, Settings>,
    pub(super) interfaces: BpfHashMap<MapData, u32, Interface>,
    pub(super) clients: BpfHashMap<MapData, ClientKey, Affinity>,
    pub(super) frontends: BpfHashMap<MapData, FrontendKey, lb_common::Frontend>,
    /// What the programs call a service that has frontends.
    pub(super) services: BTreeMap<usize, u32>,
    pub(super) indices: BTreeMap<String, u32>,
    /// Where frames come out.
    pub(super) buffer: Vec<u8>,
}

/// What became of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) verdict: Verdict,
    pub(crate) action: i32,
    pub(crate) bytes: Vec<u8>,
}

/// Makes a node that serves `world` and works with it, on a thread inside its
/// namespace that stays on one CPU.
///
/// # Errors
/// Those of `work`; the kernel or iproute2 refuses a step; needs root.
pub(crate) fn with<T: Send>(
    world: &World,
    work: impl FnOnce(&mut Node) -> Result<T> + Send,
) -> Result<T> {
    let residue = Residue::new()?;
    let netns = Netns::create(format!("{}-node", residue.id()))?;
    forwarding(&netns)?;
    netns.ip(&format!("link set lo up\n{}", wiring::batch()))?;
    netns.nft(SILENCE)?;
    let options = Options {
        bpffs: residue.id().pins(),
        xdp: XdpModeOption::Native,
        tc: TcModeOption::Auto,
        shortcut: ShortcutOption::Never,
        trace_packets: false,
        connections: lb_agent::connections::Settings::default(),
    };
    netns.run(|| {
        // Counters and limits are kept for each CPU.
        stay_on_this_cpu()?;
        let mut node = Node::open(&options)?;
        node.serve(world)?;
        work(&mut node)
    })
}

impl Node {
    fn open(options: &Options) -> Result<Self> {
        let mut dataplane = Dataplane::open(options)?;
        let all = if_nameindex().context("listing interfaces")?;
        let index = |interface: &nix::net::if_::Interface| {
            let name = interface.name().to_string_lossy().into_owned();
            (name, interface.index())
        };
        let indices: BTreeMap<String, u32> = all.iter().map(index).collect();
        if let Some(error) = dataplane
            .sync_interfaces(&wiring::interfaces(&indices))
            .first()
        {
            bail!("{error}");
        }
        let pins = &options.bpffs;
        detach(dataplane, pins)?;
        let dataplane = Dataplane::open(options)?;
        let fragments = Map::LruHashMap(pinned(pins, "FRAGMENTS")?);
        let holdings = Map::HashMap(pinned(pins, "HOLDINGS")?);
        let settings = Map::Array(pinned(pins, "SETTINGS")?);
        let interfaces = Map::HashMap(pinned(pins, "INTERFACES")?);
        let clients = Map::LruHashMap(pinned(pins, "AFFINITY")?);
        let frontends = Map::HashMap(pinned(pins, "FRONTENDS")?);
        Ok(Self {
            options: options.clone(),
            dataplane,
            reconciler: Reconciler::new(Snapshot::default()),
            now: Duration::ZERO,
            counters: Counters::new(pinned(pins, "COUNTERS")?)?,
            assured: Table::assured(pins)?,
            unassured: Table::unassured(pins)?,
            fragments: BpfHashMap::try_from(fragments)?,
            holdings: BpfHashMap::try_from(holdings)?,
            settings: Array::try_from(settings)?,
            interfaces: BpfHashMap::try_from(interfaces)?,
            clients: BpfHashMap::try_from(clients)?,
            frontends: BpfHashMap::try_from(frontends)?,
            services: BTreeMap::new(),
            indices,
            buffer: Vec::new(),
        })
    }

    fn serve(&mut self, world: &World) -> Result<()> {
        self.dataplane.configure(&node::Settings {
            pods_by_interface: true,
            pod_networks: BTreeSet::new(),
            service_networks: world.service_networks.iter().copied().collect(),
        })?;
        self.apply(every_port(world, |service| all_of(world, service)))?;
        for ((at, protocol), frontend) in &world.frontends {
            let key = frontend_key(at.ip(), at.port(), told_protocol(*protocol));
            let held = self.frontends.get(&key, 0)?;
            self.services.insert(frontend.service, held.service);
        }
        Ok(())
    }

    /// Has connections removed that are over.
    pub(crate) fn collect(&mut self) -> Result<()> {
        let mut collector = self
            .dataplane
            .collector(&self.options.connections.timeouts)?;
        while collector.tick()?.unassured.is_none() {}
        Ok(())
    }

    /// Does what an agent does that takes over from another.
    pub(crate) fn restart(
        &mut self,
        world: &World,
        endpoints: impl Fn(usize) -> Vec<Endpoint>,
    ) -> Result<()> {
        self.dataplane = Dataplane::open(&self.options)?;
        self.reconciler = Reconciler::new(self.dataplane.snapshot()?);
        self.apply(every_port(world, endpoints))
    }

    /// Gives a service other backends.
    pub(crate) fn change(
        &mut self,
        world: &World,
        service: usize,
        endpoints: &[Endpoint],
    ) -> Result<()> {
        let port = port_of(world, service, endpoints);
        self.apply(vec![(port.id.clone(), Some(port))])
    }

    fn apply(&mut self, changes: Vec<(PortId, Option<Port>)>) -> Result<()> {
        self.now += REST;
        self.reconciler
            .apply(changes, self.now, &mut self.dataplane);
        let failures = self.reconciler.failures();
        ensure!(failures == 0, "the kernel refused {failures} writes");
        Ok(())
    }

    /// Runs the program at `place` on a frame.
    pub(crate) fn run(&mut self, place: Place, frame: &[u8]) -> Result<Returned> {
        let index = |name: &str| self.indices.get(name).copied().unwrap_or_default();
        let context = context(place, index, u32::try_from(frame.len())?);
        self.buffer.resize(frame.len() + GROWTH, 0);
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut self.buffer),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        let ebpf = self.dataplane.ebpf_mut();
        let name = match place.hook {
            Hook::Xdp => "lb_xdp",
            Hook::TcIngress => "lb_ingress",
            Hook::TcEgress => "lb_egress",
        };
        let result = match ebpf.program(name).context(name)? {
            Program::Xdp(program) => program.test_run(options),
            Program::SchedClassifier(program) => program.test_run(options),
            _ => bail!("{name} is another kind of program"),
        };
        let result = result.with_context(|| format!("{place:?} {frame:02x?}"))?;
        Ok(Returned {
            action: result.return_value.cast_signed(),
            bytes: self.buffer[..result.data_size_out as usize].to_vec(),
        })
    }

    /// Whether the last packet was counted so, and once.
    pub(crate) fn is_counted(&mut self, hook: Hook, verdict: Verdict) -> Result<bool> {
        self.counters.take(hook, verdict)
    }

    /// How the last packet was counted, if that is not accounted for.
    pub(crate) fn verdict(&self, hook: Hook) -> Result<Verdict> {
        let counted = self.counters.rest()?;
        let mut heard = counted.iter().filter(|one| !is_noise(one.1));
        let found = match (heard.next(), heard.next()) {
            (Some(&(at, verdict, 1)), None) => Some((at, verdict)),
            (None, None) => counted
                .iter()
                .map(|&(at, verdict, _)| (at, verdict))
                .find(|(at, _)| *at == hook),
            _ => None,
        };
        match found {
            Some((at, verdict)) if at == hook => Ok(verdict),
            _ => bail!("a packet is counted once, where it is: {counted:?}"),
        }
    }

    /// What was counted beside the packets that were sent.
    pub(crate) fn uncalled(&mut self) -> Result<Vec<(Hook, Verdict, u64)>> {
        let mut counted = self.counters.rest()?;
        counted.retain(|one| !is_noise(one.1));
        self.counters.settle()?;
        Ok(counted)
    }
}

/// The kernel greets neighbours on the real interfaces when it pleases.
fn is_noise(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::NotIp | Verdict::OtherProtocol)
}

/// Takes the programs off the interfaces: what they count is what they are run
/// on here.
fn detach(dataplane: Dataplane, pins: &Path) -> Result<()> {
    for link in fs::read_dir(pins.join("links"))? {
        fs::remove_file(link?.path())?;
    }
    let attached = dataplane.attached();
    drop(dataplane);
    // Before Linux 6.6, filters stay where no link holds them.
    for at in attached.iter().filter(|at| at.tc == TcMode::Clsact) {
        let arguments = ["qdisc", "del", "dev", &at.name, "clsact"];
        let status = Command::new("tc").args(arguments).status();
        ensure!(status.context("starting tc")?.success(), "tc {arguments:?}");
    }
    Ok(())
}

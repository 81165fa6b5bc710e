//! A node in a namespace of its own, its maps, and the loaded programs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    maps::{Array, HashMap as BpfHashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues},
    programs::{Program, TestRun as _, TestRunOptions},
};
use lb_agent::{
    compile::{self, FrontendKind, Port, PortId, Set, frontend_key},
    dataplane::{Dataplane, Options, TcModeOption, XdpModeOption},
    model::{self, ObjectName},
    node,
    reconcile::{Reconciler, Snapshot},
};
use lb_common::{
    Affinity, ClientKey, Connection, Fragment, FragmentKey, FrontendKey, Holdings, Hook, Interface,
    Settings, Tuple, Verdict,
};
use nix::{
    net::if_::if_nameindex,
    sched::{CpuSet, sched_getcpu, sched_setaffinity},
    unistd::Pid,
};

use super::{
    counters::Counters,
    flow::Flow,
    model::{Endpoint, Key},
    place::context,
    world::{self, AFFINITY, Frontend, Policy, Service, TCP, UDP, World},
};
use crate::{
    lab::{Family, Netns, Residue, forwarding},
    packet::{Place, Returned, pinned, wiring},
};

/// Buckets of clients that refusals are limited by.
const BUCKETS: u32 = 256;
/// Words of a place where a fragment waits.
const HELD: usize = 8 / 8 + 40 / 8 + 8 / 8 + 2048 / 8;
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
    options: Options,
    dataplane: Dataplane,
    reconciler: Reconciler,
    now: Duration,
    counters: Counters,
    assured: BpfHashMap<MapData, Tuple, Connection>,
    unassured: BpfHashMap<MapData, Tuple, Connection>,
    fragments: BpfHashMap<MapData, FragmentKey, Fragment>,
    holdings: BpfHashMap<MapData, u32, Holdings>,
    settings: Array<MapData, Settings>,
    interfaces: BpfHashMap<MapData, u32, Interface>,
    clients: BpfHashMap<MapData, ClientKey, Affinity>,
    frontends: BpfHashMap<MapData, FrontendKey, lb_common::Frontend>,
    /// What the programs call a service that has frontends.
    services: BTreeMap<usize, u32>,
    indices: BTreeMap<String, u32>,
    /// Where frames come out.
    buffer: Vec<u8>,
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
        trace_packets: false,
        connections: lb_agent::connections::Settings::default(),
    };
    netns.run(|| {
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
        unpin_links(pins)?;
        drop(dataplane);
        let dataplane = Dataplane::open(options)?;
        let assured = Map::HashMap(pinned(pins, "ASSURED")?);
        let unassured = Map::LruHashMap(pinned(pins, "UNASSURED")?);
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
            assured: BpfHashMap::try_from(assured)?,
            unassured: BpfHashMap::try_from(unassured)?,
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
        collector.tick()?;
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
        let context = context(place, &self.indices, frame.len());
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

    /// The table's element for a flow, and whether it is assured.
    pub(crate) fn connection(&self, flow: &Flow) -> Result<Option<(Connection, bool)>> {
        let key = flow.key();
        for (table, is_assured) in [(&self.assured, true), (&self.unassured, false)] {
            if let Some(connection) = found(table.get(&key, 0))? {
                return Ok(Some((connection, is_assured)));
            }
        }
        Ok(None)
    }

    /// Every flow in the tables.
    pub(crate) fn flows(&self) -> Result<Vec<Flow>> {
        let keys = self.assured.keys().chain(self.unassured.keys());
        let flows = keys.map(|key| key.map(|key| Flow::from(&key)));
        flows.collect::<Result<_, _>>().context("connections")
    }

    pub(crate) fn forget(&mut self, flow: &Flow) -> Result<()> {
        found(self.assured.remove(&flow.key()))?;
        self.evict(flow)
    }

    /// Does what the kernel does when it needs room.
    pub(crate) fn evict(&mut self, flow: &Flow) -> Result<()> {
        found(self.unassured.remove(&flow.key()))?;
        Ok(())
    }

    /// Lets seconds go by for an element.
    pub(crate) fn age(&mut self, flow: &Flow, seconds: u64) -> Result<()> {
        let second = self.settings.get(&0, 0)?.second;
        let key = flow.key();
        for table in [&mut self.assured, &mut self.unassured] {
            if let Some(mut connection) = found(table.get(&key, 0))? {
                let (state, seen) = (connection.life >> 32, connection.life as u32);
                let seen = seen.wrapping_sub((seconds as u32).wrapping_mul(second));
                connection.life = state << 32 | u64::from(seen);
                table.insert(key, connection, 0)?;
            }
        }
        Ok(())
    }

    /// Lets seconds go by for what is known of a packet's parts.
    pub(crate) fn age_fragment(&mut self, key: &Key, seconds: u64) -> Result<()> {
        let second = self.settings.get(&0, 0)?.second;
        let key = told_key(key);
        if let Some(mut fragment) = found(self.fragments.get(&key, 0))? {
            fragment.seen = fragment
                .seen
                .wrapping_sub((seconds as u32).wrapping_mul(second));
            self.fragments.insert(key, fragment, 0)?;
        }
        Ok(())
    }

    pub(crate) fn forget_fragment(&mut self, key: &Key) -> Result<()> {
        found(self.fragments.remove(&told_key(key)))?;
        Ok(())
    }

    /// Forgets parts that wait for their first one.
    pub(crate) fn forget_held(&mut self) -> Result<()> {
        let map = self.dataplane.ebpf_mut().map_mut("HELD").context("HELD")?;
        let mut held: Array<_, [u64; HELD]> = map.try_into()?;
        for index in 0..held.len() {
            held.set(index, [0; HELD], 0)?;
        }
        Ok(())
    }

    /// Assured connections of a service; of those to none, `None`.
    pub(crate) fn held(&self, service: Option<usize>) -> Result<u64> {
        let held = found(self.holdings.get(&self.number(service), 0))?;
        Ok(held.map_or(0, |held| held.connections))
    }

    pub(crate) fn forget_holdings(&mut self, service: Option<usize>) -> Result<()> {
        let number = self.number(service);
        found(self.holdings.remove(&number))?;
        Ok(())
    }

    fn number(&self, service: Option<usize>) -> u32 {
        service.map_or(u32::MAX, |service| self.services[&service])
    }

    /// Limits the assured connections of each service.
    pub(crate) fn set_quota(&mut self, quota: u32) -> Result<()> {
        let mut settings = self.settings.get(&0, 0)?;
        settings.connection_quota = quota;
        Ok(self.settings.set(0, settings, 0)?)
    }

    /// Forgets which backend a client of a service had last.
    pub(crate) fn forget_client(&mut self, client: IpAddr, service: usize) -> Result<()> {
        let key = ClientKey {
            client: client.into(),
            service: self.services[&service],
        };
        found(self.clients.remove(&key))?;
        Ok(())
    }

    pub(crate) fn forget_all_clients(&mut self) -> Result<()> {
        Ok(self.dataplane.forget_clients()?)
    }

    /// Lets every client be refused as often as one that never was.
    pub(crate) fn forget_refusals(&mut self) -> Result<()> {
        let map = self.dataplane.ebpf_mut().map_mut("REFUSALS");
        let mut buckets: PerCpuArray<_, u64> = map.context("REFUSALS")?.try_into()?;
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
        for bucket in 0..BUCKETS {
            buckets.set(bucket, PerCpuValues::try_from(vec![0; cpus])?, 0)?;
        }
        Ok(())
    }

    /// Whether XDP runs on the uplinks, as far as the programs know.
    pub(crate) fn say_xdp(&mut self, runs: bool) -> Result<()> {
        for name in ["up0", "up1"] {
            let index = self.indices[name];
            let mut record = self.interfaces.get(&index, 0)?;
            record.flags = match runs {
                true => record.flags | Interface::XDP,
                false => record.flags & !Interface::XDP,
            };
            self.interfaces.insert(index, record, 0)?;
        }
        Ok(())
    }
}

/// The kernel greets neighbours on the real interfaces when it pleases.
fn is_noise(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::NotIp | Verdict::OtherProtocol)
}

/// Takes the programs off the interfaces, once nobody holds them any more: what
/// they count is what they are run on here.
fn unpin_links(pins: &Path) -> Result<()> {
    for link in fs::read_dir(pins.join("links"))? {
        fs::remove_file(link?.path())?;
    }
    Ok(())
}

/// `None` if there is no such element.
fn found<T>(result: Result<T, MapError>) -> Result<Option<T>, MapError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(MapError::SyscallError(error))
            if error.io_error.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn every_port(
    world: &World,
    endpoints: impl Fn(usize) -> Vec<Endpoint>,
) -> Vec<(PortId, Option<Port>)> {
    let services = 0..world.services.len();
    let ports = services.map(|service| port_of(world, service, &endpoints(service)));
    let refused = world.cluster_ips.iter().copied().map(refused_port);
    let all = ports.chain(refused);
    all.map(|port| (port.id.clone(), Some(port))).collect()
}

/// One of the world's service ports.
fn port_of(world: &World, service: usize, endpoints: &[Endpoint]) -> Port {
    let mut port = port(&world.services[service], endpoints);
    let frontends = world.frontends.iter();
    for ((at, protocol), frontend) in frontends.filter(|(_, one)| one.service == service) {
        let key = frontend_key(at.ip(), at.port(), told_protocol(*protocol));
        port.frontends.insert(key, told(frontend));
        port.sources.extend(frontend.sources);
    }
    meet(&mut port);
    port
}

/// What refuses whatever a clusterIP has no frontend for.
fn refused_port(address: IpAddr) -> Port {
    let nobody = Service {
        name: "any-port",
        family: Family::of(address),
        protocol: TCP,
        has_affinity: false,
        backends: Vec::new(),
    };
    let mut port = port(&nobody, &[]);
    let refused = compile::Frontend {
        kind: FrontendKind::AnyPort,
        inside: Set::Nobody,
        outside: Set::Nobody,
        restricted: false,
        masquerade: false,
    };
    let key = FrontendKey::any_port(address.into());
    port.frontends.insert(key, refused);
    port
}

/// Adds the backends themselves to the frontends.
fn meet(port: &mut Port) {
    let sets = [&port.cluster, &port.local, &port.serving];
    let met: Vec<_> = compile::endpoint_frontends(sets, port.id.protocol).collect();
    for (key, frontend) in met {
        port.frontends.entry(key).or_insert(frontend);
    }
}

/// A service port without frontends.
fn port(service: &Service, endpoints: &[Endpoint]) -> Port {
    let told = |endpoint: &Endpoint| told_backend(&endpoint.backend);
    let usable = endpoints.iter().filter(|endpoint| endpoint.is_usable);
    let usable: BTreeSet<_> = usable.map(told).collect();
    Port {
        id: PortId {
            service: ObjectName::new("default", service.name),
            port: String::new(),
            protocol: told_protocol(service.protocol),
            family: match service.family {
                Family::V4 => model::Family::V4,
                Family::V6 => model::Family::V6,
            },
        },
        frontends: BTreeMap::new(),
        local: usable.iter().filter(|one| one.local).cloned().collect(),
        serving: endpoints.iter().map(told).collect(),
        cluster: usable,
        affinity_seconds: if service.has_affinity { AFFINITY } else { 0 },
        sources: BTreeSet::new(),
    }
}

/// The number lies in the map as it does in the header.
fn told_key((source, destination, id, protocol): &Key) -> FragmentKey {
    FragmentKey {
        source: (*source).into(),
        destination: (*destination).into(),
        id: match source.is_ipv4() {
            true => u32::from((*id as u16).to_be()),
            false => id.to_be(),
        },
        protocol: (*protocol).into(),
    }
}

fn told_backend(backend: &world::Backend) -> compile::Backend {
    compile::Backend {
        address: backend.at.ip(),
        port: backend.at.port(),
        local: backend.local,
    }
}

fn told_protocol(number: u8) -> model::Protocol {
    match number {
        TCP => model::Protocol::Tcp,
        UDP => model::Protocol::Udp,
        _ => model::Protocol::Sctp,
    }
}

/// What a service has unless something happens.
pub(crate) fn all_of(world: &World, service: usize) -> Vec<Endpoint> {
    let backends = world.services[service].backends.iter();
    let usable = |backend: &world::Backend| Endpoint {
        backend: *backend,
        is_usable: true,
    };
    backends.map(usable).collect()
}

/// A frontend as it is told to the reconciler.
fn told(frontend: &Frontend) -> compile::Frontend {
    compile::Frontend {
        kind: FrontendKind::ClusterIp,
        inside: Set::Cluster,
        outside: match frontend.policy {
            Policy::Cluster => Set::Cluster,
            Policy::Local => Set::Local,
        },
        restricted: frontend.sources.is_some(),
        masquerade: frontend.masquerade,
    }
}

/// Counters and limits are kept for each CPU.
fn stay_on_this_cpu() -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(sched_getcpu()?)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &cpus)?)
}

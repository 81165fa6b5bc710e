//! A node in a namespace of its own: the agent's control path, and the loaded
//! programs.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Result, bail, ensure};
use lb_agent::{
    compile::{Port, PortId, frontend_key},
    dataplane::{Dataplane, Options, TcModeOption, XdpModeOption},
    model::{self, Change, ObjectName, Service},
    node,
    reconcile::Reconciler,
    shortcut::ShortcutOption,
    store::Store,
};

use super::{
    manifest::Manifest,
    scenario::{Flow, Protocol, Scenario},
    settings, wiring,
};
use crate::{
    lab::{Netns, Residue, forwarding},
    packet::{Place, Returned, Table, test_run},
};

/// Longer than what is retired rests.
const REST: Duration = Duration::from_secs(60);

pub(crate) struct Node<'a> {
    dataplane: Dataplane,
    reconciler: Reconciler,
    store: Store,
    ports: BTreeMap<PortId, Port>,
    families: BTreeSet<model::Family>,
    addresses: Option<Vec<IpAddr>>,
    now: Duration,
    indices: BTreeMap<String, u32>,
    netns: &'a Netns,
    pins: PathBuf,
}

/// Makes a node and works with it, on a thread inside its namespace.
///
/// # Errors
/// Those of `work`; the kernel or iproute2 refuses a step; needs root.
pub(crate) fn with<T: Send>(work: impl FnOnce(&mut Node<'_>) -> Result<T> + Send) -> Result<T> {
    let residue = Residue::new()?;
    let netns = Netns::create(format!("{}-node", residue.id()))?;
    forwarding(&netns)?;
    netns.ip(&wiring::links())?;
    let pins = residue.id().pins();
    netns.run(|| work(&mut Node::open(&netns, pins)?))
}

impl<'a> Node<'a> {
    fn open(netns: &'a Netns, pins: PathBuf) -> Result<Self> {
        let dataplane = Dataplane::open(&Options {
            bpffs: pins.clone(),
            xdp: XdpModeOption::Auto,
            tc: TcModeOption::Auto,
            connections: lb_agent::connections::Settings::default(),
            shortcut: ShortcutOption::Never,
            trace_packets: false,
        })?;
        Ok(Self {
            reconciler: Reconciler::new(dataplane.snapshot()?),
            dataplane,
            store: Store::default(),
            ports: BTreeMap::new(),
            families: BTreeSet::new(),
            addresses: None,
            now: Duration::ZERO,
            indices: wiring::indices()?,
            netns,
            pins,
        })
    }

    /// Forgets what was, and becomes the scenario's node. The programs stay.
    pub(crate) fn become_node(&mut self, scenario: &Scenario) -> Result<()> {
        let ips = &scenario.node.ips;
        let interfaces = wiring::interfaces(&self.indices, ips);
        if self.addresses.as_ref() != Some(ips) {
            self.netns.ip(&wiring::addresses(ips))?;
            if let Some(error) = self.dataplane.sync_interfaces(&interfaces).first() {
                bail!("{error}");
            }
            self.addresses = Some(ips.clone());
        }
        let gone = std::mem::take(&mut self.ports).into_keys();
        self.write(gone.map(|id| (id, None)).collect())?;
        self.families = settings::families(scenario);
        let object = settings::node(scenario);
        let options = &settings::options(scenario);
        self.store = Store::default();
        let context = node::context(options, &object.name, Some(&object), &interfaces);
        self.store.set_node(context);
        if let Some(settings) = node::settings(options, Some(&object)) {
            self.dataplane.configure(&settings)?;
        }
        self.forget_clients()?;
        self.forget_connections()
    }

    /// Takes what a source would tell of.
    pub(crate) fn apply<'m>(&mut self, manifests: impl Iterator<Item = &'m Manifest>) {
        for Manifest(change) in manifests {
            let mut change = change.clone();
            if let Change::Service(_, Some(service)) = &mut change {
                let proxied = |ip: &IpAddr| self.families.contains(&model::Family::of(*ip));
                service.cluster_ips.retain(proxied);
            }
            self.store.take(change);
        }
    }

    pub(crate) fn delete(&mut self, services: &[String], slices: &[String]) {
        let name = |text: &String| {
            let (namespace, name) = text.split_once('/').unwrap_or_default();
            ObjectName::new(namespace, name)
        };
        for service in services.iter().map(name) {
            self.store.take(Change::Service(service, None));
        }
        for slice in slices.iter().map(name) {
            self.store.take(Change::Slice(slice, None));
        }
    }

    /// Brings the maps to what was taken.
    pub(crate) fn sync(&mut self) -> Result<()> {
        let changes = self.store.compile();
        for (id, port) in &changes {
            match port {
                Some(port) => self.ports.insert(id.clone(), port.clone()),
                None => self.ports.remove(id),
            };
        }
        self.write(changes)
    }

    pub(crate) fn has(&self, port: &PortId) -> bool {
        self.ports.contains_key(port)
    }

    pub(crate) fn ports(&self) -> impl Iterator<Item = (&Service, &Port)> {
        let ports = self.ports.values();
        ports.filter_map(|port| Some((self.store.service(&port.id.service)?, port)))
    }

    /// The service port that a flow is addressed to.
    pub(crate) fn port(&self, flow: &Flow) -> Option<&Port> {
        let protocol = match flow.proto {
            Protocol::Tcp => model::Protocol::Tcp,
            Protocol::Udp => model::Protocol::Udp,
            Protocol::Sctp => model::Protocol::Sctp,
        };
        let key = frontend_key(flow.dst, flow.dport, protocol);
        self.ports.get(self.reconciler.owner(&key)?)
    }

    /// Load balancer IPs of a service port.
    pub(crate) fn vips(&self, port: Option<&Port>) -> BTreeSet<IpAddr> {
        let service = port.and_then(|port| self.store.service(&port.id.service));
        service.map_or_else(BTreeSet::new, |service| service.load_balancer_ips.clone())
    }

    /// Runs the program at `place` on a frame.
    pub(crate) fn run(&mut self, place: Place, frame: &[u8]) -> Result<Returned> {
        let indices = &self.indices;
        test_run(&mut self.dataplane, place, |name| indices[name], frame)
    }

    pub(crate) fn forget_connections(&mut self) -> Result<()> {
        Table::assured(&self.pins)?.clear()?;
        Table::unassured(&self.pins)?.clear()
    }

    /// Forgets which client had which endpoint.
    pub(crate) fn forget_clients(&mut self) -> Result<()> {
        Ok(self.dataplane.forget_clients()?)
    }

    fn write(&mut self, changes: Vec<(PortId, Option<Port>)>) -> Result<()> {
        self.now += REST;
        self.reconciler
            .apply(changes, self.now, &mut self.dataplane);
        let failures = self.reconciler.failures();
        ensure!(failures == 0, "the kernel refused {failures} writes");
        Ok(())
    }
}

/// Whether the endpoint is on this node, as the service port knows it.
pub(crate) fn is_local(port: Option<&Port>, endpoint: SocketAddr) -> bool {
    let backends = port
        .into_iter()
        .flat_map(|port| port.cluster.union(&port.local));
    let mut here = backends.filter(|backend| backend.local);
    here.any(|backend| (backend.address, backend.port) == (endpoint.ip(), endpoint.port()))
}

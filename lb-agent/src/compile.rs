//! One Service and its slices -> frontends and backend sets. Pure.
//!
//! The rules are those of kube-proxy 1.36.

mod frontends;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    num::NonZeroU32,
    ops::Deref,
    sync::Arc,
};

use ipnet::IpNet;
use lb_common::{Address, FrontendKey};
use serde::Serialize;

use self::frontends::frontends;
use crate::{
    model::{Endpoint, Family, ObjectName, Protocol, Service, ServicePort, Slice},
    sorted::{SortedMap, SortedSet},
};

/// Identity of a service port: what affinity, ids and status go by. Copies
/// share it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(Arc<PortName>);

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortName {
    pub service: ObjectName,
    pub port: String,
    pub protocol: Protocol,
    pub family: Family,
}

impl From<PortName> for PortId {
    fn from(name: PortName) -> Self {
        Self(Arc::new(name))
    }
}

impl Deref for PortId {
    type Target = PortName;

    fn deref(&self) -> &PortName {
        &self.0
    }
}

/// A service port in one family, ready for the maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    pub id: PortId,
    pub frontends: SortedMap<FrontendKey, Frontend>,
    /// Usable endpoints anywhere, and on this node.
    pub cluster: SortedSet<Backend>,
    pub local: SortedSet<Backend>,
    /// Endpoints whose connections go on, chosen for new ones or not.
    pub serving: SortedSet<Backend>,
    /// Clients keep their backend for this long after their last new
    /// connection; 0 if they do not.
    pub affinity_seconds: u32,
    /// Sources that [`Frontend::restricted`] ones let in; empty for all.
    pub sources: BTreeSet<IpNet>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frontend {
    pub kind: FrontendKind,
    /// For pods and the node itself.
    pub inside: Set,
    /// For everyone else.
    pub outside: Set,
    /// [`Port::sources`] applies.
    pub restricted: bool,
    /// Backends see this node's address instead of the client's.
    pub masquerade: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum FrontendKind {
    #[serde(rename = "clusterIP")]
    ClusterIp,
    #[serde(rename = "nodePort")]
    NodePort,
    /// Given by a controller, so it goes before what anyone may write.
    #[serde(rename = "loadBalancerIP")]
    LoadBalancerIp,
    #[serde(rename = "externalIP")]
    ExternalIp,
    /// Whatever a clusterIP has no other frontend for.
    #[serde(skip)]
    AnyPort,
    /// Echo requests, which are answered for the address.
    #[serde(skip)]
    Echo,
    /// A backend itself: not translated, but told apart from connections that
    /// reach it through a frontend.
    #[serde(skip)]
    Endpoint,
}

impl FrontendKind {
    /// Whether it stands for one service port, and not for what several share.
    #[must_use]
    pub fn is_own(self) -> bool {
        !matches!(self, Self::AnyPort | Self::Echo | Self::Endpoint)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    Cluster,
    Local,
    /// There is no backend, and the client is told.
    Nobody,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Backend {
    pub address: IpAddr,
    pub port: u16,
    /// On this node.
    pub local: bool,
}

/// What compile needs to know of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeContext {
    pub name: String,
    pub zone: Option<String>,
    /// Addresses that nodePorts are served on.
    pub node_port_addresses: BTreeSet<IpAddr>,
    /// The address that the cluster knows the node by, of each family.
    pub primary_ips: BTreeSet<IpAddr>,
    /// Translate the source wherever kube-proxy may be told to.
    pub masquerade_all: bool,
    /// Answer echo requests to addresses of Services.
    pub echo: Option<Echo>,
}

/// What answering echo requests goes by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Echo {
    /// Addresses of the node, which answers for them itself.
    pub own: BTreeSet<IpAddr>,
}

/// All ports of a Service, in each family that it has a clusterIP in.
pub fn compile<'a>(
    service: &Service,
    slices: impl Iterator<Item = &'a Slice> + Clone,
    node: &NodeContext,
) -> Vec<Port> {
    let mut ports = Vec::new();
    for &cluster_ip in &service.cluster_ips {
        let family = Family::of(cluster_ip);
        for port in &service.ports {
            let endpoints = endpoints(slices.clone(), family, port);
            ports.push(compile_port(service, cluster_ip, port, &endpoints, node));
        }
    }
    ports
}

/// A map key; addresses and port in network byte order.
#[must_use]
pub fn frontend_key(address: IpAddr, port: u16, protocol: Protocol) -> FrontendKey {
    FrontendKey {
        address: Address::from(address),
        port: port.to_be(),
        protocol: protocol_number(protocol),
        reserved: 0,
    }
}

/// What tells connections to backends themselves apart.
pub fn endpoint_frontends<'a>(
    sets: impl IntoIterator<Item = &'a SortedSet<Backend>>,
    protocol: Protocol,
) -> impl Iterator<Item = (FrontendKey, Frontend)> {
    let frontend = Frontend {
        kind: FrontendKind::Endpoint,
        inside: Set::Nobody,
        outside: Set::Nobody,
        restricted: false,
        masquerade: false,
    };
    let backends = sets.into_iter().flatten();
    backends.map(move |backend| {
        let key = frontend_key(backend.address, backend.port, protocol);
        (key, frontend)
    })
}

/// The key of [`FrontendKind::Echo`].
#[must_use]
pub fn echo_key(address: IpAddr) -> FrontendKey {
    let version = match address {
        IpAddr::V4(_) => 4,
        IpAddr::V6(_) => 6,
    };
    FrontendKey::echo(Address::from(address), version)
}

/// IANA protocol number.
#[must_use]
pub fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

/// The union over slices, by address and port. Of duplicates one that is not
/// terminating wins, whatever the order.
fn endpoints<'a>(
    slices: impl Iterator<Item = &'a Slice>,
    family: Family,
    port: &ServicePort,
) -> BTreeMap<(IpAddr, u16), &'a Endpoint> {
    let mut union: BTreeMap<(IpAddr, u16), &Endpoint> = BTreeMap::new();
    for slice in slices.filter(|slice| slice.family == family) {
        let joined = slice
            .ports
            .iter()
            .filter(|other| other.name == port.name && other.protocol == port.protocol);
        for number in joined.map(|joined| joined.port.get()) {
            for endpoint in &slice.endpoints {
                union
                    .entry((endpoint.address, number))
                    .and_modify(|held| {
                        if held.terminating && !endpoint.terminating {
                            *held = endpoint;
                        }
                    })
                    .or_insert(endpoint);
            }
        }
    }
    union
}

fn compile_port(
    service: &Service,
    cluster_ip: IpAddr,
    port: &ServicePort,
    endpoints: &BTreeMap<(IpAddr, u16), &Endpoint>,
    node: &NodeContext,
) -> Port {
    let is_local = |endpoint: &Endpoint| endpoint.node.as_deref() == Some(node.name.as_str());
    let backends = |keep: &dyn Fn(&Endpoint) -> bool| -> SortedSet<Backend> {
        endpoints
            .iter()
            .filter(|(_, endpoint)| keep(endpoint))
            .map(|(&(address, port), endpoint)| Backend {
                address,
                port,
                local: is_local(endpoint),
            })
            .collect()
    };
    let draining = |endpoint: &Endpoint| endpoint.serving && endpoint.terminating;

    let topology = topology(endpoints, node);
    let mut cluster = backends(&|endpoint| endpoint.ready && topology.admits(endpoint, node));
    if cluster.is_empty() {
        cluster = backends(&draining);
    }
    let mut local = backends(&|endpoint| endpoint.ready && is_local(endpoint));
    if local.is_empty() {
        local = backends(&|endpoint| draining(endpoint) && is_local(endpoint));
    }
    let serving = backends(&|endpoint| endpoint.serving);
    // Of a key that comes twice the last is kept.
    let frontends = endpoint_frontends([&cluster, &local, &serving], port.protocol)
        .chain(frontends(service, cluster_ip, port, node))
        .collect();
    Port {
        id: PortId::from(PortName {
            service: service.name.clone(),
            port: port.name.clone(),
            protocol: port.protocol,
            family: Family::of(cluster_ip),
        }),
        frontends,
        cluster,
        local,
        serving,
        affinity_seconds: service.affinity_seconds.map_or(0, NonZeroU32::get),
        sources: sources(service, Family::of(cluster_ip), node),
    }
}

/// Who may come in by load balancer IPs of the family.
fn sources(service: &Service, family: Family, node: &NodeContext) -> BTreeSet<IpNet> {
    let ranges = service.source_ranges.iter();
    let mut ranges: BTreeSet<IpNet> = ranges
        .filter(|range| Family::of(range.addr()) == family)
        .copied()
        .collect();
    if ranges.iter().any(|range| range.prefix_len() == 0) {
        return BTreeSet::new();
    }
    let holds_node = |range: &IpNet| node.primary_ips.iter().any(|ip| range.contains(ip));
    if ranges.iter().any(holds_node) {
        // A process of this node that was given the Service's own address.
        ranges.extend(of_family(&service.load_balancer_ips, family).map(IpNet::from));
    }
    ranges
}

fn of_family(addresses: &BTreeSet<IpAddr>, family: Family) -> impl Iterator<Item = IpAddr> {
    let addresses = addresses.iter().copied();
    addresses.filter(move |address| Family::of(*address) == family)
}

/// Which hints decide, if any (KEP-2433, KEP-3015).
enum Topology {
    Node,
    Zone,
    Everywhere,
}

impl Topology {
    fn admits(&self, endpoint: &Endpoint, node: &NodeContext) -> bool {
        match self {
            Self::Node => endpoint.for_nodes.contains(&node.name),
            Self::Zone => node
                .zone
                .as_ref()
                .is_some_and(|zone| endpoint.for_zones.contains(zone)),
            Self::Everywhere => true,
        }
    }
}

fn topology(endpoints: &BTreeMap<(IpAddr, u16), &Endpoint>, node: &NodeContext) -> Topology {
    let ready = || endpoints.values().filter(|endpoint| endpoint.ready);
    for (topology, all_hinted) in [
        (
            Topology::Node,
            ready().all(|endpoint| !endpoint.for_nodes.is_empty()),
        ),
        (
            Topology::Zone,
            ready().all(|endpoint| !endpoint.for_zones.is_empty()),
        ),
    ] {
        if all_hinted && ready().any(|endpoint| topology.admits(endpoint, node)) {
            return topology;
        }
    }
    Topology::Everywhere
}

#[cfg(test)]
mod tests;

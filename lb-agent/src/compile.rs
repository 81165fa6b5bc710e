//! One Service and its slices -> frontends and backend sets. Pure.
//!
//! The rules are those of kube-proxy 1.36.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_common::{Address, FrontendKey};
use serde::Serialize;

use crate::model::{
    Endpoint, Family, ObjectName, Protocol, Service, ServicePort, Slice, TrafficPolicy,
};

/// Identity of a service port: what affinity, ids and status go by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct PortId {
    pub service: ObjectName,
    pub port: String,
    pub protocol: Protocol,
    pub family: Family,
}

/// A service port in one family, ready for the maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    pub id: PortId,
    pub frontends: BTreeMap<FrontendKey, Frontend>,
    /// Usable endpoints anywhere, and on this node.
    pub cluster: BTreeSet<Backend>,
    pub local: BTreeSet<Backend>,
    /// Endpoints whose connections go on, chosen for new ones or not.
    pub serving: BTreeSet<Backend>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frontend {
    pub kind: FrontendKind,
    /// For pods and the node itself.
    pub inside: Set,
    /// For everyone else.
    pub outside: Set,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum FrontendKind {
    #[serde(rename = "clusterIP")]
    ClusterIp,
    #[serde(rename = "nodePort")]
    NodePort,
    #[serde(rename = "externalIP")]
    ExternalIp,
    #[serde(rename = "loadBalancerIP")]
    LoadBalancerIp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    Cluster,
    Local,
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
    let backends = |keep: &dyn Fn(&Endpoint) -> bool| -> BTreeSet<Backend> {
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
    Port {
        id: PortId {
            service: service.name.clone(),
            port: port.name.clone(),
            protocol: port.protocol,
            family: Family::of(cluster_ip),
        },
        frontends: frontends(service, cluster_ip, port, node),
        cluster,
        local,
        serving: backends(&|endpoint| endpoint.serving),
    }
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

fn frontends(
    service: &Service,
    cluster_ip: IpAddr,
    port: &ServicePort,
    node: &NodeContext,
) -> BTreeMap<FrontendKey, Frontend> {
    let family = Family::of(cluster_ip);
    let of_family = |addresses: &BTreeSet<IpAddr>| -> Vec<IpAddr> {
        let same = |address: &&IpAddr| Family::of(**address) == family;
        addresses.iter().filter(same).copied().collect()
    };
    let set = |policy| match policy {
        TrafficPolicy::Cluster => Set::Cluster,
        TrafficPolicy::Local => Set::Local,
    };
    let internal = set(service.internal_traffic_policy);
    let mut frontends = BTreeMap::new();
    let mut add = |address, number, kind| {
        let (inside, outside) = match kind {
            FrontendKind::ClusterIp => (internal, internal),
            FrontendKind::NodePort | FrontendKind::ExternalIp | FrontendKind::LoadBalancerIp => {
                (Set::Cluster, set(service.external_traffic_policy))
            }
        };
        frontends
            .entry(frontend_key(address, number, port.protocol))
            .or_insert(Frontend {
                kind,
                inside,
                outside,
            });
    };
    add(cluster_ip, port.port.get(), FrontendKind::ClusterIp);
    for address in of_family(&service.load_balancer_ips) {
        add(address, port.port.get(), FrontendKind::LoadBalancerIp);
    }
    for address in of_family(&service.external_ips) {
        add(address, port.port.get(), FrontendKind::ExternalIp);
    }
    if let Some(node_port) = port.node_port {
        for address in of_family(&node.node_port_addresses) {
            add(address, node_port.get(), FrontendKind::NodePort);
        }
    }
    frontends
}

#[cfg(test)]
mod tests;

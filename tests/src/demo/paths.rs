//! Every way from a place of the lab to a frontend, tried with real traffic.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use serde::Serialize;

use super::status::{Interface, ServicePort, Status};
use crate::lab::{Exchange, Family, Host, Lab, Pod, Protocol};

/// A frontend that can be reached, and what should answer there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `<namespace>/<name>` of the Service.
    pub service: String,
    pub kind: String,
    pub to: SocketAddr,
    pub protocol: Protocol,
    /// Addresses of the backends.
    pub backends: BTreeSet<IpAddr>,
}

/// A place that sends.
#[derive(Clone, Copy, Debug)]
pub enum Path<'a> {
    Pod(&'a Pod),
    Node(&'a Host),
    Outside(&'a Host),
}

/// How a bounded load went from one place to one frontend.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub from: String,
    pub to: String,
    pub protocol: Protocol,
    pub family: Family,
    /// The hook that translates the request.
    pub hook: String,
    pub replies: usize,
    pub sent: usize,
    /// Replies by backend.
    pub seen: BTreeMap<String, usize>,
    /// Number of backends behind the frontend.
    pub backends: usize,
    /// The last thing that went wrong.
    pub error: Option<String>,
}

impl Row {
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.sent > 0 && self.replies == self.sent
    }
}

/// All frontends with a backend that the agents of all nodes have; a nodePort
/// once for each node's addresses.
#[must_use]
pub fn targets(statuses: &[Status], lab: &Lab) -> Vec<Target> {
    let mut targets: BTreeMap<(SocketAddr, Protocol), Target> = BTreeMap::new();
    for status in statuses {
        for service in &status.services {
            let name = format!("{}/{}", service.namespace, service.name);
            for port in service
                .ports
                .iter()
                .filter(|port| !port.backends.is_empty())
            {
                for target in targets_of_port(&name, port, node_named(lab, &status.node)) {
                    targets
                        .entry((target.to, target.protocol))
                        .or_insert(target);
                }
            }
        }
    }
    let mut targets: Vec<_> = targets.into_values().collect();
    targets.sort_by_key(|target| (target.service.clone(), target.protocol, target.to));
    targets
}

impl<'a> Path<'a> {
    #[must_use]
    pub fn host(self) -> &'a Host {
        match self {
            Self::Pod(pod) => pod,
            Self::Node(host) | Self::Outside(host) => host,
        }
    }

    /// Whether the frontend is to be reached from here: outside knows nothing
    /// of clusterIPs.
    #[must_use]
    pub fn reaches(self, target: &Target) -> bool {
        !matches!(self, Self::Outside(_)) || target.kind != "clusterIP"
    }

    /// Sends `count` requests, each from a fresh source port.
    #[must_use]
    pub fn try_out(self, target: &Target, count: usize, statuses: &[Status], lab: &Lab) -> Row {
        let names = backend_names(target, lab);
        let exchange = Exchange::new(target.protocol, target.to);
        let replies = self
            .host()
            .netns
            .run(|| (0..count).map(|_| exchange.run()).collect::<Vec<_>>());
        let mut row = Row {
            from: self.describe(),
            to: format!("{} {} {}", target.service, target.kind, target.to),
            protocol: target.protocol,
            family: Family::of(target.to.ip()),
            hook: self.hook(target, statuses, lab),
            replies: 0,
            sent: count,
            seen: BTreeMap::new(),
            backends: names.len(),
            error: None,
        };
        for reply in replies {
            match reply {
                Ok(reply) if names.contains(&reply.server) => {
                    row.replies += 1;
                    *row.seen.entry(reply.server).or_default() += 1;
                }
                Ok(reply) => row.error = Some(format!("answered by {}", reply.server)),
                Err(error) => row.error = Some(error.to_string()),
            }
        }
        row
    }

    fn describe(self) -> String {
        match self {
            Self::Pod(pod) => format!("pod on {}", pod.node),
            Self::Node(host) => host.name.clone(),
            Self::Outside(_) => "outside".into(),
        }
    }

    /// A nodePort of another node is translated there, as outside traffic is;
    /// everything else at this place's edge, which is the loopback interface
    /// for a node that calls its own address.
    fn hook(self, target: &Target, statuses: &[Status], lab: &Lab) -> String {
        let owner = lab
            .nodes()
            .iter()
            .find(|node| node.addresses.contains(target.to.ip()));
        let own = match self {
            Self::Pod(pod) => Some(&pod.node),
            Self::Node(host) => Some(&host.name),
            Self::Outside(_) => None,
        };
        let entry = owner.map_or(&lab.node(1).name, |node| &node.name);
        let (Some(own), true) = (own, owner.is_none_or(|node| Some(&node.name) == own)) else {
            return uplink_hook(statuses, entry);
        };
        match self {
            Self::Pod(pod) => tc_hook(statuses, own, "ingress", |interface| {
                interface.name == pod.interface
            }),
            _ => {
                let kind = if owner.is_some() { "local" } else { "uplink" };
                tc_hook(statuses, own, "egress", |interface| interface.kind == kind)
            }
        }
    }
}

fn targets_of_port<'a>(
    service: &'a str,
    port: &'a ServicePort,
    node: Option<&'a Host>,
) -> impl Iterator<Item = Target> + 'a {
    port.frontends.iter().filter_map(move |frontend| {
        let address = match (frontend.address.is_unspecified(), node) {
            (true, Some(node)) => node.address(Family::of(frontend.address)),
            _ => frontend.address,
        };
        let is_foreign = node.is_none_or(|node| !node.addresses.contains(address));
        if frontend.kind == "nodePort" && is_foreign {
            return None;
        }
        Some(Target {
            service: service.to_owned(),
            kind: frontend.kind.clone(),
            to: SocketAddr::new(address, frontend.port),
            protocol: port.protocol,
            backends: port
                .backends
                .iter()
                .map(|backend| backend.address)
                .collect(),
        })
    })
}

fn node_named<'a>(lab: &'a Lab, name: &str) -> Option<&'a Host> {
    lab.nodes().iter().find(|node| node.name == name)
}

fn backend_names(target: &Target, lab: &Lab) -> BTreeSet<String> {
    let addresses = target.backends.iter();
    addresses
        .filter_map(|address| lab.host_at(*address))
        .collect()
}

fn interface<'a>(
    statuses: &'a [Status],
    node: &str,
    is_it: impl Fn(&Interface) -> bool,
) -> Option<&'a Interface> {
    let status = statuses.iter().find(|status| status.node == node)?;
    status.interfaces.iter().find(|interface| is_it(interface))
}

fn uplink_hook(statuses: &[Status], node: &str) -> String {
    let is_uplink = |interface: &Interface| interface.kind == "uplink";
    match interface(statuses, node, is_uplink).and_then(|interface| interface.xdp.as_deref()) {
        Some(mode) if mode != "off" => format!("xdp {mode}"),
        _ => tc_hook(statuses, node, "ingress", is_uplink),
    }
}

fn tc_hook(
    statuses: &[Status],
    node: &str,
    direction: &str,
    is_it: impl Fn(&Interface) -> bool,
) -> String {
    let kind = interface(statuses, node, is_it).and_then(|interface| interface.tc.as_deref());
    match kind {
        Some(kind) => format!("tc {direction} ({kind})"),
        None => "none".into(),
    }
}

//! Where a source's packets meet the dataplane.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use lb_common::Hook;

use super::scenario::{Detection, Flow, Scenario};
use crate::packet::{Place, at};

/// Who sends the first packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Pod,
    /// This node, by an address of its own.
    Node,
    /// This node, by an address that no reply can be sent to.
    Unanswerable,
    Outside,
}

/// One way in: the hooks that a packet meets until one does not pass it on.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    pub(crate) hooks: &'static [Place],
}

const POD: [Entry; 1] = [Entry {
    name: "pod",
    hooks: &[at(Hook::TcIngress, "pod0")],
}];
const OUTSIDE: [Entry; 2] = [
    Entry {
        name: "outside, with XDP",
        hooks: &[at(Hook::Xdp, "up0"), at(Hook::TcIngress, "up0")],
    },
    Entry {
        name: "outside, without XDP",
        hooks: &[at(Hook::TcIngress, "up1")],
    },
];
const NODE_TO_ITSELF: [Entry; 1] = [Entry {
    name: "node, by loopback",
    hooks: &[at(Hook::TcEgress, "lo")],
}];
const NODE_TO_OTHERS: [Entry; 1] = [Entry {
    name: "node",
    hooks: &[at(Hook::TcEgress, "up0")],
}];

impl Source {
    /// `vips` are the load balancer IPs of the Service that the flow is
    /// addressed to: from these, only a process of this node can send.
    pub(crate) fn of(flow: &Flow, scenario: &Scenario, vips: &BTreeSet<IpAddr>) -> Self {
        if scenario.node.ips.contains(&flow.src) {
            return Self::Node;
        }
        if flow.src.is_loopback() || vips.contains(&flow.src) {
            return Self::Unanswerable;
        }
        if is_pod(flow.src, scenario) {
            return Self::Pod;
        }
        Self::Outside
    }

    /// Every way in, to be tried one by one.
    pub(crate) fn entries(self, flow: &Flow, scenario: &Scenario) -> &'static [Entry] {
        match self {
            Self::Pod => &POD,
            Self::Outside => &OUTSIDE,
            Self::Node | Self::Unanswerable => {
                if flow.dst.is_loopback() || scenario.node.ips.contains(&flow.dst) {
                    &NODE_TO_ITSELF
                } else {
                    &NODE_TO_OTHERS
                }
            }
        }
    }
}

/// The networks that pods are in; `None` where pods are not told apart.
pub(crate) fn pod_networks(scenario: &Scenario) -> Option<&[IpNet]> {
    let local = &scenario.options.local_traffic;
    match local.mode {
        Detection::None => None,
        Detection::Cidr => Some(local.cidrs.as_ref().unwrap_or(&scenario.node.pod_cidrs)),
    }
}

fn is_pod(source: IpAddr, scenario: &Scenario) -> bool {
    let networks = pod_networks(scenario).unwrap_or_default();
    networks.iter().any(|network| network.contains(&source))
}

//! What the agent is told of a scenario's node.

use std::collections::BTreeSet;

use lb_agent::{
    model,
    node::{NodeOptions, PodDetection},
};

use super::{place::pod_networks, scenario::Scenario};
use crate::lab::Family;

/// The node as the cluster knows it.
pub(crate) fn node(scenario: &Scenario) -> model::Node {
    let node = &scenario.node;
    model::Node {
        name: node.name.clone(),
        internal_ips: node.primary_ips.clone(),
        zone: node.zone.clone(),
        pod_cidrs: node.pod_cidrs.clone(),
        eligible: true,
    }
}

/// What the agent would be started with.
pub(crate) fn options(scenario: &Scenario) -> NodeOptions {
    let options = &scenario.options;
    NodeOptions {
        node_port_addresses: options.nodeport_addresses.iter().map(|one| one.0).collect(),
        localhost_node_ports: options.localhost_nodeports,
        masquerade_all: options.masquerade_all,
        answer_echo: false,
        pods: match pod_networks(scenario) {
            Some(networks) => PodDetection::Networks(networks.to_vec()),
            None => PodDetection::None,
        },
        service_cidrs: options.service_cidrs.clone(),
    }
}

/// Families that are proxied.
pub(crate) fn families(scenario: &Scenario) -> BTreeSet<model::Family> {
    let families = match scenario.ip_families.as_slice() {
        [] => &Family::ALL,
        families => families,
    };
    let family = |family: &Family| match family {
        Family::V4 => model::Family::V4,
        Family::V6 => model::Family::V6,
    };
    families.iter().map(family).collect()
}

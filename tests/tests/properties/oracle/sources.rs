//! Who is let in by a load balancer IP.

use std::net::IpAddr;

use ipnet::IpNet;

use super::manifest::{Service, parse_ip};
use crate::{cluster::ThisNode, probe::Probe};

pub(crate) fn lets_in(service: Service<'_>, probe: &Probe, node: &ThisNode) -> bool {
    let ranges = service.source_ranges().filter_map(parse_range);
    let ranges: Vec<IpNet> = ranges
        .filter(|range| range.addr().is_ipv4() == probe.destination.is_ipv4())
        .collect();
    if ranges.is_empty() || ranges.iter().any(|range| range.prefix_len() == 0) {
        return true;
    }
    if ranges.iter().any(|range| range.contains(&probe.source)) {
        return true;
    }
    let has_node = |range: &IpNet| primary_ips(node).iter().any(|ip| range.contains(ip));
    ranges.iter().any(has_node) && service.load_balancer_ips().contains(&probe.source)
}

/// One of each family: the first that the cluster knows the node by, else the
/// first of its uplink.
pub(crate) fn primary_ips(node: &ThisNode) -> Vec<IpAddr> {
    let mut primary = Vec::new();
    for is_v4 in [true, false] {
        let known = node.internal_ips.iter().chain(&node.uplink);
        primary.extend(known.copied().find(|ip| ip.is_ipv4() == is_v4));
    }
    primary
}

fn parse_range(text: &str) -> Option<IpNet> {
    let (address, prefix) = text.split_once('/')?;
    let net = IpNet::new(parse_ip(address)?, prefix.parse().ok()?).ok()?;
    Some(net)
}

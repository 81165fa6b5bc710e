//! Where a service port is reached.

use std::net::{IpAddr, Ipv4Addr};

use lb_agent::node::NodePortAddress;

use super::{
    Kind,
    manifest::{Service, ServicePort},
    sources::primary_ips,
};
use crate::cluster::ThisNode;

pub(crate) fn frontends(
    service: Service<'_>,
    cluster_ip: IpAddr,
    port: ServicePort<'_>,
    node: &ThisNode,
) -> Vec<(Kind, IpAddr, u16)> {
    let same_family = |ip: &IpAddr| ip.is_ipv4() == cluster_ip.is_ipv4();
    let mut found = vec![(Kind::ClusterIp, cluster_ip, port.number())];
    for ip in service.load_balancer_ips().into_iter().filter(same_family) {
        found.push((Kind::LoadBalancerIp, ip, port.number()));
    }
    for ip in service.external_ips().into_iter().filter(same_family) {
        found.push((Kind::ExternalIp, ip, port.number()));
    }
    if let Some(number) = port.node_port() {
        for ip in node_port_addresses(node).into_iter().filter(same_family) {
            found.push((Kind::NodePort, ip, number));
        }
    }
    found
}

fn node_port_addresses(node: &ThisNode) -> Vec<IpAddr> {
    let mut all: Vec<IpAddr> = node.uplink.iter().chain(&node.others).copied().collect();
    all.retain(|ip| !ip.is_loopback());
    if node.options.localhost_node_ports {
        all.push(Ipv4Addr::LOCALHOST.into());
    }
    let mut served = Vec::new();
    for ip in all {
        let mut any_of_family = false;
        let mut is_in_one = false;
        for selection in &node.options.node_port_addresses {
            match selection {
                NodePortAddress::Primary => {
                    any_of_family = true;
                    is_in_one |= primary_ips(node).contains(&ip);
                }
                NodePortAddress::Within(cidr) => {
                    any_of_family |= cidr.addr().is_ipv4() == ip.is_ipv4();
                    is_in_one |= cidr.contains(&ip);
                }
            }
        }
        if is_in_one || !any_of_family {
            served.push(ip);
        }
    }
    served
}

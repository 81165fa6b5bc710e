//! This node.

use std::net::IpAddr;

use ipnet::IpNet;
use lb_agent::node::{NodeOptions, NodePortAddress, PodDetection};
use proptest::{
    prelude::{Just, any},
    prop_compose, prop_oneof,
    sample::{select, subsequence},
    strategy::Strategy,
};

use crate::cluster::ThisNode;

prop_compose! {
    pub(super) fn this_node()(
        zone in select(vec![None, Some("z1"), Some("z1"), Some("z2")]),
        internal_ips in addresses(&["192.0.2.2", "2001:db8::2"]),
        uplink in addresses(&["192.0.2.1", "192.0.2.2", "2001:db8::1"]),
        others in addresses(&["127.0.0.1", "::1", "100.64.0.1", "2001:db8::2"]),
        options in options(),
    ) -> ThisNode {
        ThisNode {
            zone: zone.map(str::to_owned),
            internal_ips,
            pod_cidrs: vec![net("10.0.0.48/28"), net("fd00:10::50/124")],
            uplink,
            others,
            options,
        }
    }
}

prop_compose! {
    fn options()(
        node_port_addresses in node_port_addresses(),
        localhost_node_ports in any::<bool>(),
        masquerade_all in any::<bool>(),
        pods in pods(),
        has_service_cidrs in any::<bool>(),
    ) -> NodeOptions {
        let service_cidrs = [net("10.96.0.0/16"), net("fd00:96::/112")];
        NodeOptions {
            node_port_addresses,
            localhost_node_ports,
            masquerade_all,
            answer_echo: false,
            pods,
            service_cidrs: if has_service_cidrs { service_cidrs.into() } else { Vec::new() },
        }
    }
}

fn addresses(texts: &[&str]) -> impl Strategy<Value = Vec<IpAddr>> {
    let addresses: Vec<IpAddr> = texts.iter().map(|text| text.parse().unwrap()).collect();
    let count = addresses.len();
    subsequence(addresses, 0..=count)
}

fn node_port_addresses() -> impl Strategy<Value = Vec<NodePortAddress>> {
    let some = ["primary", "192.0.2.2/32", "2001:db8::/127", "127.0.0.0/8"];
    let some: Vec<NodePortAddress> = some.iter().map(|text| text.parse().unwrap()).collect();
    prop_oneof![2 => Just(Vec::new()), 1 => subsequence(some, 1..=2)]
}

fn pods() -> impl Strategy<Value = PodDetection> {
    select(vec![
        PodDetection::None,
        PodDetection::Interface,
        PodDetection::Networks(vec![net("10.0.0.0/8"), net("fd00:10::/64")]),
        PodDetection::NodeNetworks,
    ])
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

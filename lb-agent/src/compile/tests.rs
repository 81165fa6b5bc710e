//! Service semantics, sections 1 to 3, rule by rule.

mod frontends;
mod sets;

use std::{collections::BTreeSet, net::IpAddr, num::NonZeroU16};

use super::*;
use crate::model::{ServiceType, SlicePort, TrafficPolicy};

const NODE: &str = "node1";
const ZONE: &str = "zone1";

/// 10.0.0.`number`, with the defaults of absent conditions.
fn ready(number: u8) -> Endpoint {
    Endpoint {
        address: IpAddr::from([10, 0, 0, number]),
        node: Some("node2".to_owned()),
        ready: true,
        serving: true,
        terminating: false,
        for_zones: BTreeSet::new(),
        for_nodes: BTreeSet::new(),
    }
}

fn here(number: u8) -> Endpoint {
    Endpoint {
        node: Some(NODE.to_owned()),
        ..ready(number)
    }
}

fn terminating(endpoint: Endpoint) -> Endpoint {
    Endpoint {
        ready: false,
        terminating: true,
        ..endpoint
    }
}

fn not_ready(endpoint: Endpoint) -> Endpoint {
    Endpoint {
        ready: false,
        ..endpoint
    }
}

fn not_serving(endpoint: Endpoint) -> Endpoint {
    Endpoint {
        serving: false,
        ..not_ready(endpoint)
    }
}

fn zones(endpoint: Endpoint, zones: &[&str]) -> Endpoint {
    Endpoint {
        for_zones: zones.iter().map(ToString::to_string).collect(),
        ..endpoint
    }
}

fn nodes(endpoint: Endpoint, nodes: &[&str]) -> Endpoint {
    Endpoint {
        for_nodes: nodes.iter().map(ToString::to_string).collect(),
        ..endpoint
    }
}

fn number(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

fn service_port(name: &str, protocol: Protocol, port: u16) -> ServicePort {
    ServicePort {
        name: name.to_owned(),
        protocol,
        port: number(port),
        node_port: None,
    }
}

fn slice_port(name: &str, protocol: Protocol, port: u16) -> SlicePort {
    SlicePort {
        name: name.to_owned(),
        protocol,
        port: number(port),
    }
}

/// A ClusterIP Service with the unnamed TCP port 80.
fn service() -> Service {
    Service {
        name: ObjectName::new("default", "web"),
        service_type: ServiceType::ClusterIP,
        cluster_ips: vec![IpAddr::from([10, 96, 0, 1])],
        external_ips: BTreeSet::new(),
        load_balancer_ips: BTreeSet::new(),
        source_ranges: BTreeSet::new(),
        ports: vec![service_port("", Protocol::Tcp, 80)],
        internal_traffic_policy: TrafficPolicy::Cluster,
        external_traffic_policy: TrafficPolicy::Cluster,
        affinity_seconds: None,
        health_check_node_port: None,
    }
}

/// Its endpoints, on port 8080.
fn slice(endpoints: Vec<Endpoint>) -> Slice {
    Slice {
        name: ObjectName::new("default", "web-1"),
        service: ObjectName::new("default", "web"),
        family: Family::V4,
        ports: vec![slice_port("", Protocol::Tcp, 8080)],
        endpoints,
        trigger_time: None,
    }
}

fn node() -> NodeContext {
    let addresses = ["192.0.2.1", "192.0.2.2", "2001:db8::1"];
    NodeContext {
        name: NODE.to_owned(),
        zone: Some(ZONE.to_owned()),
        node_port_addresses: addresses.map(|text| text.parse().unwrap()).into(),
        primary_ips: ["192.0.2.1", "2001:db8::1"]
            .map(|text| text.parse().unwrap())
            .into(),
        masquerade_all: false,
        echo: None,
    }
}

/// The last byte of each member's address.
fn numbers(set: &SortedSet<Backend>) -> Vec<u8> {
    set.iter()
        .map(|backend| match backend.address {
            IpAddr::V4(v4) => v4.octets()[3],
            IpAddr::V6(v6) => v6.octets()[15],
        })
        .collect()
}

#[test]
fn slices_are_united_and_of_duplicates_the_living_one_counts() {
    let table = [
        (vec![ready(1)], vec![ready(2)], vec![1, 2]),
        (vec![ready(1)], vec![ready(1)], vec![1]),
        (vec![ready(1), ready(1)], vec![], vec![1]),
        (
            vec![terminating(ready(1))],
            vec![ready(1), ready(2)],
            vec![1, 2],
        ),
        (
            vec![terminating(ready(1))],
            vec![not_ready(ready(1)), ready(2)],
            vec![2],
        ),
        (
            vec![terminating(ready(1))],
            vec![terminating(ready(1))],
            vec![1],
        ),
    ];
    for (one, other, cluster) in table {
        let slices = [slice(one), slice(other)];
        for order in [[0, 1], [1, 0]] {
            let order = order.map(|index| &slices[index]);
            let ports = compile(&service(), order.into_iter(), &node());
            assert_eq!(numbers(&ports[0].cluster), cluster, "{order:?}");
        }
    }
}

#[test]
fn slice_ports_join_by_name_and_protocol() {
    use Protocol::{Sctp, Tcp, Udp};

    let ports = |ports: &[(&str, Protocol, u16)]| -> Vec<SlicePort> {
        let ports = ports.iter();
        ports
            .map(|&(name, protocol, at)| slice_port(name, protocol, at))
            .collect()
    };
    type Offered = &'static [(&'static str, Protocol, u16)];
    let table: [(&str, Protocol, Offered, &[u16]); 8] = [
        ("", Tcp, &[("", Tcp, 8080)], &[8080]),
        ("", Tcp, &[("", Udp, 8080)], &[]),
        ("dns", Udp, &[("dns", Tcp, 5353), ("dns", Udp, 53)], &[53]),
        ("dns", Sctp, &[("dns", Tcp, 5353), ("dns", Sctp, 54)], &[54]),
        (
            "http",
            Tcp,
            &[("https", Tcp, 443), ("http", Tcp, 80)],
            &[80],
        ),
        ("http", Tcp, &[("", Tcp, 80)], &[]),
        ("", Tcp, &[("http", Tcp, 80)], &[]),
        (
            "http",
            Tcp,
            &[("http", Tcp, 80), ("http", Tcp, 81)],
            &[80, 81],
        ),
    ];
    for (name, protocol, offered, joined) in table {
        let mut service = service();
        service.ports = vec![service_port(name, protocol, 80)];
        let mut slice = slice(vec![ready(1)]);
        slice.ports = ports(offered);
        let compiled = compile(&service, [&slice].into_iter(), &node());
        let got: Vec<u16> = compiled[0]
            .cluster
            .iter()
            .map(|backend| backend.port)
            .collect();
        assert_eq!(got, joined, "{name:?} {protocol} in {offered:?}");
    }
}

//! The packets to try on a cluster.

use std::{collections::BTreeSet, net::IpAddr};

use lb_agent::model::Protocol;
use serde_json::Value;

use crate::{
    cluster::Cluster,
    oracle::{Oracle, parse_ip},
    probe::{Client, Probe},
};

/// Addresses that no Service has: in the Service networks, and elsewhere.
const NOBODYS: [&str; 4] = [
    "10.96.0.200",
    "fd00:96::200",
    "203.0.113.99",
    "2001:db8::99",
];
const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

/// Every frontend from everywhere; every address that is spoken of on every
/// port, from one place each.
pub(crate) fn probes(cluster: &Cluster, oracle: &Oracle<'_>) -> Vec<Probe> {
    let mut addresses: BTreeSet<IpAddr> = NOBODYS.iter().filter_map(|t| parse_ip(t)).collect();
    let node = &cluster.node;
    addresses.extend(node.uplink.iter().chain(&node.others));
    for service in cluster.services.values() {
        collect_addresses(service, &mut addresses);
    }
    let mut ports = BTreeSet::from([1, 80, 30000]);
    let mut probes = Vec::new();
    for frontend in oracle.frontends() {
        ports.insert(frontend.number);
        for (client, source) in sources(frontend.address, oracle) {
            probes.push(Probe {
                client,
                source,
                destination: frontend.address,
                port: frontend.number,
                protocol: frontend.protocol,
            });
        }
    }
    for destination in addresses {
        let places = sources(destination, oracle);
        let mut places = places.iter().cycle();
        for &port in &ports {
            for (protocol, &(client, source)) in PROTOCOLS.into_iter().zip(&mut places) {
                probes.push(Probe {
                    client,
                    source,
                    destination,
                    port,
                    protocol,
                });
            }
        }
    }
    probes
}

/// Clients that may send to the address.
fn sources(destination: IpAddr, oracle: &Oracle<'_>) -> Vec<(Client, IpAddr)> {
    const V4: [(Client, &str); 7] = [
        (Client::Node, "192.0.2.2"),
        (Client::Pod, "10.0.0.50"),
        (Client::Outside, "203.0.113.200"),
        (Client::Outside, "198.18.0.7"),
        // A pod of another node.
        (Client::Outside, "10.0.0.200"),
        (Client::Pod, "192.0.2.200"),
        // One that another node made up.
        (Client::Outside, "10.0.0.50"),
    ];
    const V6: [(Client, &str); 5] = [
        (Client::Node, "2001:db8::1"),
        (Client::Pod, "fd00:10::50"),
        (Client::Outside, "2001:db8:c::1"),
        (Client::Outside, "2001:db8:d::1"),
        (Client::Outside, "fd00:10::200"),
    ];
    let texts = if destination.is_ipv4() { &V4[..] } else { &V6 };
    let mut sources: Vec<(Client, IpAddr)> = texts
        .iter()
        .map(|&(client, text)| (client, text.parse().unwrap()))
        .collect();
    if destination.is_loopback() {
        sources.truncate(1);
        return sources;
    }
    let frontends = oracle.frontends().iter();
    let vips: BTreeSet<IpAddr> = frontends
        .filter(|frontend| frontend.is_load_balancer_ip())
        .map(|frontend| frontend.address)
        .filter(|address| address.is_ipv4() == destination.is_ipv4())
        .collect();
    sources.extend(vips.into_iter().map(|vip| (Client::Pod, vip)));
    sources
}

fn collect_addresses(value: &Value, addresses: &mut BTreeSet<IpAddr>) {
    match value {
        Value::String(text) => addresses.extend(parse_ip(text)),
        Value::Array(items) => items.iter().for_each(|v| collect_addresses(v, addresses)),
        Value::Object(fields) => fields
            .values()
            .for_each(|v| collect_addresses(v, addresses)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

//! The Services of a cluster of any size; the last three are measured.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use crate::lab::Protocol;

/// What pods have, so that they are told from other clients.
pub(super) const POD_CIDR: &str = "10.244.0.0/16";
/// Of every Service.
pub(super) const PORT: u16 = 80;
/// Of the established flow from outside.
pub(super) const CLIENT_PORT: u16 = 40_000;
/// Of every endpoint.
pub(super) const TARGET_PORT: u16 = 8080;
/// Of the Service with one endpoint, which iperf3 needs, and of that endpoint.
pub(super) const STREAM_PORT: u16 = 5201;
/// Of the Service that is reached from outside.
pub(super) const EXTERNAL_IP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

/// One family, and endpoints that all are ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) name: String,
    pub(super) cluster_ip: Ipv4Addr,
    pub(super) external_ip: Option<Ipv4Addr>,
    pub(super) protocols: Vec<Protocol>,
    pub(super) port: u16,
    pub(super) target_port: u16,
    pub(super) endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) address: Ipv4Addr,
    pub(super) node: &'static str,
}

/// Addresses of the pods that serve what is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Backends {
    /// On the node that is measured.
    pub(super) near: [Ipv4Addr; 3],
    /// On the other one.
    pub(super) far: [Ipv4Addr; 3],
}

/// How many of the last ones are measured.
pub(super) const MEASURED: usize = 3;

/// `count` Services in the order in which they were created. The last three
/// are, in this order: the one with endpoints on the other node and an external
/// IP, the one for iperf3, and the one with endpoints on this node.
pub(super) fn services(count: u32, backends: &Backends) -> Vec<Service> {
    (1..=count)
        .map(|number| service(number, count - number, backends))
        .collect()
}

pub(super) fn cluster_ip(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 96, 0, 0).to_bits() + number)
}

fn service(number: u32, followers: u32, backends: &Backends) -> Service {
    let pods = |addresses: &[Ipv4Addr], node| {
        let endpoint = |&address| Endpoint { address, node };
        addresses.iter().map(endpoint).collect()
    };
    let other = Service {
        name: format!("service-{number}"),
        cluster_ip: cluster_ip(number),
        external_ip: None,
        protocols: vec![Protocol::Tcp],
        port: PORT,
        target_port: TARGET_PORT,
        endpoints: Vec::new(),
    };
    match followers {
        0 => Service {
            protocols: vec![Protocol::Tcp, Protocol::Udp],
            endpoints: pods(&backends.near, "node1"),
            ..other
        },
        1 => Service {
            port: STREAM_PORT,
            target_port: STREAM_PORT,
            endpoints: pods(&backends.near[..1], "node1"),
            ..other
        },
        2 => Service {
            external_ip: Some(EXTERNAL_IP),
            protocols: vec![Protocol::Udp],
            endpoints: pods(&backends.far, "node2"),
            ..other
        },
        _ => {
            let first = Ipv4Addr::new(10, 128, 1, 0).to_bits() + 3 * number;
            let addresses: [_; 3] = [0, 1, 2].map(|more| Ipv4Addr::from_bits(first + more));
            Service {
                endpoints: pods(&addresses, "node3"),
                ..other
            }
        }
    }
}

/// Documents of Kubernetes: each Service and its EndpointSlice.
pub(super) fn manifests(services: &[Service]) -> String {
    let documents = services
        .iter()
        .flat_map(|service| [service.manifest(), service.slice()])
        .map(|document| document.to_string());
    documents.collect::<Vec<_>>().join("\n---\n")
}

impl Service {
    fn manifest(&self) -> Value {
        let ports = self.protocols.iter().map(|protocol| {
            json!({
                "name": port_name(*protocol),
                "protocol": protocol,
                "port": self.port,
                "targetPort": self.target_port,
            })
        });
        let external: Vec<_> = self.external_ip.iter().collect();
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": self.name, "namespace": "bench"},
            "spec": {
                "type": "ClusterIP",
                "ipFamilies": ["IPv4"],
                "ipFamilyPolicy": "SingleStack",
                "clusterIP": self.cluster_ip,
                "clusterIPs": [self.cluster_ip],
                "externalIPs": external,
                "ports": ports.collect::<Vec<_>>(),
            },
        })
    }

    fn slice(&self) -> Value {
        let endpoints = self.endpoints.iter().map(|endpoint| {
            json!({
                "addresses": [endpoint.address],
                "nodeName": endpoint.node,
                "conditions": {"ready": true},
            })
        });
        let ports = self.protocols.iter().map(|protocol| {
            json!({
                "name": port_name(*protocol),
                "protocol": protocol,
                "port": self.target_port,
            })
        });
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{}-v4", self.name),
                "namespace": "bench",
                "labels": {"kubernetes.io/service-name": self.name},
            },
            "addressType": "IPv4",
            "endpoints": endpoints.collect::<Vec<_>>(),
            "ports": ports.collect::<Vec<_>>(),
        })
    }
}

/// As rulesets and manifests have it: `tcp` or `udp`.
pub(super) fn port_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) const BACKENDS: Backends = Backends {
        near: [
            Ipv4Addr::new(10, 244, 1, 2),
            Ipv4Addr::new(10, 244, 1, 3),
            Ipv4Addr::new(10, 244, 1, 4),
        ],
        far: [
            Ipv4Addr::new(10, 244, 2, 2),
            Ipv4Addr::new(10, 244, 2, 3),
            Ipv4Addr::new(10, 244, 2, 4),
        ],
    };

    #[test]
    fn the_last_three_are_measured() {
        let all = services(300, &BACKENDS);
        assert_eq!(all.len(), 300);
        let first = |index: usize| all[index].endpoints[0].address.to_string();
        assert_eq!(first(0), "10.128.1.3");
        assert_eq!(first(297), "10.244.2.2");
        assert_eq!(first(299), "10.244.1.2");
        assert_eq!(all[299].cluster_ip.to_string(), "10.96.1.44");
        assert_eq!(
            all.iter().filter(|one| one.external_ip.is_some()).count(),
            1
        );
        assert_eq!(manifests(&all[298..]).matches("---").count(), 3);
    }
}

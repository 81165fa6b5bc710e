//! Addresses and ports that a Service answers on.

use std::collections::BTreeMap;

use super::*;

/// Every frontend: address, port, kind, set inside, set outside.
type Frontends = BTreeSet<(String, u16, FrontendKind, char, char)>;

fn frontends(port: &Port) -> Frontends {
    let letter = |set| match set {
        Set::Cluster => 'C',
        Set::Local => 'L',
        Set::Nobody => '-',
    };
    let entries = port.frontends.iter();
    let entries = entries.filter(|(_, frontend)| frontend.kind.is_own());
    let entries = entries.map(|(key, frontend)| {
        assert_eq!(key.protocol, protocol_number(port.id.protocol));
        let address = IpAddr::from(key.address).to_string();
        let sets = (letter(frontend.inside), letter(frontend.outside));
        (
            address,
            u16::from_be(key.port),
            frontend.kind,
            sets.0,
            sets.1,
        )
    });
    entries.collect()
}

#[test]
fn frontends_by_address_and_policy() {
    use FrontendKind::{ClusterIp, ExternalIp, LoadBalancerIp, NodePort};
    use TrafficPolicy::{Cluster, Local};

    let table = [
        (Cluster, Cluster, ['C', 'C', 'C']),
        (Local, Cluster, ['L', 'C', 'C']),
        (Cluster, Local, ['C', 'C', 'L']),
        (Local, Local, ['L', 'C', 'L']),
    ];
    for (internal, external, [cluster_ip, inside, outside]) in table {
        let mut service = service();
        service.service_type = ServiceType::LoadBalancer;
        service.internal_traffic_policy = internal;
        service.external_traffic_policy = external;
        service.external_ips = ["203.0.113.1", "2001:db8:9::1"]
            .map(|ip| ip.parse().unwrap())
            .into();
        service.load_balancer_ips = ["203.0.113.2", "2001:db8:9::2"]
            .map(|ip| ip.parse().unwrap())
            .into();
        service.ports[0].node_port = Some(number(30_080));
        let expected = [
            ("10.96.0.1", 80, ClusterIp, cluster_ip, cluster_ip),
            ("203.0.113.1", 80, ExternalIp, inside, outside),
            ("203.0.113.2", 80, LoadBalancerIp, inside, outside),
            ("192.0.2.1", 30_080, NodePort, inside, outside),
            ("192.0.2.2", 30_080, NodePort, inside, outside),
        ];
        let expected =
            expected.map(|(address, port, kind, a, b)| (address.to_owned(), port, kind, a, b));
        let ports = compile(&service, [].iter(), &node());
        assert_eq!(ports.len(), 1, "no IPv6 without a clusterIP of it");
        assert_eq!(
            frontends(&ports[0]),
            expected.into(),
            "{internal:?} {external:?}"
        );
    }
}

#[test]
fn a_node_port_counts_whatever_the_type() {
    for service_type in [
        ServiceType::ClusterIP,
        ServiceType::NodePort,
        ServiceType::LoadBalancer,
    ] {
        let mut service = service();
        service.service_type = service_type;
        service.ports[0].node_port = Some(number(30_080));
        let ports = compile(&service, [].iter(), &node());
        assert_eq!(frontends(&ports[0]).len(), 3, "{service_type:?}");
    }
}

#[test]
fn an_address_that_is_a_clusterip_too_stays_one() {
    let mut service = service();
    service.external_ips = service.cluster_ips.iter().copied().collect();
    service.load_balancer_ips = service.external_ips.clone();
    service.external_traffic_policy = TrafficPolicy::Local;
    let ports = compile(&service, [].iter(), &node());
    let expected = (
        "10.96.0.1".to_owned(),
        80,
        FrontendKind::ClusterIp,
        'C',
        'C',
    );
    assert_eq!(frontends(&ports[0]), BTreeSet::from([expected]));
}

#[test]
fn every_family_has_its_own_ports_frontends_and_endpoints() {
    let mut service = service();
    service.cluster_ips.push("fd00:96::1".parse().unwrap());
    service.ports.push(service_port("dns", Protocol::Udp, 53));
    service.ports[1].node_port = Some(number(30_053));
    let v6 = Slice {
        family: Family::V6,
        endpoints: vec![Endpoint {
            address: "fd00:10::6".parse().unwrap(),
            ..here(0)
        }],
        ports: vec![
            slice_port("", Protocol::Tcp, 8080),
            slice_port("dns", Protocol::Udp, 5353),
        ],
        ..slice(vec![])
    };
    let slices = [slice(vec![ready(4)]), v6];
    let ports = compile(&service, slices.iter(), &node());
    let got: BTreeMap<_, _> = ports
        .iter()
        .map(|port| {
            assert_eq!(port.id.service, service.name);
            let addresses: Vec<_> = frontends(port).into_iter().map(|f| f.0).collect();
            (
                (port.id.port.as_str(), port.id.family),
                (addresses, numbers(&port.cluster)),
            )
        })
        .collect();
    let owned = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
    let expected = BTreeMap::from([
        (("", Family::V4), (owned(&["10.96.0.1"]), vec![4])),
        (("", Family::V6), (owned(&["fd00:96::1"]), vec![6])),
        (
            ("dns", Family::V4),
            (owned(&["10.96.0.1", "192.0.2.1", "192.0.2.2"]), vec![]),
        ),
        (
            ("dns", Family::V6),
            (owned(&["2001:db8::1", "fd00:96::1"]), vec![6]),
        ),
    ]);
    assert_eq!(got, expected);
}

/// For what is a Service's and not the node's own.
#[test]
fn echo_requests_are_answered_if_the_operator_wants() {
    let set = |addresses: &[&str]| -> BTreeSet<IpAddr> {
        addresses.iter().map(|ip| ip.parse().unwrap()).collect()
    };
    let mut service = service();
    service.cluster_ips = ["10.96.0.1", "fd00::1"]
        .map(|ip| ip.parse().unwrap())
        .into();
    service.external_ips = set(&["203.0.113.1", "192.0.2.1", "2001:db8:9::1"]);
    service.load_balancer_ips = set(&["203.0.113.2"]);
    service.service_type = ServiceType::LoadBalancer;
    service.ports[0].node_port = Some(number(30_080));
    let own = set(&["192.0.2.1", "127.0.0.1"]);
    for (echo, expect) in [
        (None, &[][..]),
        (
            Some(Echo { own }),
            &[
                "10.96.0.1 1",
                "2001:db8:9::1 58",
                "203.0.113.1 1",
                "203.0.113.2 1",
                "fd00::1 58",
            ],
        ),
    ] {
        let node = NodeContext { echo, ..node() };
        let ports = compile(&service, [].iter(), &node);
        let frontends = ports.iter().flat_map(|port| &port.frontends);
        let echo = frontends.filter(|(_, frontend)| frontend.kind == FrontendKind::Echo);
        let found: BTreeSet<String> = echo
            .map(|(key, _)| {
                assert_eq!(key.port, 0);
                format!("{} {}", IpAddr::from(key.address), key.protocol)
            })
            .collect();
        let expect: BTreeSet<String> = expect.iter().map(ToString::to_string).collect();
        assert_eq!(found, expect);
    }
}

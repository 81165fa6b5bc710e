use serde_json::{Value, json};

use super::*;
use crate::model::{ObjectName, Origin, Protocol};

/// A Service with one port 80 of which `patch` is merged into.
fn convert(patch: Value) -> (Option<Service>, Vec<String>) {
    let mut object = json!({
        "metadata": {"namespace": "ns", "name": "web"},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
    });
    merge(&mut object, patch);
    let object: core::Service = serde_json::from_value(object).unwrap();
    let mut problems = Vec::new();
    let found = service(&object, &mut Reporter::new(&Origin::Api, "", &mut problems));
    (
        found,
        problems.into_iter().map(|problem| problem.field).collect(),
    )
}

fn merge(into: &mut Value, patch: Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, patch) => *into = patch,
    }
}

fn web() -> Service {
    Service {
        name: ObjectName::new("ns", "web"),
        service_type: ServiceType::ClusterIP,
        cluster_ips: vec![ip("10.96.0.1")],
        external_ips: BTreeSet::new(),
        load_balancer_ips: BTreeSet::new(),
        source_ranges: BTreeSet::new(),
        ports: vec![service_port("", Protocol::Tcp, 80, None)],
        internal_traffic_policy: TrafficPolicy::Cluster,
        external_traffic_policy: TrafficPolicy::Cluster,
        affinity_seconds: None,
        health_check_node_port: None,
    }
}

fn service_port(name: &str, protocol: Protocol, port: u16, node_port: Option<u16>) -> ServicePort {
    ServicePort {
        name: name.to_owned(),
        protocol,
        port: NonZeroU16::new(port).unwrap(),
        node_port: node_port.and_then(NonZeroU16::new),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn ips(texts: &[&str]) -> BTreeSet<IpAddr> {
    texts.iter().map(|text| ip(text)).collect()
}

#[test]
fn skipped() {
    for patch in [
        json!({"metadata": {"labels": {"service.kubernetes.io/service-proxy-name": "other"}}}),
        json!({"metadata": {"labels": {"service.kubernetes.io/service-proxy-name": ""}}}),
        json!({"spec": {"clusterIP": "None"}}),
        json!({"spec": {"clusterIP": ""}}),
        json!({"spec": {"clusterIP": null}}),
        json!({"spec": {"type": "ExternalName", "externalName": "example.org"}}),
        json!({"spec": null}),
    ] {
        assert_eq!(convert(patch.clone()), (None, Vec::new()), "{patch}");
    }
}

#[test]
fn defaults() {
    assert_eq!(convert(json!({})), (Some(web()), Vec::new()));
}

#[test]
fn cluster_ips_by_family() {
    fn check(spec: Value, expect: &[&str], fields: &[&str]) {
        let (found, problems) = convert(json!({ "spec": spec }));
        let found = found.map(|service| service.cluster_ips).unwrap_or_default();
        let expect: Vec<IpAddr> = expect.iter().map(|text| ip(text)).collect();
        assert_eq!(
            (found, problems),
            (expect, fields.iter().map(|f| (*f).to_owned()).collect())
        );
    }
    let both = json!(["10.96.0.1", "fd00::1"]);
    check(json!({"clusterIPs": both}), &["10.96.0.1"], &[]);
    check(json!({"clusterIP": "fd00::1"}), &["fd00::1"], &[]);
    check(json!({"clusterIP": "010.096.0.1"}), &["10.96.0.1"], &[]);
    check(
        json!({"clusterIP": "::ffff:10.96.0.1"}),
        &["10.96.0.1"],
        &[],
    );
    check(
        json!({"clusterIPs": both, "ipFamilies": ["IPv4", "IPv6"]}),
        &["10.96.0.1", "fd00::1"],
        &[],
    );
    check(
        json!({"clusterIPs": both, "ipFamilies": ["IPv4"]}),
        &["10.96.0.1"],
        &[],
    );
    check(
        json!({"clusterIPs": ["10.96.0.1"], "ipFamilies": ["IPv4", "IPv6"]}),
        &["10.96.0.1"],
        &[],
    );
    check(json!({"ipFamilies": ["IPv4"]}), &[], &[]);
    check(
        json!({"clusterIPs": both, "ipFamilies": ["IPv6", "IPv4"]}),
        &[],
        &["spec.clusterIPs[0]", "spec.clusterIPs[1]"],
    );
    check(
        json!({"clusterIPs": ["x", "fd00::1"], "ipFamilies": ["IPv4", "IPv6"]}),
        &["fd00::1"],
        &["spec.clusterIPs[0]"],
    );
    check(
        json!({"clusterIP": "10.96.0.1.2"}),
        &[],
        &["spec.clusterIP"],
    );
}

#[test]
fn addresses_and_ranges() {
    let (found, problems) = convert(json!({
        "spec": {
            "externalIPs": ["198.51.100.1", "bad", "2001:db8::1", "198.051.100.002", "198.51.100.1"],
            "loadBalancerIP": "203.0.113.9",
            "loadBalancerSourceRanges": [" 10.0.0.1/8 ", "2001:db8::/32\n", "10.0.0.0/33", "0.0.0.0/0"],
        },
        "status": {"loadBalancer": {"ingress": [
            {"ip": "203.0.113.1"},
            {"ip": "203.0.113.2", "ipMode": "VIP"},
            {"ip": "203.0.113.3", "ipMode": "Proxy"},
            {"hostname": "lb.example.org"},
            {"ip": "2001:db8::2"},
            {"ip": "nowhere"},
        ]}},
    }));
    let expect = Service {
        external_ips: ips(&["198.51.100.1", "2001:db8::1", "198.51.100.2"]),
        load_balancer_ips: ips(&["203.0.113.1", "203.0.113.2", "2001:db8::2"]),
        source_ranges: ["10.0.0.0/8", "2001:db8::/32", "0.0.0.0/0"]
            .map(|text| text.parse().unwrap())
            .into(),
        ..web()
    };
    assert_eq!(found, Some(expect));
    assert_eq!(
        problems,
        [
            "spec.externalIPs[1]",
            "status.loadBalancer.ingress[5].ip",
            "spec.loadBalancerSourceRanges[2]",
        ]
    );
}

#[test]
fn ports_of_a_service() {
    let (found, problems) = convert(json!({"spec": {"ports": [
        {"name": "a", "port": 53, "protocol": "UDP", "nodePort": 30053},
        {"name": "b", "port": 53, "protocol": "TCP", "nodePort": 0},
        {"name": "c", "port": 70000},
        {"name": "d", "port": 1, "protocol": "tcp"},
        {"name": "e", "port": 9, "protocol": "SCTP", "nodePort": 65536},
    ]}}));
    let expect = Service {
        ports: vec![
            service_port("a", Protocol::Udp, 53, Some(30053)),
            service_port("b", Protocol::Tcp, 53, None),
            service_port("e", Protocol::Sctp, 9, None),
        ],
        ..web()
    };
    assert_eq!(found, Some(expect));
    assert_eq!(
        problems,
        [
            "spec.ports[2].port",
            "spec.ports[3].protocol",
            "spec.ports[4].nodePort"
        ]
    );
}

#[test]
fn type_policies_affinity_and_health_check() {
    let local_load_balancer = Service {
        service_type: ServiceType::LoadBalancer,
        external_traffic_policy: TrafficPolicy::Local,
        ..web()
    };
    let sticky = |seconds| Service {
        affinity_seconds: NonZeroU32::new(seconds),
        ..web()
    };
    let cases = [
        (
            json!({"type": "NodePort"}),
            Service {
                service_type: ServiceType::NodePort,
                ..web()
            },
            None,
        ),
        (
            json!({"internalTrafficPolicy": "Local"}),
            Service {
                internal_traffic_policy: TrafficPolicy::Local,
                ..web()
            },
            None,
        ),
        (
            json!({"internalTrafficPolicy": "local"}),
            web(),
            Some("spec.internalTrafficPolicy"),
        ),
        (
            json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"}),
            local_load_balancer.clone(),
            None,
        ),
        (
            json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30999}),
            Service {
                health_check_node_port: NonZeroU16::new(30999),
                ..local_load_balancer
            },
            None,
        ),
        (json!({"healthCheckNodePort": 30999}), web(), None),
        (json!({"sessionAffinity": "ClientIP"}), sticky(10_800), None),
        (
            json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}}),
            sticky(5),
            None,
        ),
        (
            json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}}),
            sticky(10_800),
            Some("spec.sessionAffinityConfig.clientIP.timeoutSeconds"),
        ),
        (json!({"sessionAffinity": "None"}), web(), None),
        (
            json!({"sessionAffinity": "Cookie"}),
            web(),
            Some("spec.sessionAffinity"),
        ),
    ];
    for (spec, expect, problem) in cases {
        let found = convert(json!({ "spec": spec }));
        let problems = problem.map(str::to_owned).into_iter().collect();
        assert_eq!(found, (Some(expect), problems), "{spec}");
    }
    let unknown = convert(json!({"spec": {"type": "clusterIP"}}));
    assert_eq!(unknown, (None, vec!["spec.type".to_owned()]));
}

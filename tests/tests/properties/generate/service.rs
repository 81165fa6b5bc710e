//! Services, proxied or not.

use proptest::{
    prelude::{Just, Strategy, any},
    prop_oneof,
    sample::{select, subsequence},
    strategy::BoxedStrategy,
};
use serde_json::{Value, json};

use super::{Contradictions, Field, SERVICES, object, one_of, seldom, some_of};

/// Name, protocol and number.
const PORTS: [(&str, Option<&str>, u16); 5] = [
    ("http", Some("TCP"), 80),
    ("dns", Some("UDP"), 53),
    ("dns-tcp", Some("TCP"), 53),
    ("sctp", Some("SCTP"), 80),
    ("plain", None, 8080),
];

pub(super) fn service(index: usize, allow: Contradictions) -> BoxedStrategy<Value> {
    let [namespace, name] = SERVICES[index];
    let metadata = json!({"namespace": namespace, "name": name});
    let others = match allow {
        Contradictions::None => index..index + 1,
        Contradictions::Some => 0..2,
    };
    let numbers = match allow {
        Contradictions::None => index,
        Contradictions::Some => index % 2,
    };
    let parts = (cluster_ips(index), others, ports(numbers), labels());
    parts
        .prop_flat_map(move |(cluster_ips, pool, ports, labels)| {
            let mut metadata = metadata.clone();
            metadata["labels"] = labels;
            let status = object(vec![(
                "loadBalancer",
                object(vec![("ingress", ingress(pool))]),
            )]);
            (
                Just((metadata, cluster_ips, ports)),
                spec(pool, allow),
                status,
            )
        })
        .prop_map(|((metadata, cluster_ips, ports), mut spec, status)| {
            spec["ports"] = ports;
            for (field, value) in cluster_ips.as_object().unwrap() {
                spec[field] = value.clone();
            }
            json!({"kind": "Service", "metadata": metadata, "spec": spec, "status": status})
        })
        .boxed()
}

fn labels() -> BoxedStrategy<Value> {
    let proxy = json!({"service.kubernetes.io/service-proxy-name": ""});
    let other = json!({"app": "x"});
    prop_oneof![1 => Just(proxy), 30 => Just(other)].boxed()
}

fn cluster_ips(index: usize) -> BoxedStrategy<Value> {
    let v4 = format!("10.96.0.{}", 10 + index);
    let v6 = format!("fd00:96::{}", 10 + index);
    let of = |families: &[&str], ips: &[&String]| json!({"ipFamilies": families, "clusterIPs": ips, "clusterIP": ips[0]});
    prop_oneof![
        6 => Just(of(&["IPv4", "IPv6"], &[&v4, &v6])),
        3 => Just(of(&["IPv6", "IPv4"], &[&v6, &v4])),
        2 => Just(of(&["IPv4"], &[&v4])),
        2 => Just(of(&["IPv6"], &[&v6])),
        1 => Just(json!({"clusterIP": v4})),
        1 => Just(json!({"clusterIP": v6})),
        1 => select(vec![json!({"clusterIP": "None"}), json!({"clusterIP": ""}), json!({})]),
    ]
    .boxed()
}

/// `numbers` tells its nodePorts from those of others.
fn ports(numbers: usize) -> BoxedStrategy<Value> {
    let numbered: Vec<usize> = (0..PORTS.len()).collect();
    let node_ports = any::<[u8; PORTS.len()]>();
    let parts = (subsequence(numbered, 1..=3), node_ports, any::<bool>());
    parts
        .prop_map(move |(chosen, node_ports, is_named)| {
            let is_named = is_named || chosen.len() > 1;
            let ports = chosen.into_iter().map(|at| {
                let (name, protocol, number) = PORTS[at];
                let mut port = json!({"port": number, "targetPort": name});
                if is_named {
                    port["name"] = name.into();
                }
                if let Some(protocol) = protocol {
                    port["protocol"] = protocol.into();
                }
                match node_ports[at] % 4 {
                    0 => {}
                    1 => port["nodePort"] = 0.into(),
                    _ => port["nodePort"] = (30000 + 10 * numbers + at).into(),
                }
                port
            });
            ports.collect()
        })
        .boxed()
}

/// All but the clusterIPs and ports. `pool` says which addresses are its own.
fn spec(pool: usize, allow: Contradictions) -> BoxedStrategy<Value> {
    let policies = [
        Value::Null,
        "Cluster".into(),
        "Local".into(),
        "Local".into(),
    ];
    let types = [
        Value::Null,
        "ClusterIP".into(),
        "NodePort".into(),
        "LoadBalancer".into(),
        "LoadBalancer".into(),
        "LoadBalancer".into(),
    ];
    let timeout = object(vec![("timeoutSeconds", one_of(&[Value::Null, 5.into()]))]);
    let fields: Vec<Field> = vec![
        (
            "type",
            prop_oneof![20 => one_of(&types), 1 => Just("ExternalName".into())].boxed(),
        ),
        ("internalTrafficPolicy", one_of(&policies)),
        ("externalTrafficPolicy", one_of(&policies)),
        ("externalIPs", seldom(some_of(external_ips(pool, allow)))),
        ("loadBalancerSourceRanges", seldom(source_ranges())),
        ("sessionAffinity", seldom(one_of(&["None", "ClientIP"]))),
        (
            "sessionAffinityConfig",
            seldom(object(vec![("clientIP", timeout)])),
        ),
        ("loadBalancerIP", seldom(one_of(&["198.51.100.250"]))),
        ("publishNotReadyAddresses", seldom(one_of(&[true]))),
    ];
    object(fields)
}

fn external_ips(pool: usize, allow: Contradictions) -> Vec<Value> {
    let v4 = |number| Value::from(format!("203.0.113.{number}"));
    let mut addresses = vec![
        v4(10 * pool + 1),
        format!("203.000.113.0{}", 10 * pool + 2).into(),
        format!("2001:db8:e::{pool}").into(),
        // A load balancer IP of the same Service, too.
        format!("198.51.100.{}", 10 * pool + 1).into(),
        "not an address".into(),
    ];
    if allow == Contradictions::Some {
        let cluster_ips = [0, 1].map(|index| format!("10.96.0.{}", 10 + index).into());
        addresses.extend(cluster_ips);
    }
    addresses
}

fn ingress(pool: usize) -> BoxedStrategy<Value> {
    let item = |ip: String, mode: Value| match mode {
        Value::Null => json!({ "ip": ip }),
        mode => json!({"ip": ip, "ipMode": mode}),
    };
    let v4 = |number| format!("198.51.100.{}", 10 * pool + number);
    let v6 = |number: u8| format!("2001:db8:1b::{pool}{number}");
    some_of(vec![
        item(v4(1), Value::Null),
        item(v4(2), "VIP".into()),
        item(v4(3), "Proxy".into()),
        item(v6(1), Value::Null),
        item(v6(2), "Proxy".into()),
        json!({"hostname": "lb.example"}),
    ])
}

fn source_ranges() -> BoxedStrategy<Value> {
    let ranges = [
        "203.0.113.0/24",
        " 198.18.0.0/15 ",
        "010.0.0.0/8",
        "10.0.0.50/32",
        // Holds the node's addresses.
        "192.0.2.0/24",
        "2001:db8:c::/48",
        "2001:db8::/64",
        "0.0.0.0/0",
        "::/0",
        "10.0.0.0/33",
    ];
    let ranges: Vec<Value> = ranges.map(Value::from).into();
    subsequence(ranges, 1..=3).prop_map(Value::Array).boxed()
}

use ipnet::IpNet;
use serde_json::{Value, json};

use super::*;
use crate::watch::manifests::ledger::Entry;

/// Services by name, from their specs.
fn services(specs: &[(&str, Value)]) -> Services {
    let located = |name: &str, spec: &Value| {
        let object = json!({"metadata": {"namespace": "ns", "name": name}, "spec": spec});
        Located {
            origin: Origin::Api,
            object: Arc::new(serde_json::from_value(object).unwrap()),
        }
    };
    specs
        .iter()
        .map(|(name, spec)| (ObjectName::new("ns", *name), located(name, spec)))
        .collect()
}

fn run(
    specs: &[(&str, Value)],
    cidrs: &[&str],
    ledger: &mut Ledger,
) -> (Vec<ServiceSpec>, Vec<String>) {
    let cidrs: Vec<IpNet> = cidrs.iter().map(|text| text.parse().unwrap()).collect();
    let cidrs = ServiceCidrs::new(&cidrs).unwrap();
    let (filled, problems) = allocate(&services(specs), &cidrs, ledger);
    let specs = filled
        .into_values()
        .map(|located| located.object.spec.clone().unwrap());
    (
        specs.collect(),
        problems.iter().map(ToString::to_string).collect(),
    )
}

fn ips(spec: &ServiceSpec) -> Vec<&str> {
    spec.cluster_ips
        .iter()
        .flatten()
        .map(String::as_str)
        .collect()
}

fn node_ports(spec: &ServiceSpec) -> Vec<Option<i32>> {
    spec.ports
        .iter()
        .flatten()
        .map(|port| port.node_port)
        .collect()
}

fn ports(spec: Value) -> Value {
    let mut spec = spec;
    spec["ports"] = json!([{"port": 80}]);
    spec
}

#[test]
fn defaults_of_the_api_server() {
    let (specs, problems) = run(&[("a", ports(json!({})))], &[], &mut Ledger::default());
    let found = serde_json::to_value(&specs[0]).unwrap();
    let expect = json!({
        "type": "ClusterIP", "sessionAffinity": "None",
        "internalTrafficPolicy": "Cluster", "externalTrafficPolicy": "Cluster",
        "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
        "clusterIP": specs[0].cluster_ip, "clusterIPs": specs[0].cluster_ips,
        "ports": [{"port": 80, "targetPort": 80, "protocol": "TCP"}],
    });
    assert_eq!((found, problems), (expect, Vec::new()));
    let (specs, _) = run(
        &[("a", ports(json!({"sessionAffinity": "ClientIP"})))],
        &[],
        &mut Ledger::default(),
    );
    let config = specs[0].session_affinity_config.clone().unwrap();
    assert_eq!(config.client_ip.unwrap().timeout_seconds, Some(10_800));
}

#[test]
fn families() {
    fn check(spec: Value, cidrs: &[&str], expect: &[&str], policy: &str, problem: &str) {
        let (specs, problems) = run(&[("a", ports(spec.clone()))], cidrs, &mut Ledger::default());
        let families: Vec<&str> = specs[0]
            .ip_families
            .iter()
            .flatten()
            .map(String::as_str)
            .collect();
        assert_eq!(families, expect, "{spec}");
        let family = |ip: &str| if ip.contains(':') { "IPv6" } else { "IPv4" };
        let found: Vec<&str> = ips(&specs[0]).into_iter().map(family).collect();
        assert_eq!(found, expect, "{spec}");
        assert_eq!(specs[0].ip_family_policy.as_deref(), Some(policy), "{spec}");
        assert_eq!(
            problems.len(),
            usize::from(!problem.is_empty()),
            "{problems:?}"
        );
        assert!(
            problems.iter().all(|line| line.contains(problem)),
            "{problems:?}"
        );
    }
    let (v4, v6) = ("10.0.0.0/24", "fd00::/112");
    check(json!({}), &[v6, v4], &["IPv6"], "SingleStack", "");
    check(
        json!({"ipFamilies": ["IPv6"]}),
        &[v4, v6],
        &["IPv6"],
        "SingleStack",
        "",
    );
    check(
        json!({"ipFamilies": ["IPv6", "IPv4"]}),
        &[v4, v6],
        &["IPv6", "IPv4"],
        "RequireDualStack",
        "",
    );
    check(
        json!({"ipFamilyPolicy": "PreferDualStack"}),
        &[v4, v6],
        &["IPv4", "IPv6"],
        "PreferDualStack",
        "",
    );
    check(
        json!({"ipFamilyPolicy": "PreferDualStack"}),
        &[v4],
        &["IPv4"],
        "PreferDualStack",
        "",
    );
    check(
        json!({"ipFamilyPolicy": "RequireDualStack"}),
        &[v4],
        &["IPv4"],
        "RequireDualStack",
        "spec.ipFamilyPolicy",
    );
    check(
        json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]}),
        &[v4, v6],
        &["IPv6", "IPv4"],
        "RequireDualStack",
        "",
    );
    check(
        json!({"clusterIP": "fd00::7"}),
        &[v4, v6],
        &["IPv6"],
        "SingleStack",
        "",
    );
    check(
        json!({"clusterIPs": ["10.0.0.7", "fd00::7"]}),
        &[v4],
        &["IPv4", "IPv6"],
        "RequireDualStack",
        "",
    );
    check(
        json!({"ipFamilies": ["IPv6"]}),
        &[v4],
        &[],
        "SingleStack",
        "spec.ipFamilies",
    );
    check(
        json!({"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "SingleStack"}),
        &[v4, v6],
        &["IPv4"],
        "SingleStack",
        "spec.ipFamilyPolicy",
    );
}

#[test]
fn no_addresses_for_headless_and_external_name() {
    let specs = [
        ("a", json!({"clusterIP": "None"})),
        (
            "b",
            json!({"type": "ExternalName", "externalName": "example.org"}),
        ),
    ];
    let mut ledger = Ledger::default();
    let (specs, problems) = run(&specs, &[], &mut ledger);
    assert_eq!(specs[0].cluster_ip.as_deref(), Some("None"));
    assert_eq!(specs[1].cluster_ip, None);
    assert_eq!((ledger, problems), (Ledger::default(), Vec::new()));
}

#[test]
fn node_ports_are_given_where_they_are_wanted() {
    fn check(spec: Value, node_port: bool, health_check: bool) {
        let (specs, problems) = run(&[("a", ports(spec.clone()))], &[], &mut Ledger::default());
        let in_range =
            |port: Option<i32>| port.is_some_and(|port| (30_000..=32_767).contains(&port));
        assert_eq!(
            node_ports(&specs[0]).into_iter().all(in_range),
            node_port,
            "{spec}"
        );
        assert_eq!(
            in_range(specs[0].health_check_node_port),
            health_check,
            "{spec}"
        );
        assert_eq!(problems, Vec::<String>::new(), "{spec}");
    }
    check(json!({}), false, false);
    check(json!({"type": "NodePort"}), true, false);
    check(json!({"type": "LoadBalancer"}), true, false);
    check(
        json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false}),
        false,
        false,
    );
    check(
        json!({"type": "NodePort", "allocateLoadBalancerNodePorts": false}),
        true,
        false,
    );
    check(
        json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"}),
        true,
        true,
    );
    check(
        json!({"type": "NodePort", "externalTrafficPolicy": "Local"}),
        true,
        false,
    );
}

#[test]
fn stable_and_distinct() {
    let names: Vec<String> = (0..200).map(|index| format!("s{index}")).collect();
    let mut specs: Vec<(&str, Value)> = names
        .iter()
        .map(|name| {
            (
                name.as_str(),
                ports(json!({"type": "NodePort", "ipFamilyPolicy": "PreferDualStack"})),
            )
        })
        .collect();
    let mut ledger = Ledger::default();
    let cidrs = ["10.0.0.0/24", "fd00::/120"];
    let (first, problems) = run(&specs, &cidrs, &mut ledger);
    assert_eq!(problems, Vec::<String>::new());
    let unique: BTreeSet<&str> = first.iter().flat_map(ips).collect();
    assert_eq!(unique.len(), 400);
    let unique: BTreeSet<Option<i32>> = first.iter().flat_map(node_ports).collect();
    assert_eq!(unique.len(), 200);

    let before = ledger.clone();
    assert_eq!(run(&specs, &cidrs, &mut ledger).0, first);
    assert_eq!(ledger, before);
    specs.truncate(100);
    run(&specs, &cidrs, &mut ledger);
    specs = names
        .iter()
        .map(|name| (name.as_str(), specs[0].1.clone()))
        .collect();
    assert_eq!(run(&specs, &cidrs, &mut ledger).0, first);
}

/// A Service with a node port that states what it runs with.
fn stating(of: &ServiceSpec, protocol: &str) -> Value {
    let port = json!({"port": 80, "nodePort": node_ports(of)[0], "protocol": protocol});
    json!({"type": "NodePort", "clusterIP": of.cluster_ip, "ports": [port]})
}

#[test]
fn the_first_who_states_a_value_gets_it() {
    let mut ledger = Ledger::default();
    let node_port = ports(json!({"type": "NodePort"}));
    let (before, _) = run(&[("z", node_port.clone())], &[], &mut ledger);
    let explicit = stating(&before[0], "TCP");
    let (ip, port) = (before[0].cluster_ip.clone(), node_ports(&before[0])[0]);
    let udp =
        json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port, "protocol": "UDP"}]});
    // The one that had them is gone, or comes back at the same time.
    for mut ledger in [Ledger::default(), {
        run(&[], &[], &mut ledger);
        ledger
    }] {
        let specs = [
            ("a", explicit.clone()),
            ("b", explicit.clone()),
            ("c", udp.clone()),
            ("z", node_port.clone()),
        ];
        let (after, problems) = run(&specs, &[], &mut ledger);
        assert_eq!(after[0].cluster_ip, ip);
        assert!(after[1].cluster_ip.is_some() && after[1].cluster_ip != ip);
        assert_eq!(
            (node_ports(&after[1]), node_ports(&after[2])),
            (vec![None], vec![port])
        );
        assert!(after[3].cluster_ip.is_some() && after[3].cluster_ip != ip);
        assert!(node_ports(&after[3])[0].is_some() && node_ports(&after[3])[0] != port);
        let (ip, port) = (ip.as_ref().unwrap(), port.unwrap());
        assert_eq!(
            problems,
            [
                format!(
                    "API: Service ns/b: spec.clusterIPs[0]: found {ip}, which belongs to Service ns/a, accepted: an address of its own (another one is allocated)"
                ),
                format!(
                    "API: Service ns/b: spec.ports[0].nodePort: found {port}, which belongs to Service ns/a, accepted: a port of its own"
                ),
            ]
        );
    }
}

#[test]
fn nobody_takes_what_a_running_service_has() {
    let local = || {
        let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"});
        ports(spec)
    };
    let mut ledger = Ledger::default();
    let (before, _) = run(&[("z", local())], &[], &mut ledger);
    let (ip, port) = (
        before[0].cluster_ip.clone().unwrap(),
        node_ports(&before[0])[0].unwrap(),
    );
    let health_check = before[0].health_check_node_port.unwrap();
    let mut newcomer = stating(&before[0], "TCP");
    newcomer["type"] = "LoadBalancer".into();
    newcomer["externalTrafficPolicy"] = "Local".into();
    newcomer["healthCheckNodePort"] = health_check.into();
    let untouched = ledger.clone();
    let both = [("a", newcomer.clone()), ("z", local())];
    let (after, problems) = run(&both, &[], &mut ledger);
    assert_eq!(after[1], before[0]);
    let address = after[0].cluster_ip.clone();
    assert!(address.is_some() && address.as_ref() != Some(&ip));
    assert_eq!(
        (node_ports(&after[0]), after[0].health_check_node_port),
        (vec![None], None)
    );
    let expect = [
        format!(
            "API: Service ns/a: spec.clusterIPs[0]: found {ip}, which belongs to Service ns/z, accepted: an address of its own (another one is allocated)"
        ),
        format!(
            "API: Service ns/a: spec.ports[0].nodePort: found {port}, which belongs to Service ns/z, accepted: a port of its own"
        ),
        format!(
            "API: Service ns/a: spec.healthCheckNodePort: found {health_check}, which belongs to Service ns/z, accepted: a port of its own"
        ),
    ];
    assert_eq!(problems, expect);
    assert_eq!(run(&both, &[], &mut ledger), (after, problems));
    for (key, entry) in &untouched.cluster_ips {
        assert_eq!(ledger.cluster_ips.get(key), Some(entry));
    }
    assert_eq!(ledger.node_ports, untouched.node_ports);

    // The owner may write down what it has.
    let written = [("a", newcomer.clone()), ("z", newcomer.clone())];
    let (after, problems) = run(&written, &[], &mut ledger);
    assert_eq!(problems, expect);
    assert_eq!(after[1].cluster_ip.as_ref(), Some(&ip));
    assert_eq!(node_ports(&after[1]), [Some(port)]);
    assert_eq!(ledger.node_ports, untouched.node_ports);

    // With another protocol, a port is another one.
    let (after, problems) = run(
        &[("b", stating(&before[0], "UDP")), ("z", local())],
        &[],
        &mut ledger,
    );
    assert_eq!(after[1], before[0]);
    assert_eq!(
        (node_ports(&after[0]), problems.len()),
        (vec![Some(port)], 1)
    );

    // The owner states others, and the newcomer gets what it wants.
    let other = json!({"type": "NodePort", "clusterIP": "10.96.0.77", "ports": [{"port": 80, "nodePort": 31_077}]});
    let (after, problems) = run(&[("a", newcomer), ("z", other)], &[], &mut ledger);
    assert_eq!(problems, Vec::<String>::new());
    assert_eq!(after[0].cluster_ip.as_ref(), Some(&ip));
    assert_eq!(node_ports(&after[0]), [Some(port)]);
    assert_eq!(after[1].cluster_ip.as_deref(), Some("10.96.0.77"));
    assert_eq!(node_ports(&after[1]), [Some(31_077)]);
}

#[test]
fn a_port_that_moves_within_its_service() {
    let mut ledger = Ledger::default();
    let two = |node_port: Value| {
        json!({"type": "NodePort", "ports": [
            {"name": "x", "port": 80},
            {"name": "y", "port": 81, "nodePort": node_port},
        ]})
    };
    let (before, _) = run(&[("a", two(Value::Null))], &[], &mut ledger);
    let x = node_ports(&before[0])[0];
    let (after, problems) = run(&[("a", two(x.into()))], &[], &mut ledger);
    let found = node_ports(&after[0]);
    assert_eq!((found[1], problems), (x, Vec::new()));
    assert!(found[0].is_some() && found[0] != x, "{found:?}");
}

#[test]
fn released_addresses_are_reused_last() {
    let mut ledger = Ledger::default();
    let cidr = ["10.0.0.0/29"];
    let specs = |names: &[&'static str]| -> Vec<(&'static str, Value)> {
        names.iter().map(|name| (*name, ports(json!({})))).collect()
    };
    let (first, _) = run(&specs(&["a", "b", "c", "d", "e", "f"]), &cidr, &mut ledger);
    let (full, problems) = run(
        &specs(&["a", "b", "c", "d", "e", "f", "g"]),
        &cidr,
        &mut ledger,
    );
    assert_eq!(full[..6], first);
    assert_eq!(full[6].cluster_ip, None);
    assert_eq!(
        problems,
        [
            "API: Service ns/g: spec.clusterIP: found no free address in 10.0.0.0/29, accepted: a larger --service-cidr"
        ]
    );
    run(&specs(&["a", "b", "d", "e", "f"]), &cidr, &mut ledger);
    run(&specs(&["b", "d", "e", "f"]), &cidr, &mut ledger);
    let (last, problems) = run(&specs(&["b", "d", "e", "f", "g"]), &cidr, &mut ledger);
    assert_eq!(
        (last[4].cluster_ip.clone(), problems),
        (first[2].cluster_ip.clone(), Vec::new())
    );
    let released = |entry: &Entry<IpAddr>| entry.released.is_some();
    let kept: Vec<&String> = ledger
        .cluster_ips
        .iter()
        .filter(|(_, entry)| released(entry))
        .map(|(key, _)| key)
        .collect();
    assert_eq!(kept, ["ns/a IPv4"]);
}

#[test]
fn cidrs_of_one_family_are_refused() {
    let cidrs = ["10.0.0.0/24", "10.1.0.0/24"].map(|text| text.parse().unwrap());
    assert_eq!(ServiceCidrs::new(&cidrs), None);
}

use std::{collections::BTreeSet, num::NonZeroU16};

use lb_common::{Hook, Verdict};

use super::*;
use crate::{
    compile::{NodeContext, compile},
    model::{Endpoint, ObjectName, Protocol, ServicePort, Slice, SlicePort},
};

const NODE: &str = "n1";

/// A Service with the TCP ports `a`, of which 30080 is the nodePort if it has
/// one, and `b`.
fn service(service_type: ServiceType, internal: TrafficPolicy, external: TrafficPolicy) -> Service {
    let port = |name: &str, number, node_port| ServicePort {
        name: name.to_owned(),
        protocol: Protocol::Tcp,
        port: NonZeroU16::new(number).unwrap(),
        node_port,
    };
    let node_port = (service_type != ServiceType::ClusterIP).then_some(30080);
    Service {
        name: ObjectName::new("ns", "web"),
        service_type,
        cluster_ips: vec!["10.96.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        external_ips: BTreeSet::new(),
        load_balancer_ips: BTreeSet::new(),
        source_ranges: BTreeSet::new(),
        ports: vec![
            port("a", 80, node_port.and_then(NonZeroU16::new)),
            port("b", 81, None),
        ],
        internal_traffic_policy: internal,
        external_traffic_policy: external,
        affinity_seconds: None,
        health_check_node_port: None,
    }
}

/// One endpoint of both ports on each of these nodes.
fn slice(nodes: &[&str]) -> Slice {
    let port = |name: &str| SlicePort {
        name: name.to_owned(),
        protocol: Protocol::Tcp,
        port: NonZeroU16::new(8080).unwrap(),
    };
    let endpoints = nodes.iter().zip(1..).map(|(node, number)| Endpoint {
        address: [10, 0, 0, number].into(),
        node: Some((*node).to_owned()),
        ready: true,
        serving: true,
        terminating: false,
        for_zones: BTreeSet::new(),
        for_nodes: BTreeSet::new(),
    });
    Slice {
        name: ObjectName::new("ns", "web-1"),
        service: ObjectName::new("ns", "web"),
        family: Family::V4,
        ports: vec![port("a"), port("b")],
        endpoints: endpoints.collect(),
        trigger_time: None,
    }
}

#[test]
fn ports_without_local_endpoints() {
    use ServiceType::{ClusterIP, LoadBalancer, NodePort};
    use TrafficPolicy::{Cluster, Local};

    let elsewhere: &[&str] = &["n2", "n3"];
    let everywhere: &[&str] = &["n1", "n2"];
    let external_ip: &[&str] = &["198.51.100.1"];
    let table: [(_, _, _, &[&str], _, (usize, usize)); 11] = [
        (NodePort, Local, Local, &[], elsewhere, (2, 1)),
        (NodePort, Local, Cluster, &[], elsewhere, (2, 0)),
        (NodePort, Cluster, Local, &[], elsewhere, (0, 1)),
        (NodePort, Cluster, Cluster, &[], elsewhere, (0, 0)),
        (NodePort, Local, Local, &[], everywhere, (0, 0)),
        (NodePort, Local, Local, &[], &[], (0, 0)),
        (LoadBalancer, Cluster, Local, external_ip, elsewhere, (0, 2)),
        (ClusterIP, Local, Local, &[], elsewhere, (2, 0)),
        (ClusterIP, Local, Local, external_ip, elsewhere, (2, 2)),
        // Of the other family.
        (
            ClusterIP,
            Cluster,
            Local,
            &["2001:db8::1"],
            elsewhere,
            (0, 0),
        ),
        (
            NodePort,
            Cluster,
            Local,
            &["2001:db8::1"],
            elsewhere,
            (0, 1),
        ),
    ];
    for (row, (kind, internal, external, addresses, nodes, expect)) in table.iter().enumerate() {
        let mut service = service(*kind, *internal, *external);
        service.external_ips = addresses.iter().map(|text| text.parse().unwrap()).collect();
        let node = NodeContext {
            name: NODE.to_owned(),
            ..NodeContext::default()
        };
        let slices = [slice(nodes)];
        let ports = compile(&service, slices.iter(), &node);
        let found = no_local_endpoints(&service, &ports);
        assert_eq!((found.internal, found.external), *expect, "row {row}");
    }
}

/// The samples of a metric, without its name.
fn samples(text: &str, name: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix(name));
    let ours = lines.filter(|rest| rest.starts_with(['{', ' ']));
    ours.map(|rest| rest.trim().to_owned()).collect()
}

#[test]
fn names_and_labels() {
    let metrics = Metrics::new();
    let name = ObjectName::new("ns", "web");
    metrics.told(&Change::Service(name.clone(), None));
    metrics.told(&Change::Slice(name.clone(), None));
    metrics.told(&Change::Synced);
    metrics.applied(&[Family::V6].into(), Duration::from_millis(3));
    metrics.told(&Change::Slice(name, None));
    metrics.synced(SystemTime::UNIX_EPOCH + Duration::from_millis(1500));
    metrics.programmed(Family::V4, Duration::from_millis(300));
    metrics.probed(true, 503);
    metrics.probed(false, 200);
    let counts = NoLocalEndpoints {
        internal: 3,
        external: 0,
    };
    metrics.set_no_local_endpoints(Family::V4, counts);
    let text = metrics
        .encode(Figures {
            packets: vec![(Hook::Xdp, Verdict::ALL[0], 7)],
            shortcut: true,
            ..Figures::default()
        })
        .unwrap();

    let verdict = Verdict::ALL[0].name();
    let packets = format!(r#"{{hook="xdp",verdict="{verdict}"}} 7"#);
    let table: [(&str, &str, &[&str]); 12] = [
        (
            "sync_proxy_rules_duration_seconds_count",
            "",
            &[r#"{ip_family="IPv4"} 0"#, r#"{ip_family="IPv6"} 1"#],
        ),
        (
            "network_programming_duration_seconds_count",
            "",
            &[r#"{ip_family="IPv4"} 1"#, r#"{ip_family="IPv6"} 0"#],
        ),
        ("sync_proxy_rules_duration_seconds", "histogram", &[]),
        ("sync_proxy_rules_last_timestamp_seconds", "gauge", &["1.5"]),
        ("sync_proxy_rules_endpoint_changes_total", "", &["2"]),
        ("sync_proxy_rules_endpoint_changes_pending", "gauge", &["1"]),
        ("sync_proxy_rules_service_changes_total", "", &["1"]),
        ("sync_proxy_rules_service_changes_pending", "gauge", &["0"]),
        (
            "sync_proxy_rules_no_local_endpoints_total",
            "gauge",
            &[
                r#"{traffic_policy="external",ip_family="IPv4"} 0"#,
                r#"{traffic_policy="external",ip_family="IPv6"} 0"#,
                r#"{traffic_policy="internal",ip_family="IPv4"} 3"#,
                r#"{traffic_policy="internal",ip_family="IPv6"} 0"#,
            ],
        ),
        ("proxy_healthz_total", "", &[r#"{code="503"} 1"#]),
        ("proxy_livez_total", "", &[r#"{code="200"} 1"#]),
        ("lb_packets_total", "", &[&packets]),
    ];
    for (name, kind, expect) in table {
        let name = match name {
            "lb_packets_total" => name.to_owned(),
            _ => format!("kubeproxy_{name}"),
        };
        let mut found = samples(&text, &name);
        found.sort();
        assert_eq!(found, expect, "{name}\n{text}");
        // A counter's own name lacks the suffix.
        let plain = name.strip_suffix("_total").filter(|_| kind.is_empty());
        let line = match plain {
            Some(plain) => format!("# TYPE {plain} counter\n"),
            None if kind.is_empty() => continue,
            None => format!("# TYPE {name} {kind}\n"),
        };
        assert!(text.contains(&line), "{line}{text}");
    }
    assert!(text.contains("\nlb_shortcut 1\n"), "{text}");
    let queued = samples(
        &text,
        "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
    );
    let queued: f64 = queued[0].parse().unwrap();
    assert!(queued > 1.7e9);
    assert!(text.ends_with("# EOF\n") && text.matches("# EOF").count() == 1);
}

#[test]
fn buckets() {
    let text = Metrics::new().encode(Figures::default()).unwrap();
    let bounds = |name: &str| -> Vec<f64> {
        let samples = samples(&text, &format!("kubeproxy_{name}_bucket"));
        let bounds = samples.iter().filter(|sample| sample.contains("IPv4"));
        let bound = |sample: &String| {
            sample
                .split("le=\"")
                .nth(1)?
                .split('"')
                .next()?
                .parse()
                .ok()
        };
        bounds.filter_map(bound).collect()
    };
    let doubling: Vec<f64> = (0..15).map(|power| 0.001 * f64::from(1 << power)).collect();
    let mut found = bounds("sync_proxy_rules_duration_seconds");
    assert_eq!(found.pop(), Some(f64::INFINITY));
    assert_eq!(found, doubling);

    let found = bounds("network_programming_duration_seconds");
    assert_eq!(found[..4], [0.25, 0.5, 1.0, 2.0]);
    assert_eq!(found[60..64], [59.0, 60.0, 65.0, 70.0]);
    assert_eq!(
        found[72..],
        [
            115.0,
            120.0,
            150.0,
            180.0,
            210.0,
            240.0,
            270.0,
            300.0,
            f64::INFINITY
        ]
    );
}

//! What Prometheus reads.

use std::time::SystemTime;

use lb_tests::lab::{Exchange, Family, Lab, Protocol};
use serde_json::json;

use super::{
    LOOPBACK, METRICS,
    checks::balanced,
    eventually, from_outside,
    http::get,
    site::{NODE_PORT, Site, cluster_ip, slices, write},
};

/// The value of a sample that the node's Prometheus would read.
pub(crate) fn sample(lab: &Lab, name: &str) -> Option<f64> {
    let answer = get(&lab.node(1).netns, (LOOPBACK, METRICS).into(), "/metrics").unwrap();
    let mut lines = answer.body.lines();
    lines.find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

#[test]
fn metrics() {
    let site = Site::new(&[]);
    let lab = &site.lab;
    let inside = |path| get(&lab.node(1).netns, (LOOPBACK, METRICS).into(), path).unwrap();
    for answer in from_outside(lab, METRICS, "/metrics") {
        assert!(answer.is_none(), "{answer:?}");
    }
    let text = inside("/metrics");
    assert_eq!(text.code, 200);
    assert!(text.headers["content-type"].starts_with("application/openmetrics-text"));
    for (path, expect) in [("/healthz", "ok"), ("/proxyMode", "ebpf")] {
        let answer = inside(path);
        assert_eq!((answer.code, answer.body.as_str()), (200, expect));
        assert!(answer.headers["content-type"].starts_with("text/plain"));
    }
    let configuration = &inside("/configz").json()["kubeproxy.config.k8s.io"];
    for (key, expect) in [
        ("mode", json!("ebpf")),
        ("hostnameOverride", json!("node1")),
        ("healthzBindAddress", json!("0.0.0.0:10256")),
        ("metricsBindAddress", json!("127.0.0.1:10249")),
        ("manifests", json!([site.manifests])),
        ("xdp", json!("auto")),
    ] {
        assert_eq!(configuration[key], expect, "{key}");
    }

    let changes = "kubeproxy_sync_proxy_rules_service_changes_total";
    let before = sample(lab, changes).unwrap();
    let mut web = balanced("web", 10, NODE_PORT, 30500);
    web["spec"]["internalTrafficPolicy"] = "Local".into();
    write(&site.manifests, "web", &[web]);
    write(&site.manifests, "web-slices", &slices(lab, "web", &["b"]));
    let lacking = |policy: &str, family: &str| {
        let labels = format!(r#"traffic_policy="{policy}",ip_family="{family}""#);
        let name = "kubeproxy_sync_proxy_rules_no_local_endpoints_total";
        sample(lab, &format!("{name}{{{labels}}}"))
    };
    // TCP and UDP.
    let all = |expect: f64| {
        let of = |policy, family| lacking(policy, family) == Some(expect);
        let policies = ["internal", "external"].into_iter();
        let mut pairs = policies.flat_map(|policy| [(policy, "IPv4"), (policy, "IPv6")]);
        pairs
            .all(|(policy, family)| of(policy, family))
            .then_some(())
    };
    eventually("no local endpoints", || all(2.0));
    assert!(sample(lab, changes).unwrap() > before);
    write(&site.manifests, "web-slices", &slices(lab, "web", &["a"]));
    eventually("local endpoints", || all(0.0));
    write(&site.manifests, "web-slices", &slices(lab, "web", &[]));
    eventually("no endpoints", || all(0.0));

    write(&site.manifests, "web-slices", &slices(lab, "web", &["a"]));
    eventually("local endpoints", || all(0.0));
    let shell = lab.pod("shell").unwrap();
    let to = cluster_ip(Family::V4, 10);
    eventually("an answer", || {
        Exchange::new(Protocol::Tcp, to).run_in(&shell.netns).ok()
    });
    let status = site.agent.status().unwrap();
    let counted = |hook: &str, verdict: &str| {
        let name = format!(r#"lb_packets_total{{hook="{hook}",verdict="{verdict}"}}"#);
        sample(lab, &name).unwrap_or_default()
    };
    let hook = status["counters"]["tc_ingress"].as_object().unwrap();
    assert!(!hook.is_empty());
    for (verdict, count) in hook {
        assert!(
            counted("tc_ingress", verdict) >= count.as_f64().unwrap(),
            "{verdict}"
        );
    }
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    for name in ["last_timestamp_seconds", "last_queued_timestamp_seconds"] {
        let name = format!("kubeproxy_sync_proxy_rules_{name}");
        eventually(&name, || {
            let age = now - sample(lab, &name).unwrap();
            (-5.0..60.0).contains(&age).then_some(())
        });
    }
}

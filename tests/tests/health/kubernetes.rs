//! What only a Kubernetes API can say, and hear.

use std::{
    net::{Ipv4Addr, TcpListener},
    thread,
    time::Duration,
};

use lb_tests::{
    api::{Api, Resource},
    lab::LabOptions,
};
use serde_json::json;

use super::{
    HEALTHZ,
    checks::{balanced, expect_check},
    eventually, from_outside,
    metrics::sample,
    site::{self, BACKENDS, NODE_PORT, slices},
};

#[test]
fn with_a_kubernetes_api() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let lab = site::lab(&LabOptions::default());
    let node = &lab.node(1).netns;
    let api = node.run(|| runtime.block_on(Api::start()).unwrap());
    api.put(Resource::Nodes, json!({"metadata": {"name": "node1"}}));
    let mut web = balanced("web", 10, NODE_PORT, 30500);
    web["metadata"]["uid"] = "0-0-1".into();
    api.put(Resource::Services, web);
    let announce = |time: Option<&str>| {
        for mut slice in slices(&lab, "web", &BACKENDS) {
            let key = "endpoints.kubernetes.io/last-change-trigger-time";
            slice["metadata"]["annotations"] = json!({key: time.unwrap_or("2026-01-02T03:04:05Z")});
            api.put(Resource::EndpointSlices, slice);
        }
    };
    announce(None);
    let other = node.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 30500)).unwrap());
    let kubeconfig = lab.folder().join("kubeconfig");
    api.write_kubeconfig(&kubeconfig).unwrap();
    let kubeconfig = kubeconfig.display().to_string();
    let mut agent = lab.start_agent(1, &["--kubeconfig", &kubeconfig]).unwrap();
    agent.wait_ready().unwrap();

    let event = eventually("an Event", || api.published().into_iter().next());
    assert_eq!(event["type"], "Warning");
    assert_eq!(event["reason"], "FailedToStartServiceHealthcheck");
    assert_eq!(event["regarding"]["name"], "web");
    assert_eq!(event["regarding"]["uid"], "0-0-1");
    let note = event["note"].as_str().unwrap();
    let parts = [
        "Service default/web",
        "spec.healthCheckNodePort",
        "30500",
        "in use",
    ];
    assert!(parts.iter().all(|part| note.contains(part)), "{note}");
    drop(other);
    expect_check(&lab, 30500, 200, "web", 2);
    assert_eq!(api.published().len(), 1);

    let measured = |family: &str| {
        let name = "kubeproxy_network_programming_duration_seconds_count";
        sample(&lab, &format!("{name}{{ip_family=\"{family}\"}}")).unwrap()
    };
    // What began before the agent is not its latency.
    assert_eq!((measured("IPv4"), measured("IPv6")), (0.0, 0.0));
    // In the future by now, so that no clock is too coarse.
    announce(Some("2126-01-02T03:04:05Z"));
    eventually("measured", || {
        (measured("IPv4") == 1.0 && measured("IPv6") == 1.0).then_some(())
    });

    // The same again is no change.
    let told = || sample(&lab, "kubeproxy_sync_proxy_rules_endpoint_changes_total").unwrap();
    let before = told();
    announce(Some("2126-01-02T03:04:05Z"));
    eventually("told", || (told() >= before + 2.0).then_some(()));
    thread::sleep(Duration::from_millis(1500));
    assert_eq!((measured("IPv4"), measured("IPv6")), (1.0, 1.0));

    let deleted = json!({"name": "node1", "deletionTimestamp": "2026-01-02T03:04:05Z"});
    api.put(Resource::Nodes, json!({"metadata": deleted}));
    for (path, code) in [("/healthz", 503), ("/livez", 200)] {
        eventually(path, || {
            let answers = from_outside(&lab, HEALTHZ, path);
            let mut codes = answers.iter().flatten().map(|answer| answer.code);
            codes.all(|other| other == code).then_some(())
        });
    }
}

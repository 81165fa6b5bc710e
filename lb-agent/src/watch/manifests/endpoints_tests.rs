use serde_json::{Value, json};

use super::*;

fn pod(name: &str, ips: &[&str], patch: Value) -> Pod {
    let ips: Vec<Value> = ips.iter().map(|ip| json!({ "ip": ip })).collect();
    let mut object = json!({
        "metadata": {"namespace": "ns", "name": name, "labels": {"app": "web", "tier": "front"}},
        "spec": {"nodeName": "n1", "containers": [
            {"name": "c", "ports": [{"name": "http", "containerPort": 8080}, {"name": "http", "protocol": "UDP", "containerPort": 8081}]}]},
        "status": {"phase": "Running", "podIPs": ips, "conditions": [{"type": "Ready", "status": "True"}]},
    });
    for (pointer, value) in patch.as_object().unwrap() {
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        object.pointer_mut(parent).unwrap()[field] = value.clone();
    }
    serde_json::from_value(object).unwrap()
}

/// `family ports: address ready/serving/terminating@node ..` of each slice.
fn text(slices: &[EndpointSlice]) -> Vec<String> {
    let one = |slice: &EndpointSlice| {
        let ports: Vec<String> = slice
            .ports
            .iter()
            .flatten()
            .map(|port| {
                format!(
                    "{}={}/{}",
                    port.name.clone().unwrap_or_default(),
                    port.port.unwrap(),
                    port.protocol.clone().unwrap_or_default()
                )
            })
            .collect();
        let endpoints: Vec<String> = slice
            .endpoints
            .iter()
            .flatten()
            .map(|endpoint| {
                let conditions = endpoint.conditions.clone().unwrap();
                let flag = |value: Option<bool>| match value {
                    Some(true) => "1",
                    Some(false) => "0",
                    None => "-",
                };
                let flags = [conditions.ready, conditions.serving, conditions.terminating]
                    .map(flag)
                    .concat();
                format!(
                    "{} {flags}@{}",
                    endpoint.addresses[0],
                    endpoint.node_name.clone().unwrap_or_default()
                )
            })
            .collect();
        format!(
            "{} {}: {}",
            slice.address_type,
            ports.join(","),
            endpoints.join(" ")
        )
    };
    slices.iter().map(one).collect()
}

fn check(spec: Value, pods: &[Pod], expect: &[&str]) {
    let name = ObjectName::new("ns", "web");
    let service: Service =
        serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": spec})).unwrap();
    let pods: Vec<(ObjectName, Arc<Pod>)> = pods
        .iter()
        .map(|pod| {
            let meta = &pod.metadata;
            let name = ObjectName::new(meta.namespace.clone().unwrap(), meta.name.clone().unwrap());
            (name, Arc::new(pod.clone()))
        })
        .collect();
    let index = PodIndex::new(pods.iter().map(|(name, pod)| (name, pod)));
    assert_eq!(text(&of_pods(&name, &service, &index)), expect, "{spec}");
}

fn web(ports: Value) -> Value {
    json!({"selector": {"app": "web"}, "ports": ports})
}

#[test]
fn selection() {
    let pods = [
        pod("a", &["10.1.0.1", "fd00::1"], json!({})),
        pod("b", &["10.1.0.2"], json!({"/metadata/namespace": "other"})),
        pod(
            "c",
            &["10.1.0.3"],
            json!({"/metadata/labels": {"app": "db"}}),
        ),
        pod(
            "d",
            &["10.1.0.4"],
            json!({"/metadata/labels": {"app": "web"}}),
        ),
        pod("e", &["10.1.0.5"], json!({"/metadata/labels": null})),
        pod("f", &[], json!({})),
        pod("g", &[], json!({"/status/podIP": "10.1.0.7"})),
    ];
    let ports = json!([{"port": 80}]);
    check(
        web(ports.clone()),
        &pods,
        &[
            "IPv4 =80/TCP: 10.1.0.1 110@n1 10.1.0.4 110@n1 10.1.0.7 110@n1",
            "IPv6 =80/TCP: fd00::1 110@n1",
        ],
    );
    check(
        json!({"selector": {"app": "web", "tier": "front"}, "ports": ports}),
        &pods[1..4],
        &[],
    );
    check(json!({"ports": ports}), &pods, &[]);
    check(json!({"selector": {}, "ports": ports}), &pods, &[]);
}

#[test]
fn readiness() {
    let cases = [
        (json!({}), "110", "110"),
        (json!({"/status/conditions": null}), "000", "100"),
        (
            json!({"/status/conditions": [{"type": "Ready", "status": "False"}]}),
            "000",
            "100",
        ),
        (
            json!({"/status/conditions": [{"type": "Initialized", "status": "True"}]}),
            "000",
            "100",
        ),
        (
            json!({"/metadata/deletionTimestamp": "2024-01-01T00:00:00Z"}),
            "011",
            "111",
        ),
        (
            json!({"/metadata/deletionTimestamp": "2024-01-01T00:00:00Z", "/status/conditions": null}),
            "001",
            "101",
        ),
        (json!({"/status/phase": "Succeeded"}), "", ""),
        (json!({"/status/phase": "Failed"}), "", ""),
        (json!({"/status/phase": null}), "110", "110"),
    ];
    for (patch, plain, published) in cases {
        for (publish, flags) in [(false, plain), (true, published)] {
            let mut spec = web(json!([{"port": 80}]));
            spec["publishNotReadyAddresses"] = publish.into();
            let line = format!("IPv4 =80/TCP: 10.1.0.1 {flags}@n1");
            let expect = if flags.is_empty() {
                vec![]
            } else {
                vec![line.as_str()]
            };
            check(spec, &[pod("a", &["10.1.0.1"], patch.clone())], &expect);
        }
    }
}

#[test]
fn target_ports() {
    let other = json!({"/spec/containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 9090}]}]});
    let sidecar = json!({
        "/spec/containers": [{"name": "c"}],
        "/spec/initContainers": [
            {"name": "i", "ports": [{"name": "http", "containerPort": 1}]},
            {"name": "s", "restartPolicy": "Always", "ports": [{"name": "http", "containerPort": 7070}]}],
    });
    let pods = [
        pod("a", &["10.1.0.1"], json!({})),
        pod("b", &["10.1.0.2"], other),
        pod("c", &["10.1.0.3"], sidecar),
        pod("d", &["10.1.0.4"], json!({"/spec/hostNetwork": true})),
    ];
    check(
        web(json!([{"name": "w", "port": 80, "targetPort": "http"}])),
        &pods,
        &[
            "IPv4 w=7070/TCP: 10.1.0.3 110@n1",
            "IPv4 w=8080/TCP: 10.1.0.1 110@n1 10.1.0.4 110@n1",
            "IPv4 w=9090/TCP: 10.1.0.2 110@n1",
        ],
    );
    check(
        web(
            json!([{"name": "w", "port": 80, "targetPort": "http", "protocol": "UDP"}, {"name": "n", "port": 81, "targetPort": 82}]),
        ),
        &pods[..2],
        &[
            "IPv4 n=82/TCP: 10.1.0.2 110@n1",
            "IPv4 w=8081/UDP,n=82/TCP: 10.1.0.1 110@n1",
        ],
    );
}

#[test]
fn legacy_endpoints() {
    fn check(patch: Value, expect: &[&str]) {
        let mut object = json!({"metadata": {"namespace": "ns", "name": "web"}, "subsets": [
            {"addresses": [{"ip": "10.1.0.1", "nodeName": "n1"}, {"ip": "fd00::1"}],
             "notReadyAddresses": [{"ip": "10.1.0.2"}], "ports": [{"port": 80}]},
            {"addresses": [{"ip": "10.1.0.1"}], "ports": [{"name": "b", "port": 81, "protocol": "UDP"}]}]});
        for (key, value) in patch.as_object().unwrap() {
            object["metadata"][key] = value.clone();
        }
        let endpoints: Endpoints = serde_json::from_value(object).unwrap();
        let slices = of_endpoints(&ObjectName::new("ns", "web"), &endpoints);
        assert_eq!(text(&slices), expect, "{patch}");
    }
    let all = [
        "IPv4 =80/: 10.1.0.1 1--@n1 10.1.0.2 0--@",
        "IPv4 b=81/UDP: 10.1.0.1 1--@",
        "IPv6 =80/: fd00::1 1--@",
    ];
    check(json!({}), &all);
    check(
        json!({"labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}}),
        &[],
    );
    check(
        json!({"labels": {"endpointslice.kubernetes.io/skip-mirror": "false"}}),
        &all,
    );
    check(
        json!({"annotations": {"control-plane.alpha.kubernetes.io/leader": "x"}}),
        &[],
    );
}

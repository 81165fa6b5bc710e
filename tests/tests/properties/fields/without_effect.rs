//! Fields that say nothing of where a packet goes.

use serde_json::json;

use super::{Case, Field};

#[test]
fn what_changes_nothing_writes_nothing() {
    let table: Vec<Field> = vec![
        ("web/metadata/labels", json!({"app": "web"})),
        ("web/metadata/annotations", json!({"note": "x"})),
        ("web/metadata/generation", json!(7)),
        ("web/metadata/finalizers", json!(["x.example/y"])),
        ("web/spec/selector", json!({"app": "web"})),
        ("web/spec/type", json!("NodePort")),
        ("web/spec/ipFamilyPolicy", json!("PreferDualStack")),
        ("web/spec/publishNotReadyAddresses", json!(true)),
        ("web/spec/loadBalancerIP", json!("198.51.100.7")),
        ("web/spec/loadBalancerClass", json!("x.example/y")),
        ("web/spec/allocateLoadBalancerNodePorts", json!(false)),
        ("web/spec/externalName", json!("x.example")),
        ("web/spec/healthCheckNodePort", json!(30900)),
        ("web/spec/trafficDistribution", json!("PreferSameZone")),
        ("web/spec/externalTrafficPolicy", json!("Cluster")),
        ("web/spec/internalTrafficPolicy", json!("Cluster")),
        ("web/spec/sessionAffinity", json!("None")),
        (
            "web/spec/sessionAffinityConfig",
            json!({"clientIP": {"timeoutSeconds": 60}}),
        ),
        ("web/spec/loadBalancerSourceRanges", json!(["0.0.0.0/0"])),
        (
            "web/spec/loadBalancerSourceRanges",
            json!(["2001:db8::/32"]),
        ),
        (
            "web/spec/externalIPs",
            json!(["203.0.113.001", "203.0.113.1", "fd00::1"]),
        ),
        ("web/spec/ports/0/targetPort", json!(8080)),
        ("web/spec/ports/0/appProtocol", json!("http")),
        ("web/spec/ports/0/protocol", json!("TCP")),
        ("web/status/conditions", json!([])),
        (
            "web/status/loadBalancer/ingress",
            json!([{"ip": "198.51.100.1", "ipMode": "VIP", "hostname": "x.example"}]),
        ),
        (
            "web/status/loadBalancer/ingress",
            json!([{"hostname": "x.example"}, {"ip": "198.51.100.1"}]),
        ),
        (
            "web-4/metadata/annotations",
            json!({"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-02T03:04:05Z"}),
        ),
        ("web-4/metadata/labels/app", json!("web")),
        ("web-4/ports/0/protocol", json!("TCP")),
        ("web-4/ports/0/appProtocol", json!("http")),
        (
            "web-4/ports",
            json!([{"name": "http", "port": 8080}, {"name": "dns", "port": 53, "protocol": "UDP"}]),
        ),
        (
            "web-4/endpoints/0/addresses",
            json!(["10.0.0.1", "10.0.0.9"]),
        ),
        (
            "web-4/endpoints/0/conditions",
            json!({"ready": true, "serving": true, "terminating": false}),
        ),
        ("web-4/endpoints/0/hostname", json!("web-0")),
        ("web-4/endpoints/0/zone", json!("z2")),
        (
            "web-4/endpoints/0/targetRef",
            json!({"kind": "Pod", "name": "web-0"}),
        ),
        (
            "web-4/endpoints/0/hints",
            json!({"forZones": [{"name": "z1"}]}),
        ),
        ("web-4/endpoints/1/nodeName", json!("n3")),
        ("web-4/endpoints/1/nodeName", json!(null)),
        ("web-6/endpoints", json!([])),
    ];
    for field in table {
        check(Vec::new(), field);
    }
}

#[test]
fn what_changes_nothing_there_writes_nothing() {
    let draining = json!({"ready": false, "serving": true, "terminating": true});
    let table: Vec<(Vec<Field>, Field)> = vec![
        (
            vec![("web/status/loadBalancer/ingress", json!(null))],
            (
                "web/spec/loadBalancerSourceRanges",
                json!(["203.0.113.0/24"]),
            ),
        ),
        (
            vec![
                ("web/spec/type", json!("ClusterIP")),
                ("web/spec/externalIPs", json!(null)),
            ],
            ("web/spec/externalTrafficPolicy", json!("Local")),
        ),
        (
            vec![("web/spec/clusterIP", json!("None"))],
            ("web/spec/sessionAffinity", json!("ClientIP")),
        ),
        (
            vec![("web/spec/sessionAffinity", json!("ClientIP"))],
            (
                "web/spec/sessionAffinityConfig",
                json!({"clientIP": {"timeoutSeconds": 10800}}),
            ),
        ),
        (
            vec![("web/spec/externalTrafficPolicy", json!("Local"))],
            ("web/spec/healthCheckNodePort", json!(30900)),
        ),
        (
            vec![("web-4/endpoints/2/conditions", draining)],
            ("web-4/endpoints/2/conditions/terminating", json!(false)),
        ),
        (
            vec![("web-4/metadata/labels", json!({}))],
            ("web-4/endpoints", json!([])),
        ),
    ];
    for (given, field) in table {
        check(given, field);
    }
}

fn check(given: Vec<Field>, field: Field) {
    let case = Case {
        given,
        changed: vec![field],
        there: &[],
        back: &[],
    };
    case.check();
}

//! Fields of a Service.

use serde_json::json;

use super::{AGAIN, Case, NOBODY, Writes};

/// All of the Service goes, and comes again.
const GONE: Writes = &[
    "delete 10.96.0.1 any, 10.96.0.1 80/TCP, 192.0.2.1 30080/TCP, 198.51.100.1 80/TCP, 203.0.113.1 80/TCP",
    "retire 1, 2, 3",
];
const COME: Writes = &[
    "backend 1 10.0.0.1 8080 local",
    "backend 2 10.0.0.2 8080",
    "backend 3 10.0.0.3 8080",
    "slots 1 2 3",
    "frontend 10.96.0.1 any -> reject",
    every!("1 2 3"),
];

#[test]
fn fields_of_services_cost_what_they_take() {
    let table = [
        Case {
            given: vec![],
            changed: vec![(
                "web/metadata/labels",
                json!({"service.kubernetes.io/service-proxy-name": "x"}),
            )],
            there: GONE,
            back: COME,
        },
        Case {
            given: vec![],
            changed: vec![("web/spec/type", json!("ExternalName"))],
            there: GONE,
            back: COME,
        },
        Case {
            given: vec![],
            changed: vec![("web/spec/clusterIP", json!("None"))],
            there: GONE,
            back: COME,
        },
        Case {
            given: vec![],
            changed: vec![("web/spec/clusterIPs", json!(["10.96.0.9"]))],
            there: &[
                "delete 10.96.0.1 any, 10.96.0.1 80/TCP",
                "frontend 10.96.0.9 any -> reject",
                "frontend 10.96.0.9 80/TCP -> 1 2 3",
            ],
            back: &[
                "delete 10.96.0.9 any, 10.96.0.9 80/TCP",
                "frontend 10.96.0.1 any -> reject",
                "frontend 10.96.0.1 80/TCP -> 1 2 3",
            ],
        },
        Case {
            given: vec![],
            changed: vec![
                ("web/spec/clusterIPs", json!(["10.96.0.1", "fd00:96::1"])),
                ("web/spec/ipFamilies", json!(["IPv4", "IPv6"])),
            ],
            there: &[
                "backend 4 fd00:10::1 8080 local",
                "slots 4",
                "frontend fd00:96::1 any -> reject",
                "frontend fd00:96::1 80/TCP -> 4",
            ],
            back: &["delete fd00:96::1 any, fd00:96::1 80/TCP", "retire 4"],
        },
        Case {
            given: vec![],
            changed: vec![("web/spec/externalIPs", json!(null))],
            there: &["delete 203.0.113.1 80/TCP"],
            back: &["frontend 203.0.113.1 80/TCP -> 1 2 3"],
        },
        Case {
            given: vec![],
            changed: vec![(
                "web/spec/externalIPs",
                json!(["203.0.113.1", "203.0.113.2"]),
            )],
            there: &["frontend 203.0.113.2 80/TCP -> 1 2 3"],
            back: &["delete 203.0.113.2 80/TCP"],
        },
        Case {
            given: vec![],
            changed: vec![("web/status/loadBalancer/ingress", json!(null))],
            there: &["delete 198.51.100.1 80/TCP"],
            back: &["frontend 198.51.100.1 80/TCP -> 1 2 3"],
        },
        Case {
            given: vec![],
            changed: vec![(
                "web/status/loadBalancer/ingress",
                json!([{"ip": "198.51.100.2"}]),
            )],
            there: &[
                "delete 198.51.100.1 80/TCP",
                "frontend 198.51.100.2 80/TCP -> 1 2 3",
            ],
            back: &[
                "delete 198.51.100.2 80/TCP",
                "frontend 198.51.100.1 80/TCP -> 1 2 3",
            ],
        },
        Case {
            given: vec![],
            changed: vec![(
                "web/status/loadBalancer/ingress",
                json!([{"ip": "198.51.100.1", "ipMode": "Proxy"}]),
            )],
            there: &["delete 198.51.100.1 80/TCP"],
            back: &["frontend 198.51.100.1 80/TCP -> 1 2 3"],
        },
        Case {
            given: vec![],
            changed: vec![(
                "web/spec/loadBalancerSourceRanges",
                json!(["203.0.113.0/24"]),
            )],
            there: &[
                "sources 16 203.0.113.0/24",
                "frontend 198.51.100.1 80/TCP -> 1 2 3, sources 16",
            ],
            back: &["frontend 198.51.100.1 80/TCP -> 1 2 3", "delete sources 16"],
        },
        Case {
            given: vec![(
                "web/spec/loadBalancerSourceRanges",
                json!(["203.0.113.0/24"]),
            )],
            changed: vec![("web/spec/loadBalancerSourceRanges", json!(["192.0.2.0/24"]))],
            there: &[
                "sources 17 192.0.2.0/24 198.51.100.1/32",
                "frontend 198.51.100.1 80/TCP -> 1 2 3, sources 17",
                "delete sources 16",
            ],
            back: &[
                "sources 18 203.0.113.0/24",
                "frontend 198.51.100.1 80/TCP -> 1 2 3, sources 18",
                "delete sources 17",
            ],
        },
        Case {
            given: vec![],
            changed: vec![("web/spec/internalTrafficPolicy", json!("Local"))],
            there: &["slots 1", "frontend 10.96.0.1 80/TCP -> 1"],
            back: &["frontend 10.96.0.1 80/TCP -> 1 2 3"],
        },
        Case {
            given: vec![],
            changed: vec![("web/spec/externalTrafficPolicy", json!("Local"))],
            there: &[
                "slots 1",
                "frontend 192.0.2.1 30080/TCP, 198.51.100.1 80/TCP, 203.0.113.1 80/TCP -> 1 2 3, outside 1",
            ],
            back: &[
                "frontend 192.0.2.1 30080/TCP, 198.51.100.1 80/TCP, 203.0.113.1 80/TCP -> 1 2 3",
            ],
        },
        Case {
            given: vec![("web/spec/externalTrafficPolicy", json!("Local"))],
            changed: vec![("web/spec/type", json!("ClusterIP"))],
            there: &[],
            back: &[],
        },
        Case {
            given: vec![
                ("web/spec/externalTrafficPolicy", json!("Local")),
                ("web/spec/type", json!("ClusterIP")),
            ],
            changed: vec![("web/spec/externalIPs", json!(null))],
            there: &[
                "delete 203.0.113.1 80/TCP",
                "frontend 192.0.2.1 30080/TCP, 198.51.100.1 80/TCP -> 1 2 3",
            ],
            back: &[
                "slots 1",
                "frontend 192.0.2.1 30080/TCP, 198.51.100.1 80/TCP, 203.0.113.1 80/TCP -> 1 2 3, outside 1",
            ],
        },
        Case {
            given: vec![],
            changed: vec![("web/spec/sessionAffinity", json!("ClientIP"))],
            there: &[every!("1 2 3, affinity 10800")],
            back: &[every!("1 2 3")],
        },
        Case {
            given: vec![("web/spec/sessionAffinity", json!("ClientIP"))],
            changed: vec![(
                "web/spec/sessionAffinityConfig",
                json!({"clientIP": {"timeoutSeconds": 60}}),
            )],
            there: &[every!("1 2 3, affinity 60")],
            back: &[every!("1 2 3, affinity 10800")],
        },
        Case {
            given: vec![],
            changed: vec![("web/spec/ports/0/name", json!("dns"))],
            there: NOBODY,
            back: AGAIN,
        },
        Case {
            given: vec![],
            changed: vec![("web/spec/ports/0/protocol", json!("UDP"))],
            there: &[
                "delete 10.96.0.1 80/TCP, 192.0.2.1 30080/TCP, 198.51.100.1 80/TCP, 203.0.113.1 80/TCP",
                "frontend 10.96.0.1 80/UDP, 192.0.2.1 30080/UDP, 198.51.100.1 80/UDP, 203.0.113.1 80/UDP -> reject",
                "retire 1, 2, 3",
            ],
            back: &[
                "delete 10.96.0.1 80/UDP, 192.0.2.1 30080/UDP, 198.51.100.1 80/UDP, 203.0.113.1 80/UDP",
                "backend 1 10.0.0.1 8080 local",
                "backend 2 10.0.0.2 8080",
                "backend 3 10.0.0.3 8080",
                "slots 1 2 3",
                every!("1 2 3"),
            ],
        },
        Case {
            given: vec![],
            changed: vec![("web/spec/ports/0/port", json!(81))],
            there: &[
                "delete 10.96.0.1 80/TCP, 198.51.100.1 80/TCP, 203.0.113.1 80/TCP",
                "frontend 10.96.0.1 81/TCP, 198.51.100.1 81/TCP, 203.0.113.1 81/TCP -> 1 2 3",
            ],
            back: &[
                "delete 10.96.0.1 81/TCP, 198.51.100.1 81/TCP, 203.0.113.1 81/TCP",
                "frontend 10.96.0.1 80/TCP, 198.51.100.1 80/TCP, 203.0.113.1 80/TCP -> 1 2 3",
            ],
        },
        Case {
            given: vec![],
            changed: vec![("web/spec/ports/0/nodePort", json!(30081))],
            there: &[
                "delete 192.0.2.1 30080/TCP",
                "frontend 192.0.2.1 30081/TCP -> 1 2 3",
            ],
            back: &[
                "delete 192.0.2.1 30081/TCP",
                "frontend 192.0.2.1 30080/TCP -> 1 2 3",
            ],
        },
        Case {
            given: vec![],
            changed: vec![("web/spec/ports/0/nodePort", json!(null))],
            there: &["delete 192.0.2.1 30080/TCP"],
            back: &["frontend 192.0.2.1 30080/TCP -> 1 2 3"],
        },
        Case {
            given: vec![],
            changed: vec![(
                "web/spec/ports",
                json!([{"name": "http", "port": 80, "nodePort": 30080}, {"name": "dns", "port": 53, "protocol": "UDP"}]),
            )],
            there: &[
                "frontend 10.96.0.1 53/UDP, 198.51.100.1 53/UDP, 203.0.113.1 53/UDP -> reject",
            ],
            back: &["delete 10.96.0.1 53/UDP, 198.51.100.1 53/UDP, 203.0.113.1 53/UDP"],
        },
    ];
    table.iter().for_each(Case::check);
}

//! Fields of EndpointSlices.

use serde_json::json;

use super::{AGAIN, Case, NOBODY};

#[test]
fn fields_of_slices_cost_what_they_take() {
    let table = [
        Case {
            given: vec![],
            changed: vec![("web-4/metadata/labels", json!({}))],
            there: NOBODY,
            back: AGAIN,
        },
        Case {
            given: vec![],
            changed: vec![(
                "web-4/metadata/labels/service.kubernetes.io~1headless",
                json!(""),
            )],
            there: NOBODY,
            back: AGAIN,
        },
        Case {
            given: vec![],
            changed: vec![(
                "web-4/metadata/labels/kubernetes.io~1service-name",
                json!("other"),
            )],
            there: &[
                "backend 4 10.0.0.2 8080",
                "backend 5 10.0.0.3 8080",
                "slots 0 4 5",
                every!("reject"),
                "frontend 10.96.0.2 80/TCP -> 0 4 5",
                "retire 1, 2, 3",
            ],
            back: &[
                "backend 1 10.0.0.1 8080 local",
                "backend 2 10.0.0.2 8080",
                "backend 3 10.0.0.3 8080",
                "slots 0",
                "slots 1 2 3",
                every!("1 2 3"),
                "frontend 10.96.0.2 80/TCP -> 0",
                "retire 4, 5",
            ],
        },
        Case {
            given: vec![],
            changed: vec![("web-4/addressType", json!("FQDN"))],
            there: NOBODY,
            back: AGAIN,
        },
        Case {
            given: vec![],
            changed: vec![("web-4/ports/0/name", json!("dns"))],
            there: NOBODY,
            back: AGAIN,
        },
        Case {
            given: vec![],
            changed: vec![("web-4/ports/0/protocol", json!("UDP"))],
            there: NOBODY,
            back: AGAIN,
        },
        Case {
            given: vec![],
            changed: vec![("web-4/ports/0/port", json!(9090))],
            there: &[
                "backend 4 10.0.0.1 9090 local",
                "backend 5 10.0.0.2 9090",
                "backend 6 10.0.0.3 9090",
                "slots 4 5 6",
                every!("4 5 6"),
                "retire 1, 2, 3",
            ],
            back: &[
                "backend 1 10.0.0.1 8080 local",
                "backend 2 10.0.0.2 8080",
                "backend 3 10.0.0.3 8080",
                "slots 1 2 3",
                every!("1 2 3"),
                "retire 4, 5, 6",
            ],
        },
        Case {
            given: vec![],
            changed: vec![("web-4/ports/0/port", json!(null))],
            there: NOBODY,
            back: AGAIN,
        },
        Case {
            given: vec![],
            changed: vec![("web-4/endpoints", json!([]))],
            there: NOBODY,
            back: AGAIN,
        },
        Case {
            given: vec![],
            changed: vec![("web-4/endpoints/2/addresses", json!(["10.0.0.4"]))],
            there: &[
                "backend 4 10.0.0.4 8080",
                "slots 1 2 4",
                every!("1 2 4"),
                "retire 3",
            ],
            back: &[
                "backend 3 10.0.0.3 8080",
                "slots 1 2 3",
                every!("1 2 3"),
                "retire 4",
            ],
        },
        Case {
            given: vec![],
            changed: vec![("web-4/endpoints/2/conditions/ready", json!(false))],
            there: &["slots 1 2", every!("1 2")],
            back: &["slots 1 2 3", every!("1 2 3")],
        },
        Case {
            given: vec![],
            changed: vec![(
                "web-4/endpoints/2/conditions",
                json!({"ready": false, "serving": false}),
            )],
            there: &["slots 1 2", every!("1 2"), "retire 3"],
            back: &["backend 3 10.0.0.3 8080", "slots 1 2 3", every!("1 2 3")],
        },
        Case {
            given: vec![],
            changed: vec![(
                "web-4/endpoints/2/conditions",
                json!({"ready": false, "serving": true, "terminating": true}),
            )],
            there: &["slots 1 2", every!("1 2")],
            back: &["slots 1 2 3", every!("1 2 3")],
        },
        Case {
            given: vec![(
                "web-4/endpoints/2/conditions",
                json!({"ready": false, "serving": true, "terminating": true}),
            )],
            changed: vec![("web-4/endpoints/2/conditions/serving", json!(false))],
            there: &["retire 3"],
            back: &["backend 3 10.0.0.3 8080"],
        },
        Case {
            given: vec![
                (
                    "web-4/endpoints/0/conditions",
                    json!({"ready": false, "serving": false}),
                ),
                (
                    "web-4/endpoints/1/conditions",
                    json!({"ready": false, "serving": false}),
                ),
            ],
            changed: vec![(
                "web-4/endpoints/2/conditions",
                json!({"ready": false, "serving": true, "terminating": true}),
            )],
            there: &[],
            back: &[],
        },
        Case {
            given: vec![
                (
                    "web-4/endpoints/0/conditions",
                    json!({"ready": false, "serving": false}),
                ),
                (
                    "web-4/endpoints/1/conditions",
                    json!({"ready": false, "serving": false}),
                ),
                (
                    "web-4/endpoints/2/conditions",
                    json!({"ready": false, "serving": true, "terminating": true}),
                ),
            ],
            changed: vec![("web-4/endpoints/2/conditions/terminating", json!(false))],
            there: &[every!("reject")],
            back: &["slots 1", every!("1")],
        },
        Case {
            given: vec![],
            changed: vec![("web-4/endpoints/2/nodeName", json!("n1"))],
            there: &["backend 3 10.0.0.3 8080 local"],
            back: &["backend 3 10.0.0.3 8080"],
        },
        Case {
            given: vec![],
            changed: vec![("web-4/endpoints/0/nodeName", json!(null))],
            there: &["backend 1 10.0.0.1 8080"],
            back: &["backend 1 10.0.0.1 8080 local"],
        },
        Case {
            given: vec![("web/spec/internalTrafficPolicy", json!("Local"))],
            changed: vec![("web-4/endpoints/0/nodeName", json!("n2"))],
            there: &[
                "backend 1 10.0.0.1 8080",
                "frontend 10.96.0.1 80/TCP -> drop",
            ],
            back: &[
                "backend 1 10.0.0.1 8080 local",
                "slots 1",
                "frontend 10.96.0.1 80/TCP -> 1",
            ],
        },
        Case {
            given: vec![("web/spec/externalTrafficPolicy", json!("Local"))],
            changed: vec![("web-4/endpoints/2/nodeName", json!("n1"))],
            there: &[
                "backend 3 10.0.0.3 8080 local",
                "slots 1 3",
                "frontend 192.0.2.1 30080/TCP, 198.51.100.1 80/TCP, 203.0.113.1 80/TCP -> 1 2 3, outside 1 3",
            ],
            back: &[
                "backend 3 10.0.0.3 8080",
                "slots 1",
                "frontend 192.0.2.1 30080/TCP, 198.51.100.1 80/TCP, 203.0.113.1 80/TCP -> 1 2 3, outside 1",
            ],
        },
        Case {
            given: vec![
                (
                    "web-4/endpoints/1/hints",
                    json!({"forZones": [{"name": "z2"}]}),
                ),
                (
                    "web-4/endpoints/2/hints",
                    json!({"forZones": [{"name": "z2"}]}),
                ),
            ],
            changed: vec![(
                "web-4/endpoints/0/hints",
                json!({"forZones": [{"name": "z1"}]}),
            )],
            there: &["slots 1", every!("1")],
            back: &["slots 1 2 3", every!("1 2 3")],
        },
        Case {
            given: vec![
                (
                    "web-4/endpoints/0/hints",
                    json!({"forNodes": [{"name": "n2"}]}),
                ),
                (
                    "web-4/endpoints/1/hints",
                    json!({"forNodes": [{"name": "n2"}]}),
                ),
            ],
            changed: vec![(
                "web-4/endpoints/2/hints",
                json!({"forNodes": [{"name": "n1"}]}),
            )],
            there: &["slots 3", every!("3")],
            back: &["slots 1 2 3", every!("1 2 3")],
        },
    ];
    table.iter().for_each(Case::check);
}

//! The cluster whose fields change.

use std::collections::BTreeMap;

use lb_agent::model::ObjectName;
use serde_json::{Value, json};

use crate::cluster::{Cluster, ThisNode};

/// `web`, which every kind of frontend leads to; a slice of it for each family,
/// the second of use once the Service has that family; and `other`, which has
/// nothing to do with it.
pub(super) fn base() -> Cluster {
    let web = json!({
        "kind": "Service",
        "metadata": {"namespace": "shop", "name": "web"},
        "spec": {
            "type": "LoadBalancer",
            "clusterIP": "10.96.0.1",
            "clusterIPs": ["10.96.0.1"],
            "ipFamilies": ["IPv4"],
            "externalIPs": ["203.0.113.1"],
            "ports": [{"name": "http", "port": 80, "nodePort": 30080}],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}]}},
    });
    let other = json!({
        "kind": "Service",
        "metadata": {"namespace": "shop", "name": "other"},
        "spec": {
            "clusterIP": "10.96.0.2",
            "ports": [{"name": "http", "port": 80}],
        },
    });
    let endpoints = [("10.0.0.1", "n1"), ("10.0.0.2", "n2"), ("10.0.0.3", "n2")];
    let endpoints = endpoints.map(|(address, node)| {
        json!({"addresses": [address], "nodeName": node, "conditions": {}, "hints": {}})
    });
    let v6 = json!({"addresses": ["fd00:10::1"], "nodeName": "n1"});
    Cluster {
        services: named([("web", web), ("other", other)]),
        slices: named([
            ("web-4", slice("web", "IPv4", endpoints.into())),
            ("web-6", slice("web", "IPv6", json!([v6]))),
            (
                "other-4",
                slice("other", "IPv4", json!([{"addresses": ["10.0.0.1"]}])),
            ),
        ]),
        node: ThisNode {
            zone: Some("z1".to_owned()),
            uplink: vec!["192.0.2.1".parse().unwrap()],
            ..ThisNode::default()
        },
    }
}

pub(super) fn object_name(name: &str) -> ObjectName {
    ObjectName::new("shop", name)
}

fn slice(service: &str, family: &str, endpoints: Value) -> Value {
    let labels = json!({"kubernetes.io/service-name": service});
    json!({
        "kind": "EndpointSlice",
        "metadata": {"namespace": "shop", "labels": labels},
        "addressType": family,
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": endpoints,
    })
}

fn named<const N: usize>(manifests: [(&str, Value); N]) -> BTreeMap<ObjectName, Value> {
    let named = manifests.map(|(name, mut manifest)| {
        manifest["metadata"]["name"] = name.into();
        (object_name(name), manifest)
    });
    named.into()
}

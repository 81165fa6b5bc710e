use k8s_openapi::api::core::v1::{Node, Taint};

use super::label;
use crate::{
    model,
    watch::{
        address::{parse_cidr, parse_ip},
        problems::Reporter,
    },
};

const ZONE: &str = "topology.kubernetes.io/zone";
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

pub(in crate::watch) fn node(node: &Node, reporter: &mut Reporter<'_>) -> model::Node {
    let spec = node.spec.as_ref();
    let addresses = node
        .status
        .as_ref()
        .and_then(|status| status.addresses.as_deref());
    let mut internal_ips = Vec::new();
    for (index, address) in addresses.unwrap_or_default().iter().enumerate() {
        if address.type_ != "InternalIP" {
            continue;
        }
        match parse_ip(&address.address) {
            Some(ip) => internal_ips.push(ip),
            None => reporter.report(
                format!("status.addresses[{index}].address"),
                format!("{:?}", address.address),
                "an IP address",
            ),
        }
    }

    let many = spec
        .and_then(|spec| spec.pod_cidrs.as_deref())
        .unwrap_or_default();
    let one = spec.map_or(&[][..], |spec| spec.pod_cidr.as_slice());
    let texts = if many.is_empty() { one } else { many };
    let mut pod_cidrs = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        match parse_cidr(text) {
            Some(net) => pod_cidrs.push(net),
            None => reporter.report(
                format!("spec.podCIDRs[{index}]"),
                format!("{text:?}"),
                "a CIDR",
            ),
        }
    }

    model::Node {
        name: node.metadata.name.clone().unwrap_or_default(),
        internal_ips,
        zone: label(&node.metadata, ZONE).map(str::to_owned),
        pod_cidrs,
        eligible: is_eligible(node),
    }
}

fn is_eligible(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref());
    let leaves = |taint: &Taint| taint.key == TO_BE_DELETED;
    node.metadata.deletion_timestamp.is_none() && !taints.unwrap_or_default().iter().any(leaves)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::Origin;

    fn check(object: Value, expect: model::Node, fields: &[&str]) {
        let object: Node = serde_json::from_value(object).unwrap();
        let mut problems = Vec::new();
        let found = node(&object, &mut Reporter::new(&Origin::Api, "", &mut problems));
        assert_eq!(found, expect);
        let found: Vec<&str> = problems.iter().map(|p| p.field.as_str()).collect();
        assert_eq!(found, fields);
    }

    #[test]
    fn nodes() {
        let bare = model::Node {
            name: "n1".to_owned(),
            internal_ips: Vec::new(),
            zone: None,
            pod_cidrs: Vec::new(),
            eligible: true,
        };
        check(json!({"metadata": {"name": "n1"}}), bare.clone(), &[]);
        check(
            json!({
                "metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "z1"}},
                "spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd00:1::/64", "x"]},
                "status": {"addresses": [
                    {"type": "Hostname", "address": "n1"},
                    {"type": "InternalIP", "address": "192.0.2.1"},
                    {"type": "InternalIP", "address": "nowhere"},
                    {"type": "ExternalIP", "address": "198.51.100.1"},
                    {"type": "InternalIP", "address": "fd00::1"}]}
            }),
            model::Node {
                internal_ips: vec!["192.0.2.1".parse().unwrap(), "fd00::1".parse().unwrap()],
                zone: Some("z1".to_owned()),
                pod_cidrs: vec![
                    "10.1.0.0/24".parse().unwrap(),
                    "fd00:1::/64".parse().unwrap(),
                ],
                ..bare.clone()
            },
            &["status.addresses[2].address", "spec.podCIDRs[2]"],
        );
        check(
            json!({"metadata": {"name": "n1"}, "spec": {"podCIDR": "10.1.0.0/24"}}),
            model::Node {
                pod_cidrs: vec!["10.1.0.0/24".parse().unwrap()],
                ..bare.clone()
            },
            &[],
        );
        let taint = |key: &str| json!({"taints": [{"key": key, "effect": "NoSchedule"}]});
        for (deleted, spec, eligible) in [
            (false, taint("node.kubernetes.io/unschedulable"), true),
            (false, taint("ToBeDeletedByClusterAutoscaler"), false),
            (true, json!({}), false),
        ] {
            let mut object = json!({"metadata": {"name": "n1"}, "spec": spec});
            if deleted {
                object["metadata"]["deletionTimestamp"] = "2026-01-02T03:04:05Z".into();
            }
            let expect = model::Node {
                eligible,
                ..bare.clone()
            };
            check(object, expect, &[]);
        }
    }
}

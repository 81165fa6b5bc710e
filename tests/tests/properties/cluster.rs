//! A cluster as manifests, and this node as the operator, the cluster and the
//! kernel describe it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use lb_agent::{
    compile::NodeContext,
    interfaces::{Device, Interface, Kind, Peer},
    model::{Change, Node, ObjectName},
    node::{self, NodeOptions, Settings},
    watch,
};
use serde_json::Value;

/// `metadata.name` of this node.
pub(crate) const THIS_NODE: &str = "n1";

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Cluster {
    pub(crate) services: BTreeMap<ObjectName, Value>,
    pub(crate) slices: BTreeMap<ObjectName, Value>,
    pub(crate) node: ThisNode,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ThisNode {
    pub(crate) zone: Option<String>,
    /// `status.addresses` of type `InternalIP`.
    pub(crate) internal_ips: Vec<IpAddr>,
    pub(crate) pod_cidrs: Vec<IpNet>,
    /// Those of the uplink, and of any other interface.
    pub(crate) uplink: Vec<IpAddr>,
    pub(crate) others: Vec<IpAddr>,
    pub(crate) options: NodeOptions,
}

impl Cluster {
    /// What a source tells that told of `before` already.
    pub(crate) fn changes(&self, before: &Self) -> Vec<Change> {
        let mut changes = difference(&before.slices, &self.slices, Change::Slice);
        let services = difference(&before.services, &self.services, Change::Service);
        changes.extend(services);
        changes
    }
}

impl ThisNode {
    pub(crate) fn context(&self) -> NodeContext {
        let interfaces = [
            interface(Kind::Local, &self.others),
            interface(Kind::Uplink, &self.uplink),
        ];
        node::context(&self.options, THIS_NODE, Some(&self.object()), &interfaces)
    }

    pub(crate) fn settings(&self) -> Settings {
        node::settings(&self.options, Some(&self.object())).unwrap()
    }

    fn object(&self) -> Node {
        Node {
            name: THIS_NODE.to_owned(),
            internal_ips: self.internal_ips.clone(),
            zone: self.zone.clone(),
            pod_cidrs: self.pod_cidrs.clone(),
            eligible: true,
        }
    }
}

fn difference<T>(
    before: &BTreeMap<ObjectName, Value>,
    after: &BTreeMap<ObjectName, Value>,
    change: fn(ObjectName, Option<T>) -> Change,
) -> Vec<Change> {
    let names: BTreeSet<&ObjectName> = before.keys().chain(after.keys()).collect();
    let changed = names
        .into_iter()
        .filter(|name| before.get(*name) != after.get(*name));
    changed
        .map(|name| match after.get(name) {
            None => change(name.clone(), None),
            Some(manifest) => {
                let (change, problems) = watch::object(manifest);
                change.unwrap_or_else(|| panic!("{manifest}: {problems:?}"))
            }
        })
        .collect()
}

fn interface(kind: Kind, addresses: &[IpAddr]) -> Interface {
    Interface {
        index: 1,
        name: kind.to_string(),
        kind,
        device: Device::Ethernet,
        mac: None,
        addresses: addresses.to_vec(),
        up: true,
        is_port: false,
        peer: Peer::Unreachable,
    }
}

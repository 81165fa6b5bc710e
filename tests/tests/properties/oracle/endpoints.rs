//! Which endpoints a service port has, and which are chosen.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_agent::model::ObjectName;
use serde_json::Value;

use super::manifest::{ServicePort, list, number, parse_ip, protocol};
use crate::{
    cluster::{Cluster, THIS_NODE, ThisNode},
    probe::Endpoint,
};

#[derive(Clone, Debug)]
pub(crate) struct Endpoints {
    pub(crate) cluster: BTreeSet<Endpoint>,
    pub(crate) local: BTreeSet<Endpoint>,
    pub(crate) any_usable: bool,
}

pub(crate) fn endpoints(
    cluster: &Cluster,
    service: &ObjectName,
    port: ServicePort<'_>,
    is_v4: bool,
) -> Endpoints {
    let all: Vec<Candidate<'_>> = union(candidates(cluster, service, port, is_v4));
    let ready: Vec<&Candidate<'_>> = all.iter().filter(|e| e.is_ready()).collect();
    let draining: Vec<&Candidate<'_>> = all
        .iter()
        .filter(|e| e.is_serving() && e.is_terminating())
        .collect();
    let local = |of: &[&Candidate<'_>]| -> BTreeSet<Endpoint> {
        let local = of.iter().filter(|endpoint| endpoint.is_local());
        local.map(|endpoint| endpoint.shown()).collect()
    };
    let hinted = hinted(&ready, &cluster.node);
    let cluster_set = if ready.is_empty() { &draining } else { &hinted };
    Endpoints {
        cluster: cluster_set.iter().map(|e| e.shown()).collect(),
        local: match local(&ready) {
            none if none.is_empty() => local(&draining),
            some => some,
        },
        any_usable: !ready.is_empty() || !draining.is_empty(),
    }
}

#[derive(Clone, Copy)]
struct Candidate<'a> {
    address: IpAddr,
    port: u16,
    manifest: &'a Value,
}

impl Candidate<'_> {
    fn is_ready(&self) -> bool {
        self.manifest["conditions"]["ready"] != false
    }

    fn is_serving(&self) -> bool {
        self.manifest["conditions"]["serving"] != false
    }

    fn is_terminating(&self) -> bool {
        self.manifest["conditions"]["terminating"] == true
    }

    fn is_local(&self) -> bool {
        self.manifest["nodeName"] == THIS_NODE
    }

    fn hints(&self, kind: &str) -> &[Value] {
        list(&self.manifest["hints"][kind])
    }

    fn is_for(&self, kind: &str, name: &str) -> bool {
        self.hints(kind).iter().any(|hint| hint["name"] == name)
    }

    fn shown(&self) -> Endpoint {
        Endpoint {
            address: self.address,
            port: self.port,
            local: self.is_local(),
        }
    }
}

fn candidates<'a>(
    cluster: &'a Cluster,
    service: &ObjectName,
    port: ServicePort<'_>,
    is_v4: bool,
) -> Vec<Candidate<'a>> {
    let mut found = Vec::new();
    for (name, slice) in &cluster.slices {
        let labels = &slice["metadata"]["labels"];
        if labels.get("service.kubernetes.io/headless").is_some()
            || slice["addressType"] != if is_v4 { "IPv4" } else { "IPv6" }
            || name.namespace != service.namespace
            || labels["kubernetes.io/service-name"] != service.name.as_str()
        {
            continue;
        }
        for joined in list(&slice["ports"]) {
            if joined["name"].as_str().unwrap_or_default() != port.name()
                || protocol(&joined["protocol"]) != port.protocol()
                || number(&joined["port"]) == 0
            {
                continue;
            }
            for manifest in list(&slice["endpoints"]) {
                found.push(Candidate {
                    address: parse_ip(manifest["addresses"][0].as_str().unwrap()).unwrap(),
                    port: number(&joined["port"]),
                    manifest,
                });
            }
        }
    }
    found
}

/// One of each ip:port; one that does not terminate if there is one.
fn union(candidates: Vec<Candidate<'_>>) -> Vec<Candidate<'_>> {
    let mut groups: BTreeMap<(IpAddr, u16), Vec<Candidate<'_>>> = BTreeMap::new();
    for candidate in candidates {
        let identity = (candidate.address, candidate.port);
        groups.entry(identity).or_default().push(candidate);
    }
    let winners = groups.values().map(|group| {
        let staying = group.iter().find(|candidate| !candidate.is_terminating());
        *staying.unwrap_or(&group[0])
    });
    winners.collect()
}

fn hinted<'c, 'a>(ready: &[&'c Candidate<'a>], node: &ThisNode) -> Vec<&'c Candidate<'a>> {
    let keep = |kind: &str, name: &str| -> Vec<&'c Candidate<'a>> {
        if ready.iter().any(|endpoint| endpoint.hints(kind).is_empty()) {
            return Vec::new();
        }
        let kept = ready.iter().filter(|endpoint| endpoint.is_for(kind, name));
        kept.copied().collect()
    };
    let for_node = keep("forNodes", THIS_NODE);
    if !for_node.is_empty() {
        return for_node;
    }
    let for_zone = match &node.zone {
        Some(zone) => keep("forZones", zone),
        None => Vec::new(),
    };
    match for_zone.is_empty() {
        true => ready.to_vec(),
        false => for_zone,
    }
}

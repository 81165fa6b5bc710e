//! From what the kernel says to the role of each interface.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use super::{
    Interface, Kind, Peer,
    facts::{Device, Facts, Link},
    pattern::{Patterns, verdict},
};

/// The interfaces that matter, by index. `node_ips` are the addresses that the
/// cluster knows this node by.
#[must_use]
pub fn classify(facts: &Facts, node_ips: &[IpAddr], patterns: &Patterns) -> Vec<Interface> {
    let view = View::new(facts, node_ips, patterns);
    facts
        .links
        .iter()
        .filter_map(|(index, link)| {
            let kind = view.kind(*index, link)?;
            Some(Interface {
                index: *index,
                name: link.name.clone(),
                kind,
                device: link.device,
                mac: link.mac,
                addresses: view.addresses(*index).to_vec(),
                up: link.up,
                is_port: link.controller.is_some(),
                peer: match kind {
                    Kind::Pod => view.peer(*index, link),
                    Kind::Uplink | Kind::Local => Peer::Unreachable,
                },
            })
        })
        .collect()
}

/// Interfaces that look like uplinks, or are said to be, and cannot be.
pub(super) fn refusals(
    facts: &Facts,
    node_ips: &[IpAddr],
    patterns: &Patterns,
) -> BTreeMap<String, Refusal> {
    let view = View::new(facts, node_ips, patterns);
    facts
        .links
        .iter()
        .filter_map(|(index, link)| Some((link.name.clone(), view.refusal(*index, link)?)))
        .collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    NoFrames,
    BridgeOfPods,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoFrames => "it carries no Ethernet frames, which is not supported yet",
            Self::BridgeOfPods => "it is a bridge of pod interfaces; name it to use it anyway",
        })
    }
}

/// What a veth has that is up and was given no other.
const NO_QDISC: &str = "noqueue";

struct View<'a> {
    facts: &'a Facts,
    patterns: &'a Patterns,
    own: BTreeMap<u32, Vec<IpAddr>>,
    bridges_of_pods: BTreeSet<u32>,
    /// Interfaces with a default route or one of the node's addresses.
    outward: BTreeSet<u32>,
}

impl<'a> View<'a> {
    fn new(facts: &'a Facts, node_ips: &[IpAddr], patterns: &'a Patterns) -> Self {
        let mut own = BTreeMap::<u32, Vec<IpAddr>>::new();
        // What the cluster knows the node by comes first, and floating
        // addresses, which are single ones of a network as a rule, come last.
        let mut ordered: Vec<_> = facts.addresses.iter().collect();
        ordered.sort_by_key(|own| (!node_ips.contains(&own.address), own.prefix_length));
        for address in ordered {
            let addresses = own.entry(address.interface).or_default();
            if is_of_interest(address.address) && !addresses.contains(&address.address) {
                addresses.push(address.address);
            }
        }
        let outward = own
            .iter()
            .filter(|(_, addresses)| addresses.iter().any(|ip| node_ips.contains(ip)))
            .map(|(index, _)| *index)
            .chain(facts.default_routes.iter().copied())
            .collect();
        let bridges_of_pods = facts
            .links
            .values()
            .filter(|link| is_pod_end(link))
            .filter_map(|link| link.controller)
            .collect();
        Self {
            facts,
            patterns,
            own,
            bridges_of_pods,
            outward,
        }
    }

    fn kind(&self, index: u32, link: &Link) -> Option<Kind> {
        let uplink = verdict(&self.patterns.uplink, &link.name);
        let pod = verdict(&self.patterns.pod, &link.name);
        let framed = !matches!(link.device, Device::Loopback | Device::Unframed);
        let outward = self.outward.contains(&index);

        if framed && uplink == Some(true) {
            return Some(Kind::Uplink);
        }
        if framed && pod == Some(true) {
            return Some(Kind::Pod);
        }
        if framed && uplink.is_none() && outward && !self.bridges_of_pods.contains(&index) {
            return Some(Kind::Uplink);
        }
        if pod.is_none() && is_pod_end(link) && !outward {
            return Some(Kind::Pod);
        }
        (!self.addresses(index).is_empty()).then_some(Kind::Local)
    }

    fn peer(&self, index: u32, link: &Link) -> Peer {
        if !is_pod_end(link) || link.controller.is_some() {
            return Peer::Unreachable;
        }
        let has_qdisc = link.qdisc.as_deref() != Some(NO_QDISC);
        if has_qdisc || self.facts.filtered.contains(&index) {
            return Peer::Guarded;
        }
        Peer::Free
    }

    fn refusal(&self, index: u32, link: &Link) -> Option<Refusal> {
        let uplink = verdict(&self.patterns.uplink, &link.name)
            .unwrap_or_else(|| self.outward.contains(&index));
        if !uplink || self.kind(index, link) == Some(Kind::Uplink) {
            return None;
        }
        match link.device {
            Device::Unframed => Some(Refusal::NoFrames),
            Device::Bridge => Some(Refusal::BridgeOfPods),
            // An address of the node on `lo` is reached through the uplinks.
            Device::Loopback | Device::Ethernet | Device::Veth { .. } => None,
        }
    }

    fn addresses(&self, index: u32) -> &[IpAddr] {
        debug_assert!(self.facts.links.contains_key(&index));
        self.own.get(&index).map_or(&[], Vec::as_slice)
    }
}

fn is_pod_end(link: &Link) -> bool {
    matches!(
        link.device,
        Device::Veth {
            peer_elsewhere: true
        }
    )
}

fn is_of_interest(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_multicast(),
        IpAddr::V6(v6) => !v6.is_multicast() && !v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests;

//! This node: what the operator says of it, what the cluster knows of it, and
//! what the kernel has, put together for compile and for the programs. Pure.

use std::{collections::BTreeSet, fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;

use crate::{
    compile::{Echo, NodeContext},
    interfaces::{Interface, Kind},
    model::{Family, Node},
};

/// What the operator says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeOptions {
    /// Empty for all addresses of the node.
    pub node_port_addresses: Vec<NodePortAddress>,
    /// Serve nodePorts on 127.0.0.1 too.
    pub localhost_node_ports: bool,
    pub masquerade_all: bool,
    /// Answer echo requests to addresses of Services.
    pub answer_echo: bool,
    pub pods: PodDetection,
    /// Where clusterIPs are taken from, if it is known: an address that no
    /// Service has is unreachable.
    pub service_cidrs: Vec<IpNet>,
}

/// Which addresses of the node serve nodePorts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodePortAddress {
    /// The one that the cluster knows the node by, of each family.
    Primary,
    Within(IpNet),
}

/// What makes a client a pod, for traffic policies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PodDetection {
    /// Nothing does.
    None,
    /// Its packets enter by a pod's interface.
    #[default]
    Interface,
    /// Its address is in one of these.
    Networks(Vec<IpNet>),
    /// Its address is in `spec.podCIDRs` of this node.
    NodeNetworks,
}

/// What the programs are told, for all Services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Whether packets from a pod's interface are a pod's; else
    /// `pod_networks` says.
    pub pods_by_interface: bool,
    pub pod_networks: BTreeSet<IpNet>,
    pub service_networks: BTreeSet<IpNet>,
}

/// Neither `primary` nor a CIDR.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("found {0:?}, accepted: `primary`, or a CIDR such as 192.0.2.0/24")]
pub struct BadNodePortAddress(String);

impl FromStr for NodePortAddress {
    type Err = BadNodePortAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.parse::<IpNet>()) {
            ("primary", _) => Ok(Self::Primary),
            (_, Ok(network)) => Ok(Self::Within(network.trunc())),
            _ => Err(BadNodePortAddress(text.to_owned())),
        }
    }
}

impl fmt::Display for NodePortAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Primary => f.write_str("primary"),
            Self::Within(network) => network.fmt(f),
        }
    }
}

/// What compile needs to know of this node.
#[must_use]
pub fn context(
    options: &NodeOptions,
    name: &str,
    node: Option<&Node>,
    interfaces: &[Interface],
) -> NodeContext {
    let primary_ips = primary_ips(node, interfaces);
    NodeContext {
        name: name.to_owned(),
        zone: node.and_then(|node| node.zone.clone()),
        node_port_addresses: node_port_addresses(options, &primary_ips, interfaces),
        primary_ips,
        masquerade_all: options.masquerade_all,
        echo: options.answer_echo.then(|| Echo {
            own: interfaces
                .iter()
                .flat_map(|interface| &interface.addresses)
                .copied()
                .collect(),
        }),
    }
}

/// What the programs need to know; `None` while that is not known.
#[must_use]
pub fn settings(options: &NodeOptions, node: Option<&Node>) -> Option<Settings> {
    let networks: &[IpNet] = match &options.pods {
        PodDetection::None | PodDetection::Interface => &[],
        PodDetection::Networks(networks) => networks,
        PodDetection::NodeNetworks => &node?.pod_cidrs,
    };
    let set = |networks: &[IpNet]| networks.iter().map(IpNet::trunc).collect();
    Some(Settings {
        pods_by_interface: options.pods == PodDetection::Interface,
        pod_networks: set(networks),
        service_networks: set(&options.service_cidrs),
    })
}

/// The first `InternalIP` of each family, else the first address of an uplink.
fn primary_ips(node: Option<&Node>, interfaces: &[Interface]) -> BTreeSet<IpAddr> {
    let told = node.map_or(&[][..], |node| &node.internal_ips);
    let uplinks = interfaces.iter().filter(|i| i.kind == Kind::Uplink);
    let candidates = told
        .iter()
        .chain(uplinks.flat_map(|uplink| &uplink.addresses));
    let first = |family| candidates.clone().find(|ip| Family::of(**ip) == family);
    Family::ALL.into_iter().filter_map(first).copied().collect()
}

fn node_port_addresses(
    options: &NodeOptions,
    primary_ips: &BTreeSet<IpAddr>,
    interfaces: &[Interface],
) -> BTreeSet<IpAddr> {
    const LOCALHOST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    let all = interfaces.iter().flat_map(|interface| &interface.addresses);
    let all = all.filter(|address| !address.is_loopback()).copied();
    let localhost = options.localhost_node_ports.then_some(LOCALHOST);
    let is_served = |address: &IpAddr| {
        let mut of_family = options
            .node_port_addresses
            .iter()
            .filter(|selection| match selection {
                NodePortAddress::Primary => true,
                NodePortAddress::Within(network) => {
                    Family::of(network.addr()) == Family::of(*address)
                }
            })
            .peekable();
        of_family.peek().is_none()
            || of_family.any(|selection| match selection {
                NodePortAddress::Primary => primary_ips.contains(address),
                NodePortAddress::Within(network) => network.contains(address),
            })
    };
    all.chain(localhost).filter(is_served).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interfaces::{Device, Peer};

    fn interface(kind: Kind, addresses: &[&str]) -> Interface {
        Interface {
            index: 1,
            name: "x".to_owned(),
            kind,
            device: Device::Ethernet,
            mac: None,
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            up: true,
            is_port: false,
            peer: Peer::Unreachable,
        }
    }

    fn interfaces() -> Vec<Interface> {
        vec![
            interface(Kind::Local, &["127.0.0.1", "::1"]),
            interface(Kind::Local, &["192.0.2.77"]),
            interface(Kind::Uplink, &["192.0.2.1", "198.51.100.1", "2001:db8::1"]),
        ]
    }

    fn node(internal_ips: &[&str]) -> Node {
        Node {
            name: "n1".to_owned(),
            internal_ips: internal_ips.iter().map(|ip| ip.parse().unwrap()).collect(),
            zone: None,
            pod_cidrs: vec!["10.1.0.0/24".parse().unwrap()],
            eligible: true,
        }
    }

    #[test]
    fn node_ports_are_served_where_the_operator_says() {
        let all = ["192.0.2.1", "192.0.2.77", "198.51.100.1", "2001:db8::1"];
        let all_and = ["127.0.0.1", all[0], all[1], all[2], all[3]];
        for (selections, localhost, expect) in [
            (&[][..], false, &all[..]),
            (&[], true, &all_and),
            (
                &["192.0.2.0/24"],
                true,
                &["192.0.2.1", "192.0.2.77", "2001:db8::1"],
            ),
            (
                &["2001:db8:1::/48"],
                false,
                &["192.0.2.1", "192.0.2.77", "198.51.100.1"],
            ),
            (&["127.0.0.0/8"], true, &["127.0.0.1", "2001:db8::1"]),
            (&["127.0.0.0/8"], false, &["2001:db8::1"]),
            (&["primary"], true, &["198.51.100.1", "2001:db8::1"]),
        ] {
            let options = NodeOptions {
                node_port_addresses: selections.iter().map(|s| s.parse().unwrap()).collect(),
                localhost_node_ports: localhost,
                ..NodeOptions::default()
            };
            let node = node(&["198.51.100.1"]);
            let context = context(&options, "n1", Some(&node), &interfaces());
            let expect: BTreeSet<IpAddr> = expect.iter().map(|ip| ip.parse().unwrap()).collect();
            assert_eq!(
                context.node_port_addresses, expect,
                "{selections:?} {localhost}"
            );
        }
    }

    #[test]
    fn primary_addresses_are_those_the_cluster_knows_else_the_uplinks() {
        for (node, expect) in [
            (None, ["192.0.2.1", "2001:db8::1"]),
            (
                Some(node(&["198.51.100.1"])),
                ["198.51.100.1", "2001:db8::1"],
            ),
            (
                Some(node(&["2001:db8::7", "192.0.2.77", "192.0.2.1"])),
                ["192.0.2.77", "2001:db8::7"],
            ),
        ] {
            let expect: BTreeSet<IpAddr> = expect.iter().map(|ip| ip.parse().unwrap()).collect();
            assert_eq!(
                primary_ips(node.as_ref(), &interfaces()),
                expect,
                "{node:?}"
            );
        }
    }

    #[test]
    fn pods_are_detected_by_one_rule() {
        let networks: Vec<IpNet> = vec!["10.0.0.1/8".parse().unwrap()];
        for (pods, by_interface, expect) in [
            (PodDetection::None, false, None),
            (PodDetection::Interface, true, None),
            (PodDetection::Networks(networks), false, Some("10.0.0.0/8")),
            (PodDetection::NodeNetworks, false, Some("10.1.0.0/24")),
        ] {
            let options = NodeOptions {
                pods,
                ..NodeOptions::default()
            };
            let found = settings(&options, Some(&node(&[])));
            let expect = Settings {
                pods_by_interface: by_interface,
                pod_networks: expect.iter().map(|net| net.parse().unwrap()).collect(),
                service_networks: BTreeSet::new(),
            };
            assert_eq!(found, Some(expect), "{options:?}");
        }
        let unseen = NodeOptions {
            pods: PodDetection::NodeNetworks,
            ..NodeOptions::default()
        };
        assert_eq!(settings(&unseen, None), None, "what is there stays");
    }

    #[test]
    fn a_bad_address_is_told_with_what_is_accepted() {
        let error = "Primary"
            .parse::<NodePortAddress>()
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "found \"Primary\", accepted: `primary`, or a CIDR such as 192.0.2.0/24"
        );
        assert_eq!(
            "192.0.2.9/24"
                .parse::<NodePortAddress>()
                .unwrap()
                .to_string(),
            "192.0.2.0/24"
        );
    }
}

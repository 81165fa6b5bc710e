//! The interfaces and addresses of the node that the programs run on.
//!
//! ```text
//! up0 198.18.0.1 -- gateway .2 (known), .3 (unknown)    veth, so frames leave by redirect
//! up1 198.18.1.1 -- gateway .2 (known)                  says it is a NIC, so XDP_TX
//! pod0, pod1     -- 10.8.0.10, 10.8.0.11
//! ```

use std::collections::BTreeMap;

use super::frame::NODE_MAC;
use crate::lab::{Family, Pair};
use lb_agent::interfaces::{Device, Interface, Kind, Peer};

/// An address of each family, told apart by `network` and `host`:
/// 10.`network`.0.`host` and fd00:`network`::`host`.
#[must_use]
pub const fn inner(network: u8, host: u8) -> Pair {
    Pair {
        v4: std::net::Ipv4Addr::new(10, network, 0, host),
        v6: std::net::Ipv6Addr::new(0xfd00, network as u16, 0, 0, 0, 0, 0, host as u16),
    }
}

/// 198.18.`network`.`host` and 2001:db8:`network`::`host`.
#[must_use]
pub const fn outer(network: u8, host: u8) -> Pair {
    Pair {
        v4: std::net::Ipv4Addr::new(198, 18, network, host),
        v6: std::net::Ipv6Addr::new(0x2001, 0xdb8, network as u16, 0, 0, 0, 0, host as u16),
    }
}

pub const LOOPBACK: Pair = Pair {
    v4: std::net::Ipv4Addr::LOCALHOST,
    v6: std::net::Ipv6Addr::LOCALHOST,
};

/// The node, on its first and its second uplink.
pub const NODE: Pair = outer(0, 1);
pub const NODE1: Pair = outer(1, 1);
pub const CLIENT: Pair = inner(50, 7);
/// A client behind the second uplink.
pub const CLIENT1: Pair = inner(51, 7);
pub const POD: Pair = inner(8, 10);
pub const POD1: Pair = inner(8, 11);
pub const REMOTE: Pair = inner(9, 10);
/// By way of the second uplink.
pub const REMOTE1: Pair = inner(10, 10);
/// By way of a gateway whose link-layer address nobody knows.
pub const FAR: Pair = inner(11, 10);
/// Where the routing table says no.
pub const FORBIDDEN: Pair = inner(12, 10);

pub const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub const GATEWAY1_MAC: [u8; 6] = [2, 0, 0, 0, 1, 2];
/// What frames are addressed to.
pub const UP0_MAC: [u8; 6] = NODE_MAC;
pub const UP1_MAC: [u8; 6] = NODE_MAC;

/// What iproute2 is told.
#[must_use]
pub fn batch() -> String {
    let mut batch = String::new();
    let mut add = |line: String| batch += &(line + "\n");
    for (name, mac) in [
        ("up0", UP0_MAC),
        ("up1", UP1_MAC),
        ("pod0", [2, 0, 0, 8, 0, 1]),
        ("pod1", [2, 0, 0, 8, 1, 1]),
    ] {
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        add(format!(
            "link add {name} address {mac} type veth peer name {name}x"
        ));
        for end in [name, &format!("{name}x")] {
            add(format!("link set {end} addrgenmode none up"));
        }
    }
    for (name, network, mac) in [("up0", 0, GATEWAY_MAC), ("up1", 1, GATEWAY1_MAC)] {
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        for family in Family::ALL {
            let length = if family == Family::V4 { 24 } else { 64 };
            let node = outer(network, 1).get(family);
            let gateway = outer(network, 2).get(family);
            add(format!("addr add {node}/{length} dev {name}"));
            add(format!(
                "neigh add {gateway} lladdr {mac} dev {name} nud permanent"
            ));
        }
    }
    for family in Family::ALL {
        let host = if family == Family::V4 { 32 } else { 128 };
        for (to, via) in [
            (CLIENT, outer(0, 2)),
            (CLIENT1, outer(1, 2)),
            (REMOTE, outer(0, 2)),
            (REMOTE1, outer(1, 2)),
            (FAR, outer(0, 3)),
        ] {
            let (to, via) = (to.get(family), via.get(family));
            add(format!("route add {to}/{host} via {via}"));
        }
        let forbidden = FORBIDDEN.get(family);
        add(format!("route add blackhole {forbidden}/{host}"));
        for (pod, name) in [(POD, "pod0"), (POD1, "pod1")] {
            add(format!("route add {}/{host} dev {name}", pod.get(family)));
        }
    }
    batch
}

/// What the dataplane is told of them.
#[must_use]
pub fn interfaces(indices: &BTreeMap<String, u32>) -> Vec<Interface> {
    let veth = Device::Veth {
        peer_elsewhere: true,
    };
    let interface = |name: &str, kind, device, address: Option<Pair>| Interface {
        index: indices[name],
        name: name.to_owned(),
        kind,
        device,
        mac: (kind == Kind::Uplink).then_some(NODE_MAC),
        addresses: address
            .map(|pair| Family::ALL.map(|family| pair.get(family)))
            .into_iter()
            .flatten()
            .collect(),
        up: true,
        is_port: false,
        peer: Peer::Unreachable,
    };
    vec![
        interface("lo", Kind::Local, Device::Loopback, Some(LOOPBACK)),
        interface("up0", Kind::Uplink, veth, Some(NODE)),
        interface("up1", Kind::Uplink, Device::Ethernet, Some(NODE1)),
        interface("pod0", Kind::Pod, veth, None),
        interface("pod1", Kind::Pod, veth, None),
    ]
}

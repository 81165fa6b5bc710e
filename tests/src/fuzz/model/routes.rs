//! The node's addresses and routing table.

use std::net::{IpAddr, Ipv6Addr};

use crate::{
    lab::Pair,
    packet::wiring::{
        CLIENT, CLIENT1, FAR, FORBIDDEN, GATEWAY_MAC, GATEWAY1_MAC, LOOPBACK, NODE, NODE1, POD,
        POD1, REMOTE, REMOTE1, UP0_MAC, UP1_MAC, outer,
    },
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Out {
        interface: &'static str,
        /// Destination and source, if the neighbour's is known.
        macs: Option<[[u8; 6]; 2]>,
    },
    /// To the node itself, or nowhere.
    NotForwarded,
    Prohibited,
}

const BY_UP0: Route = Route::Out {
    interface: "up0",
    macs: Some([GATEWAY_MAC, UP0_MAC]),
};
const BY_UP1: Route = Route::Out {
    interface: "up1",
    macs: Some([GATEWAY1_MAC, UP1_MAC]),
};

const fn unresolved(interface: &'static str) -> Route {
    Route::Out {
        interface,
        macs: None,
    }
}

const TABLE: [(Pair, Route); 12] = [
    (CLIENT, BY_UP0),
    (CLIENT1, BY_UP1),
    (REMOTE, BY_UP0),
    (REMOTE1, BY_UP1),
    (FAR, unresolved("up0")),
    (FORBIDDEN, Route::Prohibited),
    (POD, unresolved("pod0")),
    (POD1, unresolved("pod1")),
    (NODE, Route::NotForwarded),
    (NODE1, Route::NotForwarded),
    (outer(0, 2), BY_UP0),
    (outer(1, 2), BY_UP1),
];

/// Of every link, in bytes.
pub(crate) const MTU: usize = 1500;

pub(crate) fn route(source: IpAddr, destination: IpAddr) -> Route {
    // RFC 4291, section 2.5: scopes that nobody forwards.
    if is_confined(source) || is_confined(destination) {
        return Route::NotForwarded;
    }
    let found = TABLE.iter().find(|(to, _)| to.contains(destination));
    found.map_or_else(|| on_link(destination), |(_, route)| *route)
}

/// Interface that has an address of the node.
pub(crate) fn owner(address: IpAddr) -> Option<&'static str> {
    let owners = [(NODE, "up0"), (NODE1, "up1"), (LOOPBACK, "lo")];
    let mut owners = owners.iter().filter(|(own, _)| own.contains(address));
    owners.next().map(|(_, interface)| *interface)
}

/// Source of packets that leave by an interface and must come back.
pub(crate) fn own(interface: &str, like: IpAddr) -> IpAddr {
    let pair = if interface == "up1" { NODE1 } else { NODE };
    pair.get(crate::lab::Family::of(like))
}

fn is_confined(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => v6.is_multicast() || v6.is_unicast_link_local() || v6.is_loopback(),
    }
}

/// The networks of the uplinks, gateways aside.
fn on_link(destination: IpAddr) -> Route {
    for (network, interface) in [(0, "up0"), (1, "up1")] {
        let like = outer(network, 0);
        let (is_here, is_host) = match destination {
            IpAddr::V4(v4) => {
                let [a, b, c, host] = v4.octets();
                // The lowest address is a host's (Linux 5.14).
                (like.v4.octets()[..3] == [a, b, c], host != 255)
            }
            IpAddr::V6(v6) => {
                let first = |address: Ipv6Addr| address.to_bits() >> 64;
                (first(v6) == first(like.v6), v6 != like.v6)
            }
        };
        if is_here {
            return if is_host {
                unresolved(interface)
            } else {
                Route::NotForwarded
            };
        }
    }
    Route::NotForwarded
}

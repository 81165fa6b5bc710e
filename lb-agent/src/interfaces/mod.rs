//! The interfaces of this network namespace that the dataplane attaches to,
//! followed over rtnetlink.

mod classify;
mod facts;
mod neighbours;
mod pattern;
mod routes;
mod traffic;
mod watch;

use std::{fmt, io, net::IpAddr};

pub use classify::classify;
pub use facts::{Address, Device, Facts, Link};
pub use neighbours::keep_neighbours;
pub use pattern::{BadPattern, Pattern, Patterns};
pub use routes::watch_routes;
use serde::Serialize;
pub use watch::{Options, Snapshot, watch};

/// The priority of the dataplane's own filters, which tells them from those of
/// others.
pub const FILTER_PRIORITY: u16 = 0x4c42;

/// One interface that matters to the dataplane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The interface index, in this network namespace.
    pub index: u32,
    pub name: String,
    pub kind: Kind,
    pub device: Device,
    /// None where the device has no 6-byte hardware address.
    pub mac: Option<[u8; 6]>,
    /// The node's own addresses on it, the one to speak from first: every
    /// scope except link-local IPv6 and multicast.
    pub addresses: Vec<IpAddr>,
    /// Administratively up (`IFF_UP`), with or without a carrier.
    pub up: bool,
    /// A port of a bridge, bond or team: what leaves by it left by that first.
    pub is_port: bool,
    pub peer: Peer,
}

/// Whether packets may be handed to the other end of an interface at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Peer {
    /// They cannot be: it is not a pod's, no veth, or a port of a bridge, which
    /// routes lead to instead.
    #[default]
    Unreachable,
    /// A qdisc or a filter of somebody else would be passed by, or it is not
    /// known.
    Guarded,
    /// Nothing that netlink tells of has a say there.
    Free,
}

/// The role of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Traffic of the outside and of other nodes passes here: it has a default
    /// route, or owns one of the addresses that the cluster knows the node by.
    Uplink,
    /// The host end of a pod's interface.
    Pod,
    /// Any other interface with addresses of the node, `lo` included.
    Local,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uplink => "uplink",
            Self::Pod => "pod",
            Self::Local => "local",
        })
    }
}

/// Why the interfaces cannot be followed any more.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open a netlink socket: {0}")]
    Socket(#[source] io::Error),
    #[error("cannot list interfaces, addresses and routes: {0}")]
    Dump(#[source] rtnetlink::Error),
    #[error("cannot list traffic control: {0}")]
    TrafficControl(#[source] io::Error),
    #[error("the kernel did not finish listing interfaces, addresses and routes in {0:?}")]
    Timeout(std::time::Duration),
    #[error("the netlink socket closed")]
    Closed,
}

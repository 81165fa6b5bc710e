//! The address plan, shared by labs since each has namespaces of its own.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    #[serde(rename = "IPv4")]
    V4,
    #[serde(rename = "IPv6")]
    V6,
}

impl Family {
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// One address of each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair {
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

impl Pair {
    #[must_use]
    pub fn get(self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }

    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        self.get(Family::of(address)) == address
    }
}

/// The outside client, in a /24 and a /64.
pub const CLIENT: Pair = Pair {
    v4: Ipv4Addr::new(198, 51, 100, 10),
    v6: Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 0x10),
};

/// The router on the client's network.
pub const LAN_GATEWAY: Pair = Pair {
    v4: Ipv4Addr::new(198, 51, 100, 1),
    v6: Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 1),
};

/// The router on the nodes' network, a /24 and a /64.
pub const NODES_GATEWAY: Pair = Pair {
    v4: Ipv4Addr::new(192, 0, 2, 1),
    v6: Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1),
};

/// What every pod has as its next hop.
pub const GATEWAY: Pair = Pair {
    v4: Ipv4Addr::new(169, 254, 1, 1),
    v6: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
};

/// Address of a node, counted from 1: 192.0.2.11, 2001:db8:2::11 and on.
#[must_use]
pub fn node_address(node: u8) -> Pair {
    Pair {
        v4: Ipv4Addr::new(192, 0, 2, 10 + node),
        v6: Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, decimal_look(10 + node)),
    }
}

/// Address of the `number`th pod of a node.
#[must_use]
pub fn pod_address(node: u8, number: u8) -> Pair {
    Pair {
        v4: Ipv4Addr::new(10, 244, node, number),
        v6: Ipv6Addr::new(
            0xfd00,
            0x244,
            decimal_look(node),
            0,
            0,
            0,
            0,
            decimal_look(number),
        ),
    }
}

/// The pod CIDRs of a node: 10.244.i.0/24 and fd00:244:i::/64.
#[must_use]
pub fn pod_cidrs(node: u8) -> [String; 2] {
    let first = pod_address(node, 0);
    [format!("{}/24", first.v4), format!("{}/64", first.v6)]
}

/// The group of an IPv6 address that prints as `number` does: 12 is 0x12.
fn decimal_look(number: u8) -> u16 {
    let number = u16::from(number);
    number / 100 * 0x100 + number / 10 % 10 * 0x10 + number % 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_alike_in_both_families() {
        let table = [
            (node_address(1), "192.0.2.11", "2001:db8:2::11"),
            (node_address(9), "192.0.2.19", "2001:db8:2::19"),
            (pod_address(2, 7), "10.244.2.7", "fd00:244:2::7"),
            (pod_address(12, 254), "10.244.12.254", "fd00:244:12::254"),
        ];
        for (pair, v4, v6) in table {
            assert_eq!(pair.v4.to_string(), v4);
            assert_eq!(pair.v6.to_string(), v6);
        }
        assert_eq!(pod_cidrs(2), ["10.244.2.0/24", "fd00:244:2::/64"]);
    }
}

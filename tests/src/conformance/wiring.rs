//! The interfaces of the node.
//!
//! ```text
//! up0   the node's addresses and default routes; looks like a NIC, so has XDP
//! up1   a veth, so has TC only
//! pod0  the host end of a pod's interface
//! ```

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context as _, Result};
use lb_agent::interfaces::{Device, Interface, Kind, Peer};
use nix::net::if_::if_nameindex;

use crate::packet::frame::NODE_MAC;

/// Everything leaves this way.
const GATEWAYS: [&str; 2] = ["169.254.0.1", "fe80::1"];

/// Makes the interfaces.
pub(crate) fn links() -> String {
    let mut batch = "link set lo up\n".to_owned();
    for name in ["up0", "up1", "pod0"] {
        let mac = NODE_MAC.map(|byte| format!("{byte:02x}")).join(":");
        // Writing to a String cannot fail.
        let _ = write!(
            batch,
            "link add {name} address {mac} type veth peer name {name}x
             link set {name} addrgenmode none up
             link set {name}x addrgenmode none up
            "
        );
    }
    batch
}

/// Gives the node these addresses in place of others. Routes and neighbours go
/// with the last address, so they come anew.
pub(crate) fn addresses(addresses: &[IpAddr]) -> String {
    let mut batch = "addr flush dev up0\n".to_owned();
    for address in addresses {
        let (length, flag) = if address.is_ipv4() {
            (32, "")
        } else {
            (128, "nodad")
        };
        let _ = writeln!(batch, "addr add {address}/{length} dev up0 {flag}");
    }
    for gateway in GATEWAYS {
        let _ = write!(
            batch,
            "neigh replace {gateway} lladdr 02:00:00:00:00:01 dev up0 nud permanent
             route replace default via {gateway} dev up0 onlink
            "
        );
    }
    batch
}

/// Numbers of the interfaces of this thread's namespace.
pub(crate) fn indices() -> Result<BTreeMap<String, u32>> {
    let all = if_nameindex().context("listing interfaces")?;
    let index = |interface: &nix::net::if_::Interface| {
        let name = interface.name().to_string_lossy().into_owned();
        (name, interface.index())
    };
    Ok(all.iter().map(index).collect())
}

/// What the dataplane is told of them.
pub(crate) fn interfaces(indices: &BTreeMap<String, u32>, addresses: &[IpAddr]) -> Vec<Interface> {
    let veth = Device::Veth {
        peer_elsewhere: true,
    };
    let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let table = [
        ("lo", Kind::Local, Device::Loopback, loopback.to_vec()),
        ("up0", Kind::Uplink, Device::Ethernet, addresses.to_vec()),
        ("up1", Kind::Uplink, veth, Vec::new()),
        ("pod0", Kind::Pod, veth, Vec::new()),
    ];
    let interface = |(name, kind, device, addresses): (&str, _, _, _)| Interface {
        index: indices[name],
        name: name.to_owned(),
        kind,
        device,
        mac: (kind == Kind::Uplink).then_some(NODE_MAC),
        addresses,
        up: true,
        is_port: false,
        peer: Peer::Unreachable,
    };
    table.map(interface).into()
}

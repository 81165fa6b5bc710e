//! The interfaces, addresses, routes and sysctls of each kind of host.

use std::fmt::Write;

use anyhow::Result;

use super::{
    address::{CLIENT, GATEWAY, LAN_GATEWAY, NODES_GATEWAY, Pair, node_address, pod_cidrs},
    host::Host,
    link,
    netns::Netns,
};

/// Makes addresses usable at once, quietly.
const QUIET: [(&str, &str); 4] = [
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/router_solicitations", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
];

const FORWARDING: [(&str, &str); 3] = [
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv6/conf/default/forwarding", "1"),
];

/// connect() searches long once half of the ports are in use or in TIME_WAIT.
const MANY_PORTS: (&str, &str) = ("ipv4/ip_local_port_range", "1024 65535");

/// Wires the client to the router.
pub(crate) fn client(client: &Host, router: &Netns) -> Result<()> {
    client.netns.sysctl(&QUIET)?;
    client.netns.sysctl(&[MANY_PORTS])?;
    forwarding(router)?;
    reverse_path_filter(router, 0)?;
    reverse_path_filter(&client.netns, 0)?;
    let Pair { v4, v6 } = NODES_GATEWAY;
    router.ip(&format!(
        "link set lo up
         link add nodes0 type bridge
         addr add {v4}/24 dev nodes0
         addr add {v6}/64 dev nodes0 nodad
         link set nodes0 up
         link add lan0 type veth peer name eth0 netns {}
         addr add {}/24 dev lan0
         addr add {}/64 dev lan0 nodad
         link set lan0 up
        ",
        client.netns.name(),
        LAN_GATEWAY.v4,
        LAN_GATEWAY.v6,
    ))?;
    client.netns.ip(&uplink(CLIENT, LAN_GATEWAY))?;
    link::behave_as_nic(&client.netns, &["eth0"])?;
    link::behave_as_nic(router, &["lan0"])
}

/// Wires a node to the router and tells it where the pods of all nodes are.
pub(crate) fn node(
    number: u8,
    nodes: u8,
    node: &Host,
    router: &Netns,
    rp_filter: u8,
) -> Result<()> {
    forwarding(&node.netns)?;
    reverse_path_filter(&node.netns, rp_filter)?;
    let port = &node.name;
    let mut batch = format!(
        "link add {port} type veth peer name eth0 netns {}
         link set {port} master nodes0 up
        ",
        node.netns.name(),
    );
    pod_routes(&mut batch, number);
    router.ip(&batch)?;
    let mut batch = uplink(node_address(number), NODES_GATEWAY);
    for other in (1..=nodes).filter(|other| *other != number) {
        pod_routes(&mut batch, other);
    }
    node.netns.ip(&batch)?;
    link::behave_as_nic(&node.netns, &["eth0"])?;
    link::behave_as_nic(router, &[port])
}

/// Wires a pod to its node as point-to-point CNIs do: a single address, a
/// link-local next hop that the node answers for, a host route in the node.
pub(crate) fn pod(pod: &Host, node: &Netns, interface: &str) -> Result<()> {
    pod.netns.sysctl(&QUIET)?;
    let Pair { v4, v6 } = pod.addresses;
    node.ip(&format!(
        "link add {interface} type veth peer name eth0 netns {}
         addr add {}/64 dev {interface} nodad
         link set {interface} up
         route add {v4}/32 dev {interface}
         route add {v6}/128 dev {interface}
        ",
        pod.netns.name(),
        GATEWAY.v6,
    ))?;
    node.sysctl(&[
        (&format!("ipv4/conf/{interface}/proxy_arp"), "1"),
        (&format!("ipv4/neigh/{interface}/proxy_delay"), "0"),
    ])?;
    pod.netns.ip(&format!(
        "link set lo up
         addr add {v4}/32 dev eth0
         addr add {v6}/128 dev eth0 nodad
         link set eth0 up
         route add {} dev eth0 scope link
         route add default via {} dev eth0
         route add default via {} dev eth0
        ",
        GATEWAY.v4, GATEWAY.v4, GATEWAY.v6,
    ))
}

/// What every node is told: it forwards, and its addresses are usable at once.
pub(crate) fn forwarding(netns: &Netns) -> Result<()> {
    netns.sysctl(&QUIET)?;
    netns.sysctl(&FORWARDING)
}

fn reverse_path_filter(netns: &Netns, value: u8) -> Result<()> {
    let value = &value.to_string();
    netns.sysctl(&[
        ("ipv4/conf/all/rp_filter", value),
        ("ipv4/conf/default/rp_filter", value),
    ])
}

fn uplink(address: Pair, gateway: Pair) -> String {
    format!(
        "link set lo up
         addr add {}/24 dev eth0
         addr add {}/64 dev eth0 nodad
         link set eth0 up
         route add default via {}
         route add default via {}
        ",
        address.v4, address.v6, gateway.v4, gateway.v6,
    )
}

/// Routes to the pods of a node, by way of that node.
fn pod_routes(batch: &mut String, node: u8) {
    let via = node_address(node);
    let [v4, v6] = pod_cidrs(node);
    // Writing to a String cannot fail.
    let _ = writeln!(
        batch,
        "route add {v4} via {}\nroute add {v6} via {}",
        via.v4, via.v6
    );
}

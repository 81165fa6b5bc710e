//! What the kernel says of links, addresses and default routes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use rtnetlink::{
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage},
        link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage},
        route::{RouteAttribute, RouteHeader, RouteMessage, RouteType},
    },
};

/// Everything that [`classify`](super::classify) looks at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// By interface index.
    pub links: BTreeMap<u32, Link>,
    pub addresses: BTreeSet<Address>,
    /// Indices of the interfaces that default routes of the main table leave
    /// by, of either family.
    pub default_routes: BTreeSet<u32>,
    /// Indices of the interfaces that others have put TC filters on.
    pub filtered: BTreeSet<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub name: String,
    pub device: Device,
    pub mac: Option<[u8; 6]>,
    pub up: bool,
    /// Index of the bridge, bond or team that this is a port of.
    pub controller: Option<u32>,
    /// Index of the other end of a veth, or of the device below. It is one of
    /// another namespace if the device says so.
    pub lower: Option<u32>,
    /// Kind of the root qdisc.
    pub qdisc: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    Loopback,
    /// Carries Ethernet frames: a NIC, a bond, a team, a VLAN, a macvlan.
    Ethernet,
    Bridge,
    Veth {
        /// The other end is in another network namespace.
        peer_elsewhere: bool,
    },
    /// Brings no Ethernet frames from outside: wireguard, tun, tunnels, dummy.
    Unframed,
}

/// An address of this node, as configured on one interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    pub interface: u32,
    pub address: IpAddr,
    pub prefix_length: u8,
}

/// Which facts have to be read again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stale {
    pub(super) links: bool,
    pub(super) addresses: bool,
    pub(super) routes: bool,
    pub(super) filters: bool,
}

impl Stale {
    pub(super) const ALL: Self = Self {
        links: true,
        addresses: true,
        routes: true,
        filters: true,
    };
}

impl Facts {
    /// Takes in one notification. What it leaves open is marked as stale.
    pub(super) fn absorb(
        &mut self,
        message: NetlinkMessage<RouteNetlinkMessage>,
        stale: &mut Stale,
    ) {
        match message.payload {
            NetlinkPayload::Overrun(_) => *stale = Stale::ALL,
            NetlinkPayload::InnerMessage(message) => self.absorb_route_message(&message, stale),
            _ => {}
        }
    }

    pub(super) fn insert_link(&mut self, message: &LinkMessage) -> Option<Link> {
        self.links.insert(message.header.index, link_of(message)?)
    }

    pub(super) fn insert_address(&mut self, message: &AddressMessage) {
        let Some(address) = address_of(message) else {
            return;
        };
        if is_duplicate_of_another_host(message) {
            self.addresses.remove(&address);
            return;
        }
        self.addresses.insert(address);
    }

    pub(super) fn insert_route(&mut self, message: &RouteMessage) {
        if !is_default(message) {
            return;
        }
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Oif(index) => {
                    self.default_routes.insert(*index);
                }
                RouteAttribute::MultiPath(hops) => self
                    .default_routes
                    .extend(hops.iter().map(|hop| hop.interface_index)),
                _ => {}
            }
        }
    }

    fn absorb_route_message(&mut self, message: &RouteNetlinkMessage, stale: &mut Stale) {
        match message {
            RouteNetlinkMessage::NewLink(link) => self.link_changed(link, stale),
            RouteNetlinkMessage::DelLink(link) => self.remove_link(link, stale),
            RouteNetlinkMessage::NewAddress(address) => self.insert_address(address),
            RouteNetlinkMessage::DelAddress(address) => {
                if let Some(address) = address_of(address) {
                    self.addresses.remove(&address);
                }
            }
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
                stale.routes |= is_default(route);
            }
            _ => {}
        }
    }

    fn link_changed(&mut self, message: &LinkMessage, stale: &mut Stale) {
        let Some(before) = self.insert_link(message) else {
            return;
        };
        // IPv4 routes through a link that goes down vanish without notice.
        let index = message.header.index;
        let up = self.links.get(&index).is_some_and(|link| link.up);
        stale.routes |= before.up && !up && self.default_routes.contains(&index);
    }

    fn remove_link(&mut self, message: &LinkMessage, stale: &mut Stale) {
        // A port that leaves its bridge is told in the same form.
        if message.header.interface_family != AddressFamily::Unspec {
            return;
        }
        let index = message.header.index;
        self.links.remove(&index);
        self.filtered.remove(&index);
        self.addresses.retain(|address| address.interface != index);
        stale.routes |= self.default_routes.contains(&index);
        // The other end may have moved to another namespace, of which the end
        // that stays here gets no notice.
        stale.links |= self.links.values().any(|link| link.lower == Some(index));
    }
}

/// None for what is no complete description of a link.
fn link_of(message: &LinkMessage) -> Option<Link> {
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let mut name = None;
    let mut mac = None;
    let mut kind = None;
    let mut controller = None;
    let mut lower = None;
    let mut elsewhere = false;
    let mut qdisc = None;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.clone()),
            LinkAttribute::Address(bytes) => mac = bytes.as_slice().try_into().ok(),
            LinkAttribute::Controller(index) => controller = Some(*index).filter(|i| *i != 0),
            LinkAttribute::Link(index) => lower = Some(*index).filter(|i| *i != 0),
            LinkAttribute::Qdisc(kind) => qdisc = Some(kind.clone()),
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            LinkAttribute::LinkInfo(infos) => {
                kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.clone()),
                    _ => None,
                });
            }
            LinkAttribute::Wireless(_) => return None,
            _ => {}
        }
    }

    let device = match (message.header.link_layer_type, kind) {
        (LinkLayerType::Loopback, _) => Device::Loopback,
        (LinkLayerType::Ether, Some(InfoKind::Veth)) => Device::Veth {
            peer_elsewhere: elsewhere,
        },
        (LinkLayerType::Ether, Some(InfoKind::Bridge)) => Device::Bridge,
        (LinkLayerType::Ether, Some(InfoKind::Dummy | InfoKind::Ifb)) => Device::Unframed,
        (LinkLayerType::Ether, _) => Device::Ethernet,
        _ => Device::Unframed,
    };
    Some(Link {
        name: name?,
        device,
        mac,
        up: message.header.flags.contains(LinkFlags::Up),
        controller,
        lower: lower.filter(|_| !elsewhere),
        qdisc,
    })
}

fn address_of(message: &AddressMessage) -> Option<Address> {
    let mut local = None;
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            _ => {}
        }
    }
    // On a point-to-point link `Address` is the peer's.
    Some(Address {
        interface: message.header.index,
        address: local.or(address)?,
        prefix_length: message.header.prefix_len,
    })
}

fn is_duplicate_of_another_host(message: &AddressMessage) -> bool {
    message.header.flags.contains(AddressHeaderFlags::Dadfailed)
        || message.attributes.iter().any(|attribute| {
            matches!(attribute, AddressAttribute::Flags(flags)
                if flags.contains(AddressFlags::Dadfailed))
        })
}

fn is_default(message: &RouteMessage) -> bool {
    let header = &message.header;
    header.destination_prefix_length == 0
        && header.kind == RouteType::Unicast
        && header.table == RouteHeader::RT_TABLE_MAIN
}

#[cfg(test)]
mod tests;

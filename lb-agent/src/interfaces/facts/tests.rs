use rtnetlink::packet_core::NetlinkHeader;

use super::*;

const NEW: fn(LinkMessage) -> RouteNetlinkMessage = RouteNetlinkMessage::NewLink;
const GONE: fn(LinkMessage) -> RouteNetlinkMessage = RouteNetlinkMessage::DelLink;

const ROUTES: Stale = Stale {
    links: false,
    addresses: false,
    routes: true,
    filters: false,
};
const LINKS: Stale = Stale {
    links: true,
    addresses: false,
    routes: false,
    filters: false,
};

fn link(index: u32, up: bool, attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.link_layer_type = LinkLayerType::Ether;
    if up {
        message.header.flags |= LinkFlags::Up;
    }
    message.attributes = attributes;
    message
        .attributes
        .push(LinkAttribute::IfName(format!("if{index}")));
    message
}

fn of_bridge(mut message: LinkMessage) -> LinkMessage {
    message.header.interface_family = AddressFamily::Bridge;
    message
}

fn route(prefix_length: u8, table: u8, kind: RouteType) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.destination_prefix_length = prefix_length;
    message.header.table = table;
    message.header.kind = kind;
    RouteNetlinkMessage::NewRoute(message)
}

/// Interfaces 2 (with the default route) and 3, both up.
fn facts() -> Facts {
    let mut facts = Facts::default();
    facts.insert_link(&link(2, true, vec![]));
    facts.insert_link(&link(3, true, vec![LinkAttribute::Link(4)]));
    facts.insert_link(&link(4, true, vec![LinkAttribute::Link(3)]));
    facts.default_routes.insert(2);
    facts
}

fn check(message: RouteNetlinkMessage, expect_links: &[u32], expect: Stale) {
    let mut facts = facts();
    let mut stale = Stale::default();
    let shown = format!("{message:?}");
    let payload = NetlinkPayload::InnerMessage(message);
    facts.absorb(
        NetlinkMessage::new(NetlinkHeader::default(), payload),
        &mut stale,
    );
    assert_eq!(stale, expect, "{shown}");
    assert_eq!(
        Vec::from_iter(facts.links.into_keys()),
        expect_links,
        "{shown}"
    );
}

#[test]
fn notifications() {
    let none = Stale::default();
    check(NEW(link(9, true, vec![])), &[2, 3, 4, 9], none);
    check(NEW(link(2, true, vec![])), &[2, 3, 4], none);
    check(NEW(link(2, false, vec![])), &[2, 3, 4], ROUTES);
    check(NEW(link(3, false, vec![])), &[2, 3, 4], none);
    check(GONE(link(2, true, vec![])), &[3, 4], ROUTES);
    check(GONE(link(3, true, vec![])), &[2, 4], LINKS);
    check(GONE(of_bridge(link(2, true, vec![]))), &[2, 3, 4], none);
    check(NEW(of_bridge(link(9, true, vec![]))), &[2, 3, 4], none);

    let main = RouteHeader::RT_TABLE_MAIN;
    check(route(0, main, RouteType::Unicast), &[2, 3, 4], ROUTES);
    check(route(24, main, RouteType::Unicast), &[2, 3, 4], none);
    check(route(0, 100, RouteType::Unicast), &[2, 3, 4], none);
    check(route(0, main, RouteType::Unreachable), &[2, 3, 4], none);
}

#[test]
fn an_overrun_makes_everything_stale() {
    let mut stale = Stale::default();
    let message = NetlinkMessage::new(
        NetlinkHeader::default(),
        NetlinkPayload::Overrun(Vec::new()),
    );
    Facts::default().absorb(message, &mut stale);
    assert_eq!(stale, Stale::ALL);
}

#[test]
fn addresses_are_the_local_ones_and_no_duplicates() {
    let check = |attributes: &[AddressAttribute], expect: Option<&str>| {
        let mut message = AddressMessage::default();
        message.attributes = attributes.to_vec();
        let mut facts = Facts::default();
        facts.insert_address(&message);
        let address = facts.addresses.first().map(|own| own.address.to_string());
        assert_eq!(address.as_deref(), expect, "{attributes:?}");
    };
    let address = |text: &str| AddressAttribute::Address(text.parse().unwrap());
    let local = |text: &str| AddressAttribute::Local(text.parse().unwrap());
    check(&[address("fd00::1")], Some("fd00::1"));
    check(&[address("10.0.0.9"), local("10.0.0.1")], Some("10.0.0.1"));
    check(&[local("10.0.0.1"), address("10.0.0.9")], Some("10.0.0.1"));
    check(&[], None);
    check(
        &[
            address("fd00::1"),
            AddressAttribute::Flags(AddressFlags::Dadfailed),
        ],
        None,
    );
}

#[test]
fn devices() {
    let check = |layer: LinkLayerType, kind: Option<InfoKind>, netns: bool, expect: Device| {
        let mut attributes = vec![LinkAttribute::Link(7)];
        attributes.extend(kind.map(|kind| LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)])));
        attributes.extend(netns.then_some(LinkAttribute::LinkNetNsId(0)));
        let mut message = link(2, true, attributes);
        message.header.link_layer_type = layer;
        let link = link_of(&message).unwrap();
        assert_eq!(link.device, expect);
        assert_eq!(link.lower, (!netns).then_some(7));
    };
    let veth = |peer_elsewhere| Device::Veth { peer_elsewhere };
    let ether = LinkLayerType::Ether;
    check(LinkLayerType::Loopback, None, false, Device::Loopback);
    check(ether, None, false, Device::Ethernet);
    check(ether, Some(InfoKind::Bond), false, Device::Ethernet);
    check(ether, Some(InfoKind::Vlan), false, Device::Ethernet);
    check(ether, Some(InfoKind::Veth), false, veth(false));
    check(ether, Some(InfoKind::Veth), true, veth(true));
    check(ether, Some(InfoKind::Bridge), false, Device::Bridge);
    check(ether, Some(InfoKind::Dummy), false, Device::Unframed);
    check(
        LinkLayerType::None,
        Some(InfoKind::Wireguard),
        false,
        Device::Unframed,
    );
}

//! What a connection remembers of the routing table's answer, for a second at
//! most: to ask is dearer than all else that an established packet needs.

use lb_common::{Hook, Hop, Interface, InterfaceKind, Verdict};

use crate::{
    clock,
    family::Family,
    headers::{ETHERNET, Headers},
    interfaces, networks,
    packet::{Packet, Step},
    route::{Route, length},
    scratch::barrier,
};

/// Whether the packet can take this way without a question.
#[inline(always)]
pub(crate) fn is_usable<P: Packet, F: Family>(
    packet: &P,
    headers: &Headers<'_>,
    hop: &Hop,
) -> Step<bool> {
    if !is_fresh(hop) || headers.shape.network as usize != ETHERNET {
        return Ok(false);
    }
    if matches!(P::HOOK, Hook::Xdp) && hop.flags & Hop::XDP == 0 {
        return Err(Verdict::Deferred);
    }
    let longest = match packet.segment() {
        0 => packet.length().saturating_sub(ETHERNET as u32),
        _ => length::<P, F>(packet, headers)?.into(),
    };
    barrier();
    Ok(longest != 0 && longest <= hop.mtu.into())
}

#[inline(always)]
fn is_fresh(hop: &Hop) -> bool {
    networks::settings().is_some_and(|settings| {
        let age = clock::now().wrapping_sub(hop.seen);
        age < settings.second && hop.routes == settings.routes
    })
}

/// Remembers a route with link-layer addresses, found for the length of a packet.
#[inline(always)]
pub(crate) fn remember(hop: &mut Hop, route: &Route) {
    hop.interface = route.interface;
    hop.mtu = route.mtu() as u16;
    hop.flags = flags(route.interface);
    hop.destination_mac = route.destination_mac;
    hop.source_mac = route.source_mac;
    hop.routes = networks::settings().map_or(0, |settings| settings.routes);
    hop.seen = clock::now();
    hop.reserved = 0;
}

#[inline(always)]
fn flags(leaving: u32) -> u16 {
    let Some(leaving) = interfaces::interface(leaving) else {
        return Hop::REDIRECT;
    };
    let mut flags = 0;
    if is_peer(leaving) {
        flags |= Hop::PEER;
    }
    if leaving.kind == InterfaceKind::Uplink as u32 && leaving.flags & Interface::XDP != 0 {
        flags |= Hop::XDP;
    }
    if leaving.flags & Interface::REDIRECT != 0 {
        flags |= Hop::REDIRECT;
    }
    flags
}

/// Whether packets can go straight into the pod behind the interface.
#[inline(always)]
pub(crate) fn is_peer(interface: &Interface) -> bool {
    interface.kind == InterfaceKind::Pod as u32 && interface.flags & Interface::PEER != 0
}

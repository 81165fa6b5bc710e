//! What a connection remembers of the routing table's answer, for a second at
//! most: to ask is dearer than all else that an established packet needs.

use lb_common::{Hook, Hop, Interface, Verdict};

use crate::{
    clock,
    family::Family,
    headers::{ETHERNET, Headers},
    interfaces, networks,
    packet::{Packet, Step},
    route::{Route, length},
    scratch::{self, Work, barrier, lend},
    words::{copy, fill, put},
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
    let longest = match packet.segment() {
        0 => packet.length().saturating_sub(ETHERNET as u32),
        _ => length::<P, F>(packet, headers)?.into(),
    };
    barrier();
    let fits = longest != 0 && longest <= hop.mtu.into();
    if matches!(P::HOOK, Hook::Xdp) && hop.flags & Hop::XDP == 0 {
        return match fits && hop.interface != packet.interface() {
            true => Err(Verdict::Deferred),
            false => Ok(false),
        };
    }
    Ok(fits)
}

#[inline(always)]
fn is_fresh(hop: &Hop) -> bool {
    networks::settings().is_some_and(|settings| {
        let age = clock::now().wrapping_sub(hop.seen);
        age < settings.second && hop.routes == settings.routes
    })
}

/// Leaves in `work.hop` what is to be remembered of `work.route`, the answer for
/// the length of a packet, with link-layer addresses.
#[inline(always)]
pub(crate) fn remember(work: &mut Work) {
    lend(work, || lb_remember(0));
}

/// Leaves in `work.hop_back` what is to be remembered of `work.back`.
#[inline(always)]
pub(crate) fn remember_back(work: &mut Work) {
    lend(work, || lb_remember(1));
}

/// A function of its own to the verifier, which looks at it once and not at
/// each call: hence the linkage.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn lb_remember(is_back: u32) -> u32 {
    let Ok(scratch) = scratch::get() else {
        return 0;
    };
    let work = &mut scratch.work;
    match is_back {
        0 => write(&mut work.hop, &work.route),
        _ => write(&mut work.hop_back, &work.back),
    }
    1
}

#[inline(always)]
fn write(hop: &mut Hop, route: &Route) {
    const KEPT: u32 = (Hop::PEER | Hop::XDP | Hop::REDIRECT) as u32;

    hop.interface = route.interface;
    hop.mtu = route.mtu() as u16;
    hop.flags = match interfaces::interface(route.interface) {
        Some(leaving) => (leaving.flags & KEPT) as u16,
        None => Hop::REDIRECT,
    };
    copy(&route.destination_mac, &mut hop.destination_mac);
    copy(&route.source_mac, &mut hop.source_mac);
    hop.routes = networks::settings().map_or(0, |settings| settings.routes);
    hop.seen = clock::now();
    hop.reserved = 0;
}

/// Forgets the way.
#[inline(always)]
pub(crate) fn clear(hop: &mut Hop) {
    put(&mut hop.interface, 0);
    put(&mut hop.mtu, 0);
    put(&mut hop.flags, 0);
    fill(&mut hop.destination_mac, 0);
    fill(&mut hop.source_mac, 0);
    put(&mut hop.routes, 0);
    put(&mut hop.seen, 0);
    put(&mut hop.reserved, 0);
}

/// Whether packets can go straight into the pod behind the interface.
#[inline(always)]
pub(crate) const fn is_peer(interface: &Interface) -> bool {
    interface.flags & Interface::PEER != 0
}

//! How the packets of a new connection go: where to, whose source they take,
//! and on which way its replies come back.

use lb_common::{Address, Connection, Interface, InterfaceKind, Path, Tuple, Verdict};

use crate::{
    family::Family,
    headers::Headers,
    hop, interfaces, networks,
    packet::{Packet, Step},
    route::{self, Answer, LOOPBACK, Route, sendable},
    scratch::{Halves, Work},
};

/// A pod talks to itself.
#[inline(always)]
pub(crate) fn plan_hairpin<P: Packet, F: Family>(packet: &P, forward: &mut Connection) -> Step<()> {
    let leaving = interfaces::interface(packet.interface());
    forward.translated.source = snat_source::<P, F>(packet, leaving)?;
    forward.path = Path::Bounce as u8;
    forward.other_path = Path::Bounce as u8;
    forward.flags = 0;
    Ok(())
}

/// From a pod straight to the backend, and its replies straight back, past the
/// stack: both or neither. Through the stack if something on the way has a say in
/// what passes, or the client's address is not one that this way leads back to.
#[inline(always)]
pub(crate) fn plan_shortcut<P: Packet, F: Family>(
    packet: &P,
    headers: &Headers<'_>,
    work: &mut Work,
) -> Step<()> {
    if !networks::takes_shortcuts() {
        return Ok(());
    }
    let (entering, context) = (packet.interface(), packet.context());
    let length = route::length::<P, F>(packet, headers)?;
    let Work {
        halves: Halves { one: forward, .. },
        rival,
        route,
        resolved,
        back,
        ..
    } = work;
    let there = route::lookup::<F>(context, entering, &forward.translated, length, route);
    let [Some(source), Some(target)] = [entering, route.interface].map(interfaces::interface)
    else {
        return Ok(());
    };
    let is_found = matches!(there, Answer::Resolved | Answer::Unresolved);
    let is_open = hop::is_peer(target) || target.kind == InterfaceKind::Uplink as u32;
    if !is_found || !is_open || !hop::is_peer(source) {
        return Ok(());
    }
    let reply = &mut rival.one_key;
    reply.reverse_of(&forward.translated);
    let answer = route::lookup::<F>(context, route.interface, reply, length, back);
    if !matches!(answer, Answer::Resolved | Answer::Unresolved) || back.interface != entering {
        return Ok(());
    }
    *resolved = matches!(there, Answer::Resolved);
    if hop::is_peer(target) {
        forward.interface = route.interface;
    }
    forward.other_interface = entering;
    forward.path = Path::Route as u8;
    forward.other_path = Path::Route as u8;
    forward.flags = 0;
    if work.resolved {
        hop::remember(work);
        work.halves.one.hop.set(&work.hop);
    }
    if matches!(answer, Answer::Resolved) {
        hop::remember_back(work);
    }
    Ok(())
}

/// The backend must answer through this node: from outside, one elsewhere; for
/// a masquerade, any.
#[inline(always)]
pub(crate) fn plan_through<P: Packet, F: Family>(
    packet: &P,
    headers: &Headers<'_>,
    masquerade: bool,
    Work {
        halves: Halves { one: forward, .. },
        route,
        resolved,
        ..
    }: &mut Work,
) -> Step<()> {
    let answer = route::lookup::<F>(
        packet.context(),
        packet.interface(),
        &forward.translated,
        0,
        route,
    );
    match answer {
        Answer::NotForwarded if interfaces::owner(&forward.translated.destination).is_some() => {
            return Ok(());
        }
        Answer::NotForwarded | Answer::Prohibited | Answer::TooBig => return Err(Verdict::NoRoute),
        Answer::Resolved | Answer::Unresolved => {}
    }
    let leaving = interfaces::interface(route.interface);
    let to_pod = leaving.is_some_and(|leaving| leaving.kind == InterfaceKind::Pod as u32);
    if !masquerade && to_pod {
        return Ok(());
    }
    *resolved = matches!(answer, Answer::Resolved);
    sendable(packet, headers, &answer, route, || leaving)?;
    forward.translated.source = snat_source::<P, F>(packet, leaving)?;
    forward.path = Path::Route as u8;
    forward.other_path = Path::Route as u8;
    forward.flags = 0;
    Ok(())
}

/// The node's own packets go straight to the backend; replies go straight to
/// the socket.
#[inline(always)]
pub(crate) fn plan_node<P: Packet, F: Family>(
    packet: &P,
    key: &Tuple,
    Work {
        halves: Halves { one: forward, .. },
        route,
        resolved,
        ..
    }: &mut Work,
) -> Step<()> {
    if let Some(owner) = interfaces::owner(&forward.translated.destination) {
        if packet.interface() != LOOPBACK {
            forward.path = Path::Local as u8;
            forward.interface = F::delivery(owner);
        }
        return Ok(());
    }
    *resolved = match route::lookup::<F>(packet.context(), LOOPBACK, &forward.translated, 0, route)
    {
        Answer::Resolved => true,
        Answer::Unresolved => false,
        Answer::NotForwarded | Answer::Prohibited | Answer::TooBig => return Err(Verdict::NoRoute),
    };
    // Nor is a frontend's address one to answer, even if this node has it.
    if key.source.is_loopback()
        || key.source == key.destination
        || interfaces::owner(&key.source).is_none()
        || leaves_elsewhere::<P, F>(packet, key, route)
    {
        let leaving = interfaces::interface(route.interface);
        forward.translated.source = snat_source::<P, F>(packet, leaving)?;
    }
    forward.path = Path::Route as u8;
    forward.flags = 0;
    if let Some(owner) = owner(&key.source) {
        forward.other_path = Path::Local as u8;
        forward.other_interface = F::delivery(owner);
    }
    Ok(())
}

/// Whether the backend lies behind another interface than the frontend, such
/// as an overlay, with an address of its own: the source that the route to the
/// frontend chose is not the one to answer there.
#[inline(always)]
fn leaves_elsewhere<P: Packet, F: Family>(packet: &P, key: &Tuple, route: &Route) -> bool {
    let leaving = interfaces::interface(route.interface);
    route.interface != packet.interface()
        && leaving.is_some_and(|leaving| {
            leaving.kind != InterfaceKind::Pod as u32
                && !F::source(leaving).is_zero()
                && F::source(leaving) != key.source
        })
}

/// Interface that owns one of this node's addresses, loopback included.
#[inline(always)]
fn owner(address: &Address) -> Option<u32> {
    if address.is_loopback() {
        return Some(LOOPBACK);
    }
    interfaces::owner(address)
}

/// The address that packets take as their source when they leave by this
/// interface and must come back here.
#[inline(always)]
fn snat_source<P: Packet, F: Family>(
    packet: &P,
    leaving: Option<&'static Interface>,
) -> Step<Address> {
    let mut source = Address::default();
    if let Some(leaving) = leaving {
        source = F::source(leaving);
    }
    if source.is_zero()
        && let Some(entering) = interfaces::interface(packet.interface())
    {
        source = F::source(entering);
    }
    if source.is_zero() {
        return Err(Verdict::NoSourceAddress);
    }
    Ok(source)
}

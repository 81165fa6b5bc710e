//! One packet, from arrival to verdict.

use core::hint;

use aya_log_ebpf::trace;
use lb_common::{
    Address, Backend, Connection, Frontend, Hook, Interface, InterfaceKind, NetworkKey, Path,
    PodDetection, Slice, Tuple, Verdict, verdict::Class,
};

use crate::{
    affinity, connections, counters,
    family::{Family, V4, V6, headers},
    headers::{ETHERNET, Headers, IPV4, IPV6, TCP, ethernet},
    interfaces, networks,
    packet::{Packet, Sent, Step},
    refuse::refuse,
    rewrite::rewrite,
    route::{self, Answer, LOOPBACK, Route},
    scratch::{self, Scratch},
    services,
};

/// Handles a packet; returns what the program returns.
#[inline(always)]
pub fn run<P: Packet>(packet: &P) -> i32 {
    conclude(packet, process(packet))
}

/// Handles a packet that [`Packet::resend`] has brought here.
#[inline(always)]
pub fn run_resent<P: Packet>(packet: &P) -> i32 {
    let result = match ethernet(packet) {
        Ok((IPV4, offset)) => send_on::<P, V4>(packet, offset),
        Ok((IPV6, offset)) => send_on::<P, V6>(packet, offset),
        Ok(_) => Err(Verdict::NotIp),
        Err(verdict) => Err(verdict),
    };
    conclude(packet, result)
}

#[inline(always)]
fn conclude<P: Packet>(packet: &P, result: Step<Sent>) -> i32 {
    let (verdict, action) = match result {
        Ok(sent) => sent,
        Err(verdict) => {
            let action = match verdict.class() {
                Class::Untouched | Class::Translated => P::PASS,
                // An answer that could not be given.
                Class::Answered | Class::Dropped => P::DROP,
            };
            (verdict, action)
        }
    };
    counters::count(P::HOOK, verdict);
    trace(packet, verdict);
    action
}

static LABELS: [[u8; 20]; Verdict::LABELS.len()] = Verdict::LABELS;

/// One line a packet, if the agent switched it on before it loaded the
/// program; else the verifier removes it.
#[inline(always)]
fn trace<P: Packet>(packet: &P, verdict: Verdict) {
    // Hidden from the compiler, which would drop the mask that the verifier
    // wants to see.
    let index = hint::black_box(verdict as usize) & (LABELS.len() - 1);
    let label = &LABELS[index];
    // SAFETY: labels are ASCII.
    let label = unsafe { core::str::from_utf8_unchecked(label) };
    trace!(
        packet,
        "{} interface {}: {}",
        P::HOOK.name(),
        packet.interface(),
        label
    );
}

#[inline(always)]
fn process<P: Packet>(packet: &P) -> Step<Sent> {
    match ethernet(packet)? {
        (IPV4, offset) => process_family::<P, V4>(packet, offset),
        (IPV6, offset) => process_family::<P, V6>(packet, offset),
        _ => Err(Verdict::NotIp),
    }
}

#[inline(always)]
fn process_family<P: Packet, F: Family>(packet: &P, offset: usize) -> Step<Sent> {
    let headers = headers::<F>(packet, offset)?;
    match find::<P, F>(packet, &headers) {
        Ok(found) => send::<P, F>(packet, &headers, &found),
        Err(Verdict::Rejected) => refuse::<P, F>(packet, &headers),
        Err(verdict) => Err(verdict),
    }
}

/// The connection that a packet belongs to.
struct Found {
    connection: &'static Connection,
    verdict: Verdict,
    /// The scratch holds the route already.
    routed: bool,
}

#[inline(always)]
fn find<P: Packet, F: Family>(packet: &P, headers: &Headers) -> Step<Found> {
    let known = connections::get(&headers.tuple);
    if let Some(connection) = &known
        && (connection.flags & Connection::REPLY != 0 || !is_outdated(headers, connection))
    {
        return follow::<P>(headers, known);
    }
    match open::<P, F>(packet, headers) {
        // A flow keeps its old backend as long as there is no other.
        Err(Verdict::Rejected) if headers.tuple.protocol != TCP && known.is_some() => {
            follow::<P>(headers, known)
        }
        result => result,
    }
}

/// One more packet of a connection.
#[inline(always)]
fn follow<P: Packet>(
    headers: &Headers,
    connection: Option<&'static mut Connection>,
) -> Step<Found> {
    let connection = connection.ok_or(Verdict::NoBackend)?;
    let mut verdict = Verdict::Forward;
    if connection.flags & Connection::REPLY != 0 {
        let at_egress = connection.flags & Connection::AT_EGRESS != 0;
        if at_egress != matches!(P::HOOK, Hook::TcEgress) {
            return Err(Verdict::OtherHook);
        }
        verdict = Verdict::Reply;
    }
    if headers.tcp.closes() {
        connections::close(connection);
    }
    Ok(Found {
        connection,
        verdict,
        routed: false,
    })
}

/// Whether the client's packet starts a new connection on an old tuple.
#[inline(always)]
fn is_outdated(headers: &Headers, connection: &Connection) -> bool {
    if headers.tuple.protocol == TCP && !headers.tcp.opens() {
        return false;
    }
    if !services::is_current(connection.backend, connection.generation) {
        return true;
    }
    if headers.tuple.protocol != TCP {
        return false;
    }
    let closing = |connection: &Connection| connection.flags & Connection::CLOSING != 0;
    closing(connection)
        || connections::get(&connection.translated.reverse()).is_none_or(|reply| closing(reply))
}

/// Who sends the first packet of a connection.
enum Client {
    Pod,
    Outside,
    Node,
}

/// Chooses a backend and how to reach it, and enters the connection.
#[inline(always)]
fn open<P: Packet, F: Family>(packet: &P, headers: &Headers) -> Step<Found> {
    let key = &headers.tuple;
    let client = match P::HOOK {
        Hook::Xdp => Client::Outside,
        Hook::TcEgress => Client::Node,
        Hook::TcIngress => {
            if interfaces::is_kind(packet.interface(), InterfaceKind::Pod) {
                Client::Pod
            } else {
                Client::Outside
            }
        }
    };
    let frontend = match services::find(key) {
        Err(Verdict::NoFrontend) => return Err(miss::<P, F>(packet, headers)),
        result => result?,
    };
    let is_node = matches!(client, Client::Node);
    // Looked at where it came in; or nothing that comes in may be addressed so.
    if is_node && interfaces::interface(packet.origin()).is_some()
        || !is_node && key.destination.is_loopback()
    {
        return Err(Verdict::NoFrontend);
    }
    if !starts_flow(headers) {
        return Err(Verdict::Stray);
    }
    if frontend.sources != 0 && !networks::contains(frontend.sources, &key.source) {
        return Err(Verdict::SourceRange);
    }
    let set = set_for(&client, key, &frontend);
    if set.count == 0 {
        return Err(match set {
            Slice::DROP => Verdict::NoLocalBackend,
            _ => Verdict::Rejected,
        });
    }
    let choice = match affinity::select(key, &frontend, set) {
        // Retired since the set was read: by now there is another.
        Err(Verdict::NoBackend) => {
            let frontend = services::find(key)?;
            affinity::select(key, &frontend, set_for(&client, key, &frontend))?
        }
        result => result?,
    };

    let scratch = scratch::get()?;
    scratch.forward = Connection {
        translated: Tuple {
            destination: choice.backend.address,
            destination_port: choice.backend.port,
            ..*key
        },
        backend: choice.id,
        generation: choice.generation,
        service: choice.backend.service,
        interface: 0,
        flags: 0,
        path: Path::Stack as u32,
    };
    scratch.reply = Connection {
        translated: key.reverse(),
        flags: Connection::REPLY | Connection::AT_EGRESS,
        ..scratch.forward
    };
    let masquerade = frontend.flags & Frontend::MASQUERADE != 0;
    let local = choice.backend.flags & Backend::LOCAL != 0;
    match client {
        Client::Pod if scratch.forward.translated.destination == key.source => {
            plan_hairpin::<P, F>(packet, scratch)?;
        }
        Client::Pod if !masquerade => {}
        Client::Outside if !masquerade && local => {}
        Client::Pod | Client::Outside => {
            plan_through::<P, F>(packet, headers, masquerade, scratch)?;
        }
        Client::Node => plan_node::<P, F>(packet, key, scratch)?,
    }
    connections::open(key, scratch)?;
    Ok(Found {
        connection: &scratch.forward,
        verdict: Verdict::Opened,
        routed: scratch.forward.path == Path::Route as u32,
    })
}

/// What becomes of a packet that no frontend stands for.
#[inline(always)]
fn miss<P: Packet, F: Family>(packet: &P, headers: &Headers) -> Verdict {
    let tuple = &headers.tuple;
    if !starts_flow(headers) {
        return Verdict::NoFrontend;
    }
    if enters_here(packet, tuple) {
        connections::yield_to(tuple);
    }
    let was_seen = match P::HOOK {
        // XDP leaves to TC what it cannot answer.
        Hook::Xdp => false,
        Hook::TcIngress => packet.interface() == LOOPBACK,
        Hook::TcEgress => packet.origin() != 0,
    };
    if was_seen || !networks::may_be_service::<F>(&tuple.destination) {
        return Verdict::NoFrontend;
    }
    if services::is_cluster_ip(&tuple.destination) {
        return Verdict::Rejected;
    }
    if networks::contains(NetworkKey::SERVICES, &tuple.destination) {
        return Verdict::NoService;
    }
    Verdict::NoFrontend
}

/// The backends that the client may have.
#[inline(always)]
fn set_for(client: &Client, key: &Tuple, frontend: &Frontend) -> Slice {
    const INTERFACE: u32 = PodDetection::Interface as u32;
    const NETWORK: u32 = PodDetection::Network as u32;

    let is_inside = frontend.inside == frontend.outside
        || matches!(client, Client::Node)
        || match networks::pod_detection() {
            INTERFACE => matches!(client, Client::Pod),
            NETWORK => networks::contains(NetworkKey::PODS, &key.source),
            _ => false,
        };
    Slice::unpack(if is_inside {
        frontend.inside
    } else {
        frontend.outside
    })
}

/// Whether the packet may be the first of its flow.
#[inline(always)]
fn starts_flow(headers: &Headers) -> bool {
    headers.tuple.protocol != TCP || headers.tcp.opens()
}

/// Whether no other hook of this node can have translated the packet before.
#[inline(always)]
fn enters_here<P: Packet>(packet: &P, tuple: &Tuple) -> bool {
    match P::HOOK {
        // From outside, the node's own source is forged.
        Hook::Xdp => interfaces::owner(&tuple.source).is_none(),
        Hook::TcEgress => packet.origin() == 0,
        Hook::TcIngress => interfaces::interface(packet.interface()).is_some_and(|interface| {
            interface.kind != InterfaceKind::Local as u32 && interface.flags & Interface::XDP == 0
        }),
    }
}

/// A pod talks to itself.
#[inline(always)]
fn plan_hairpin<P: Packet, F: Family>(
    packet: &P,
    Scratch { forward, reply, .. }: &mut Scratch,
) -> Step<()> {
    forward.translated.source = snat_source::<P, F>(packet, packet.interface())?;
    for entry in [forward, reply] {
        entry.path = Path::Bounce as u32;
    }
    reply.flags = Connection::REPLY;
    Ok(())
}

/// The backend must answer through this node: from outside, one elsewhere; for
/// a masquerade, any.
#[inline(always)]
fn plan_through<P: Packet, F: Family>(
    packet: &P,
    headers: &Headers,
    masquerade: bool,
    Scratch {
        forward,
        reply,
        route,
        resolved,
        ..
    }: &mut Scratch,
) -> Step<()> {
    let answer = route::lookup::<F>(
        packet.context(),
        packet.interface(),
        &forward.translated,
        route,
    );
    match answer {
        Answer::NotForwarded if interfaces::owner(&forward.translated.destination).is_some() => {
            return Ok(());
        }
        Answer::NotForwarded | Answer::Prohibited => return Err(Verdict::NoRoute),
        Answer::Resolved | Answer::Unresolved => {}
    }
    if !masquerade && interfaces::is_kind(route.interface, InterfaceKind::Pod) {
        return Ok(());
    }
    *resolved = matches!(answer, Answer::Resolved);
    sendable(packet, headers, &answer, route)?;
    forward.translated.source = snat_source::<P, F>(packet, route.interface)?;
    forward.path = Path::Route as u32;
    reply.path = Path::Route as u32;
    reply.flags = Connection::REPLY;
    Ok(())
}

/// The node's own packets go straight to the backend; replies go straight to
/// the socket.
#[inline(always)]
fn plan_node<P: Packet, F: Family>(
    packet: &P,
    key: &Tuple,
    Scratch {
        forward,
        reply,
        route,
        resolved,
        ..
    }: &mut Scratch,
) -> Step<()> {
    if let Some(owner) = interfaces::owner(&forward.translated.destination) {
        if packet.interface() != LOOPBACK {
            forward.path = Path::Local as u32;
            forward.interface = F::delivery(owner);
        }
        return Ok(());
    }
    *resolved = match route::lookup::<F>(packet.context(), LOOPBACK, &forward.translated, route) {
        Answer::Resolved => true,
        Answer::Unresolved => false,
        Answer::NotForwarded | Answer::Prohibited => return Err(Verdict::NoRoute),
    };
    // Nor is a frontend's address one to answer, even if this node has it.
    if key.source.is_loopback()
        || key.source == key.destination
        || interfaces::owner(&key.source).is_none()
        || leaves_elsewhere::<P, F>(packet, key, route)
    {
        forward.translated.source = snat_source::<P, F>(packet, route.interface)?;
    }
    forward.path = Path::Route as u32;
    reply.flags = Connection::REPLY;
    if let Some(owner) = owner(&key.source) {
        reply.path = Path::Local as u32;
        reply.interface = F::delivery(owner);
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

/// The address that packets take as their source when they leave by
/// `interface` and must come back here.
#[inline(always)]
fn snat_source<P: Packet, F: Family>(packet: &P, interface: u32) -> Step<Address> {
    let mut source = Address::default();
    if let Some(leaving) = interfaces::interface(interface) {
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

/// Translates a packet and sends it the way its connection goes.
#[inline(always)]
fn send<P: Packet, F: Family>(packet: &P, headers: &Headers, found: &Found) -> Step<Sent> {
    const STACK: u32 = Path::Stack as u32;
    const ROUTE: u32 = Path::Route as u32;
    const BOUNCE: u32 = Path::Bounce as u32;

    let connection = found.connection;
    let (path, interface) = (connection.path, connection.interface);
    if matches!(P::HOOK, Hook::Xdp) && path != STACK && path != ROUTE {
        return Err(Verdict::Deferred);
    }
    if path == ROUTE {
        if !found.routed {
            look_up_route::<P, F>(packet, headers, &connection.translated)?;
        }
        if !matches!(P::HOOK, Hook::TcEgress) {
            F::hop(packet, headers.network)?;
        }
    }
    rewrite::<F>(packet, headers, &connection.translated)?;
    let action = match path {
        STACK => P::PASS,
        ROUTE => transmit(packet)?,
        BOUNCE => packet.bounce()?,
        _ => match P::HOOK {
            Hook::TcEgress => packet.resend(packet.interface())?,
            Hook::Xdp | Hook::TcIngress => packet.deliver(interface)?,
        },
    };
    Ok((found.verdict, action))
}

/// Sends the packet along the route in the scratch.
#[inline(always)]
fn transmit<P: Packet>(packet: &P) -> Step<i32> {
    let scratch = scratch::get()?;
    let leaving = scratch.route.interface;
    if matches!(P::HOOK, Hook::TcEgress)
        && !scratch.resolved
        && interfaces::interface(leaving).is_some()
    {
        return packet.resend(leaving);
    }
    packet.transmit(&scratch.route)
}

/// Delivers or sends a packet that is translated already.
#[inline(always)]
fn send_on<P: Packet, F: Family>(packet: &P, offset: usize) -> Step<Sent> {
    let headers = headers::<F>(packet, offset)?;
    let tuple = &headers.tuple;
    if let Some(owner) = interfaces::owner(&tuple.destination) {
        return Ok((Verdict::Passing, packet.deliver(F::delivery(owner))?));
    }
    let scratch = scratch::get()?;
    match route::lookup::<F>(packet.context(), LOOPBACK, tuple, &mut scratch.route) {
        Answer::NotForwarded | Answer::Prohibited => Err(Verdict::NoRoute),
        Answer::Resolved | Answer::Unresolved => {
            Ok((Verdict::Passing, packet.transmit(&scratch.route)?))
        }
    }
}

/// Leaves the route in the scratch.
#[inline(always)]
fn look_up_route<P: Packet, F: Family>(
    packet: &P,
    headers: &Headers,
    translated: &Tuple,
) -> Step<()> {
    let from = match P::HOOK {
        Hook::Xdp | Hook::TcIngress => packet.interface(),
        Hook::TcEgress => LOOPBACK,
    };
    let Scratch {
        route, resolved, ..
    } = scratch::get()?;
    match route::lookup::<F>(packet.context(), from, translated, route) {
        Answer::NotForwarded | Answer::Prohibited => Err(Verdict::NoRoute),
        answer => {
            *resolved = matches!(answer, Answer::Resolved);
            sendable(packet, headers, &answer, route)
        }
    }
}

/// XDP sends plain frames to known neighbours; the rest is for TC.
#[inline(always)]
fn sendable<P: Packet>(packet: &P, headers: &Headers, answer: &Answer, route: &Route) -> Step<()> {
    let plain = headers.network == ETHERNET;
    let resolved = matches!(answer, Answer::Resolved);
    if matches!(P::HOOK, Hook::Xdp) && !(plain && resolved && packet.can_transmit(route.interface))
    {
        return Err(Verdict::Deferred);
    }
    Ok(())
}

//! The first packet of a connection: who sends it, what for, and to whom it
//! goes.

use lb_common::{
    Backend, Connection, Frontend, Holdings, Hook, Interface, InterfaceKind, NetworkKey, Path,
    PodDetection, Slice, Tuple, Verdict,
};

use crate::{
    affinity,
    claim::is_claimed,
    connections::{self, Table},
    family::Family,
    fragments,
    headers::{Headers, UDP},
    hop, interfaces, known, networks,
    packet::{Outcome, Packet, Step},
    pipeline::Way,
    plan::{plan_hairpin, plan_node, plan_shortcut, plan_through},
    route::{self, LOOPBACK},
    scratch::{self, Work},
    services,
};

/// Who sends the first packet of a connection.
enum Client {
    Pod,
    Outside,
    /// Somebody outside, whose packet another hook may have translated before.
    Passed,
    Node,
}

/// How the packet goes on that [`open`] has planned for.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum Departure {
    /// By a way that is to be found.
    Unknown = Way::Unknown as u32,
    /// By the route in the scratch.
    Found = Way::Found as u32,
    /// To the backend that its flow had before.
    Kept = 2,
}

/// Plans the connection of which the packet in the scratch is the first one, and
/// leaves it there, to be claimed: the action of the outcome is a [`Departure`].
#[inline(always)]
pub(crate) fn open<P: Packet, F: Family>(packet: &P) -> Step<Outcome> {
    let (headers, work) = &mut scratch::get()?.split();
    if headers.shape.is_later != 0 {
        return Err(fragments::without_connection(packet, headers));
    }
    let departure = match plan::<P, F>(packet, headers, work) {
        // A flow keeps its old backend as long as there is no other.
        Err(Verdict::Rejected) if headers.tuple.protocol == UDP && work.found.is_some() => {
            Departure::Kept
        }
        departure => departure?,
    };
    Ok(Outcome::new(Verdict::Opened, departure as i32))
}

/// Chooses a backend and how to reach it. The connection that the client had on
/// these ports goes.
#[inline(always)]
fn plan<P: Packet, F: Family>(
    packet: &P,
    headers: &Headers<'_>,
    work: &mut Work,
) -> Step<Departure> {
    let key = headers.tuple;
    let frontend = match services::find(key) {
        Err(Verdict::NoFrontend) => return miss::<P, F>(packet, headers, work),
        result => result?,
    };
    let client = client(packet);
    if frontend.flags & Frontend::ENDPOINT != 0 {
        return meet::<P, F>(packet, headers, work, &client);
    }
    let frontend = match client {
        // On its way to a backend, which is a frontend as well.
        Client::Passed if work.found.is_none() && is_claimed(work, false) => {
            return Err(Verdict::NoFrontend);
        }
        // The stack has no room to keep what was found.
        Client::Passed => services::find(key)?,
        _ => frontend,
    };
    let is_node = matches!(client, Client::Node);
    // Looked at where it came in; or nothing that comes in may be addressed so.
    if is_node && interfaces::interface(packet.origin()).is_some()
        || !is_node && key.destination.is_loopback()
    {
        return Err(Verdict::NoFrontend);
    }
    if !headers.starts_flow() {
        return Err(Verdict::Stray);
    }
    if is_overheard(packet) {
        return Err(Verdict::Overheard);
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
            services::select(set_for(&client, key, &frontend))?
        }
        result => result?,
    };

    discard_old(work)?;
    hop::clear(&mut work.hop_back);
    work.halves.one_key.set(key);
    let forward = &mut work.halves.one;
    begin(forward, key, Connection::AT_EGRESS);
    forward.translated.destination.set(&choice.backend.address);
    forward.translated.destination_port = choice.backend.port;
    forward.backend = choice.id;
    forward.generation = choice.generation;
    forward.service = choice.backend.service;
    let masquerade = frontend.flags & Frontend::MASQUERADE != 0;
    let local = choice.backend.flags & Backend::LOCAL != 0;
    match client {
        Client::Pod if forward.translated.destination == key.source => {
            plan_hairpin::<P, F>(packet, forward)?;
        }
        Client::Pod if !masquerade => plan_shortcut::<P, F>(packet, headers, work)?,
        // XDP leads into no pod; what it would take to leave that to TC costs more
        // than the stack does.
        Client::Outside | Client::Passed if !masquerade && local => {}
        Client::Pod | Client::Outside | Client::Passed => {
            plan_through::<P, F>(packet, headers, masquerade, work)?;
        }
        Client::Node => plan_node::<P, F>(packet, key, work)?,
    }
    let is_routed = work.halves.one.path == Path::Route as u8 && work.resolved;
    Ok(
        match is_routed && route::fits_any::<P, F>(packet, headers)? {
            true => Departure::Found,
            false => Departure::Unknown,
        },
    )
}

/// Removes what the client had on these ports before.
#[inline(always)]
fn discard_old(work: &mut Work) -> Step<()> {
    let Some(table) = work.found else {
        return Ok(());
    };
    let life = work.halves.one.life;
    work.found = None;
    if connections::discard(table, work, life) {
        return Ok(());
    }
    // Another packet has touched it meanwhile. Beside it a new one would never
    // be found.
    match connections::find(&work.halves.one_key, &mut work.rival.one) {
        None | Some(Table::Unassured) => Ok(()),
        Some(Table::Assured | Table::Overflow) => Err(Verdict::Unstable),
    }
}

/// What becomes of a packet that no frontend stands for.
#[inline(always)]
fn miss<P: Packet, F: Family>(
    packet: &P,
    headers: &Headers<'_>,
    work: &mut Work,
) -> Step<Departure> {
    let tuple = headers.tuple;
    if !headers.starts_flow() {
        return Err(Verdict::NoFrontend);
    }
    discard_old(work)?;
    // A backend that left its Service may have connections from there.
    let replies = &tuple.reverse();
    if tuple.protocol != UDP
        && known::may_hold(replies.check())
        && enters_here(packet, tuple)
        && is_claimed(work, true)
    {
        return Ok(plan_direct::<P>(tuple, work));
    }
    Err(reject_service::<P, F>(packet, tuple))
}

/// What becomes of a packet that is addressed to a backend itself. A client that
/// may reach it through a frontend of this node as well, from the same port, has
/// both connections told apart.
#[inline(always)]
fn meet<P: Packet, F: Family>(
    packet: &P,
    headers: &Headers<'_>,
    work: &mut Work,
    client: &Client,
) -> Step<Departure> {
    let tuple = headers.tuple;
    if !headers.starts_flow() {
        return Err(Verdict::NoFrontend);
    }
    discard_old(work)?;
    match reject_service::<P, F>(packet, tuple) {
        Verdict::NoFrontend => {}
        // A Service that is an endpoint of another one, and has no such port.
        verdict => return Err(verdict),
    }
    let is_outside = matches!(client, Client::Outside | Client::Passed);
    if !enters_here(packet, tuple) || is_outside && !is_claimed(work, true) {
        return Err(Verdict::NoFrontend);
    }
    Ok(plan_direct::<P>(tuple, work))
}

#[inline(always)]
fn client<P: Packet>(packet: &P) -> Client {
    match P::HOOK {
        Hook::Xdp => Client::Outside,
        Hook::TcEgress => Client::Node,
        Hook::TcIngress => match interfaces::interface(packet.interface()) {
            Some(entering) if entering.kind == InterfaceKind::Pod as u32 => Client::Pod,
            Some(entering) if is_entrance(entering) => Client::Outside,
            _ => Client::Passed,
        },
    }
}

/// Plans a connection to a backend itself. The client gets another port towards
/// it if from its own it has a connection through a frontend, or another client
/// has.
#[inline(always)]
fn plan_direct<P: Packet>(key: &Tuple, work: &mut Work) -> Departure {
    let flags = match P::HOOK {
        Hook::Xdp | Hook::TcIngress => Connection::DIRECT | Connection::AT_EGRESS,
        Hook::TcEgress => Connection::DIRECT,
    };
    hop::clear(&mut work.hop_back);
    work.halves.one_key.set(key);
    begin(&mut work.halves.one, key, flags);
    Departure::Unknown
}

/// A connection to where its packets are addressed already.
#[inline(always)]
fn begin(forward: &mut Connection, key: &Tuple, flags: u16) {
    forward.translated.set(key);
    forward.backend = u32::MAX;
    forward.generation = 0;
    forward.service = Holdings::NO_SERVICE;
    forward.interface = 0;
    forward.other_interface = 0;
    forward.flags = flags;
    forward.path = Path::Stack as u8;
    forward.other_path = Path::Stack as u8;
    forward.reserved = 0;
    hop::clear(&mut forward.hop);
}

/// What becomes of the first packet of a flow to no frontend.
#[inline(always)]
fn reject_service<P: Packet, F: Family>(packet: &P, tuple: &Tuple) -> Verdict {
    let was_seen = match P::HOOK {
        // XDP leaves to TC what it cannot answer.
        Hook::Xdp => false,
        Hook::TcIngress => packet.interface() == LOOPBACK,
        Hook::TcEgress => packet.origin() != 0,
    };
    if was_seen || !networks::may_be_service::<F>(&tuple.destination) {
        return Verdict::NoFrontend;
    }
    if is_overheard(packet) {
        return Verdict::Overheard;
    }
    if services::is_cluster_ip(&tuple.destination) {
        return Verdict::Rejected;
    }
    if networks::contains(NetworkKey::SERVICES, &tuple.destination) {
        return Verdict::NoService;
    }
    Verdict::NoFrontend
}

/// Whether the packet is between two other machines.
#[inline(always)]
pub(crate) fn is_overheard<P: Packet>(packet: &P) -> bool {
    if matches!(P::HOOK, Hook::TcEgress) {
        return false;
    }
    let entering = interfaces::interface(packet.interface());
    entering.is_some_and(|interface| packet.is_for_another_machine(interface))
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

/// Whether no other hook of this node can have translated the packet before.
#[inline(always)]
pub(crate) fn enters_here<P: Packet>(packet: &P, tuple: &Tuple) -> bool {
    match P::HOOK {
        // From outside, the node's own source is forged.
        Hook::Xdp => interfaces::owner(&tuple.source).is_none(),
        Hook::TcEgress => {
            let leaving = interfaces::interface(packet.interface());
            let is_port = leaving.is_some_and(|leaving| leaving.flags & Interface::PORT != 0);
            // What is forwarded from the address of the interface it leaves by has
            // that from netfilter, which knows nothing of our ports.
            let is_own = packet.origin() == 0
                || interfaces::owner(&tuple.source) == Some(packet.interface());
            is_own && !is_port
        }
        Hook::TcIngress => interfaces::interface(packet.interface()).is_some_and(is_entrance),
    }
}

/// Whether TC is the first to see what comes in by the interface.
#[inline(always)]
const fn is_entrance(interface: &Interface) -> bool {
    interface.kind != InterfaceKind::Local as u32 && interface.flags & Interface::XDP == 0
}

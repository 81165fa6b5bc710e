//! The first packet of a connection: who sends it, what for, and to whom it
//! goes.

use lb_common::{
    Backend, Connection, Frontend, Hook, Interface, InterfaceKind, NetworkKey, Path, PodDetection,
    Slice, Tuple, Verdict,
};

use crate::{
    affinity,
    connections::{self, Found},
    family::Family,
    headers::{Headers, TCP},
    interfaces, networks,
    packet::{Packet, Step},
    plan::{plan_hairpin, plan_node, plan_through},
    route::LOOPBACK,
    scratch, services,
};

/// Who sends the first packet of a connection.
enum Client {
    Pod,
    Outside,
    Node,
}

/// Chooses a backend and how to reach it, and enters the connection.
#[inline(always)]
pub(crate) fn open<P: Packet, F: Family>(packet: &P, headers: &Headers) -> Step<Found> {
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
fn is_overheard<P: Packet>(packet: &P) -> bool {
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
        Hook::TcEgress => {
            let leaving = interfaces::interface(packet.interface());
            let is_port = leaving.is_some_and(|leaving| leaving.flags & Interface::PORT != 0);
            packet.origin() == 0 && !is_port
        }
        Hook::TcIngress => interfaces::interface(packet.interface()).is_some_and(|interface| {
            interface.kind != InterfaceKind::Local as u32 && interface.flags & Interface::XDP == 0
        }),
    }
}

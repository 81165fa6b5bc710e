//! One packet, from arrival to verdict.

use core::hint;

use aya_log_ebpf::trace;
use lb_common::{Connection, Hook, InterfaceKind, Path, Tuple, Verdict, verdict::Class};

use crate::{
    connections::{self, Found},
    counters,
    family::{Family, V4, V6, headers},
    headers::{Headers, IPV4, IPV6, TCP, ethernet},
    interfaces,
    open::open,
    packet::{Packet, Sent, Step},
    refuse::refuse,
    rewrite::rewrite,
    route::{self, Answer, LOOPBACK, sendable},
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

#[inline(always)]
fn find<P: Packet, F: Family>(packet: &P, headers: &Headers) -> Step<Found> {
    let known = connections::get(&headers.tuple);
    if let Some(connection) = &known
        && (connection.flags & Connection::REPLY != 0 || !is_outdated(headers, connection))
    {
        return follow(packet, headers, known);
    }
    match open::<P, F>(packet, headers) {
        // A flow keeps its old backend as long as there is no other.
        Err(Verdict::Rejected) if headers.tuple.protocol != TCP && known.is_some() => {
            follow(packet, headers, known)
        }
        result => result,
    }
}

/// One more packet of a connection.
#[inline(always)]
fn follow<P: Packet>(
    packet: &P,
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
        if matches!(P::HOOK, Hook::TcIngress)
            && services::is_elsewhere(connection.backend, connection.generation)
            && interfaces::is_kind(packet.interface(), InterfaceKind::Pod)
        {
            return Err(Verdict::ForgedReply);
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

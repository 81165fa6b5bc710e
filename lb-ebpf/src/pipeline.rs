//! One packet, from arrival to verdict.

use core::hint;

use aya_log_ebpf::trace;
use lb_common::{
    Connection, Hook, InterfaceKind, Path, Signal, State, Tuple, Verdict, verdict::Class,
};

use crate::{
    clock,
    connections::{self, Table},
    counters,
    family::{Family, V4, V6},
    headers::{Headers, IPV4, IPV6, Shape, UDP, ethernet, transport},
    hop, interfaces,
    open::{Departure, enters_here},
    packet::{Outcome, Packet, Step, end, write_macs},
    rewrite::rewrite,
    route::{self, Answer, LOOPBACK, sendable},
    scratch::{self, Scratch, Work, barrier},
    services,
    subprograms::Subprograms,
};

/// A packet that has found its connection.
pub(crate) struct Found {
    pub(crate) verdict: Verdict,
    pub(crate) way: Way,
}

/// What is known of a packet's way where its path is [`Path::Route`].
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Way {
    Unknown = 0,
    /// The scratch holds the route.
    Found = 1,
    /// The connection remembers it.
    Remembered = 2,
}

impl Way {
    #[inline(always)]
    pub(crate) const fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Unknown,
            1 => Self::Found,
            _ => Self::Remembered,
        }
    }
}

/// Handles a packet; returns what the program returns.
#[inline(always)]
pub fn run<P: Subprograms>(packet: &P) -> i32 {
    conclude(packet, settle::<P>(process(packet)))
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
    conclude(packet, settle::<P>(result))
}

/// What becomes of the packet, also where a step ended its way.
#[inline(always)]
pub(crate) fn settle<P: Packet>(result: Step<Outcome>) -> Outcome {
    match result {
        Ok(outcome) => outcome,
        Err(verdict) => {
            let action = match verdict.class() {
                Class::Untouched | Class::Translated => P::PASS,
                // An answer that could not be given.
                Class::Answered | Class::Dropped => P::DROP,
            };
            Outcome::new(verdict, action)
        }
    }
}

#[inline(always)]
fn conclude<P: Packet>(packet: &P, outcome: Outcome) -> i32 {
    counters::count(P::HOOK, outcome.verdict());
    trace(packet, outcome.verdict());
    outcome.action()
}

static LABELS: [[u8; 20]; Verdict::LABELS.len()] = Verdict::LABELS;

/// One line a packet, if the agent switched it on before it loaded the
/// program; else the verifier removes it.
#[inline(always)]
fn trace<P: Packet>(packet: &P, verdict: u32) {
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
fn process<P: Subprograms>(packet: &P) -> Step<Outcome> {
    match ethernet(packet)? {
        (IPV4, offset) => process_family::<P, V4>(packet, offset),
        (IPV6, offset) => process_family::<P, V6>(packet, offset),
        _ => Err(Verdict::NotIp),
    }
}

#[inline(always)]
fn process_family<P: Subprograms, F: Family>(packet: &P, offset: usize) -> Step<Outcome> {
    let scratch = scratch::get()?;
    let network = F::parse(packet, offset, &mut scratch.tuple)?;
    if network.is_fragment || F::is_extension(network.protocol) {
        let outcome = packet.look_closer::<F>(offset as u32);
        if outcome.verdict() != OPENED {
            return Ok(outcome);
        }
        scratch.work.found = connections::find(&scratch.tuple, &mut scratch.work.halves.one);
        return Ok(hand_on::<P, F>(packet, scratch.work.found));
    }
    if network.protocol == F::PROTOCOL {
        return Ok(packet.relate::<F>(offset as u32));
    }
    let end = end::<P, F>(packet, offset)?;
    let mark = transport(packet, network.next, end, &mut scratch.tuple)?;
    barrier();
    scratch.shape = Shape {
        network: offset as u32,
        transport: network.next as u32,
        mark,
        is_first: 0,
        is_later: 0,
    };
    let (tuple, shape) = (&scratch.tuple, scratch.shape);
    let connection = &mut scratch.work.halves.one;
    scratch.work.found = connections::find(tuple, connection);
    if matches!(scratch.work.found, Some(Table::Assured | Table::Overflow))
        && Signal::is_plain(tuple.protocol, mark as u8)
        && is_settled(connection)
        && let Some(verdict) = may_follow(packet, tuple, connection)?
        && knows_way::<P, F>(packet, &Headers { tuple, shape }, connection)?
    {
        let found = Found {
            verdict,
            way: Way::Remembered,
        };
        let headers = Headers { tuple, shape };
        let outcome = settle::<P>(send::<P, F>(packet, &headers, connection, found));
        return Ok(tell::<P, F>(packet, outcome));
    }
    Ok(hand_on::<P, F>(packet, scratch.work.found))
}

/// Leaves the packet whose headers are in the scratch to subprograms.
#[inline(always)]
fn hand_on<P: Subprograms, F: Family>(packet: &P, found: Option<Table>) -> Outcome {
    let mut outcome = Outcome::new(Verdict::Opened, P::PASS);
    if found.is_some() {
        outcome = packet.track::<F>(0);
    }
    if outcome.verdict() == OPENED {
        outcome = begin::<P, F>(packet);
    }
    tell::<P, F>(packet, outcome)
}

/// Handles the first packet of a connection.
#[inline(always)]
fn begin<P: Subprograms, F: Family>(packet: &P) -> Outcome {
    const KEPT: i32 = Departure::Kept as i32;

    let planned = packet.open::<F>();
    if planned.verdict() != OPENED {
        return planned;
    }
    if planned.action() == KEPT {
        let kept = packet.track::<F>(1);
        return match kept.verdict() {
            OPENED => settle::<P>(Err(Verdict::Rejected)),
            _ => kept,
        };
    }
    let claimed = packet.claim();
    if claimed.verdict() != OPENED {
        return claimed;
    }
    let way = Way::from_number(planned.action().cast_unsigned());
    set_off::<P, F>(packet, Verdict::Opened, way)
}

/// Leaves it to a subprogram to send the packet in the scratch; says `verdict` if
/// it is sent.
#[inline(always)]
pub(crate) fn set_off<P: Subprograms, F: Family>(
    packet: &P,
    verdict: Verdict,
    way: Way,
) -> Outcome {
    let sent = packet.depart::<F>(way as u32);
    match sent.verdict() {
        FORWARD => Outcome::new(verdict, sent.action()),
        _ => sent,
    }
}

/// Tells the sender why the packet, which is as it came, goes no further.
#[inline(always)]
fn tell<P: Subprograms, F: Family>(packet: &P, outcome: Outcome) -> Outcome {
    match outcome.verdict() {
        why @ (REJECTED | TIME_EXCEEDED | TOO_BIG) => packet.answer::<F>(why),
        _ => outcome,
    }
}

/// Said by a subprogram that leaves the packet to the next one.
const OPENED: u32 = Verdict::Opened as u32;
const REJECTED: u32 = Verdict::Rejected as u32;
const TIME_EXCEEDED: u32 = Verdict::TimeExceeded as u32;
const TOO_BIG: u32 = Verdict::TooBig as u32;
/// Said by [`Subprograms::depart`] of a packet that is sent.
const FORWARD: u32 = Verdict::Forward as u32;

/// Whether a plain packet changes nothing about the connection.
#[inline(always)]
fn is_settled(connection: &Connection) -> bool {
    let (state, seen) = ((connection.life >> 32) as u32, connection.life as u32);
    state == State::Open as u32 && clock::now().wrapping_sub(seen) < clock::second()
}

/// Whether nobody needs to be asked where the packet goes.
#[inline(always)]
pub(crate) fn knows_way<P: Packet, F: Family>(
    packet: &P,
    headers: &Headers<'_>,
    connection: &Connection,
) -> Step<bool> {
    if connection.path != ROUTE {
        return Ok(true);
    }
    hop::is_usable::<P, F>(packet, headers, &connection.hop)
}

/// Whether a packet of the connection is to be translated here; `None` if it
/// starts a new one.
#[inline(always)]
pub(crate) fn may_follow<P: Packet>(
    packet: &P,
    tuple: &Tuple,
    connection: &Connection,
) -> Step<Option<Verdict>> {
    if !matches!(P::HOOK, Hook::TcEgress) && comes_by_another(packet, connection) {
        return Err(Verdict::Forged);
    }
    if connection.flags & Connection::REPLY == 0 {
        if connection.flags & Connection::DIRECT != 0 {
            // Further on, packets of other connections look the same: those that
            // came to the backend through a frontend.
            return match enters_here(packet, tuple) {
                true => Ok(Some(Verdict::Forward)),
                false => Err(Verdict::OtherHook),
            };
        }
        let is_outdated = tuple.protocol == UDP
            && !services::is_current(connection.backend, connection.generation);
        return Ok((!is_outdated).then_some(Verdict::Forward));
    }
    may_return(packet, connection)?;
    Ok(Some(Verdict::Reply))
}

/// Whether what comes from the backend is to be translated here.
#[inline(always)]
pub(crate) fn may_return<P: Packet>(packet: &P, connection: &Connection) -> Step<()> {
    let at_egress = connection.flags & Connection::AT_EGRESS != 0;
    if at_egress != matches!(P::HOOK, Hook::TcEgress) {
        return Err(Verdict::OtherHook);
    }
    // Once translated it looks like one through a frontend: TC is the last to
    // see it.
    if matches!(P::HOOK, Hook::Xdp) && connection.flags & Connection::DIRECT != 0 {
        return Err(Verdict::Deferred);
    }
    if matches!(P::HOOK, Hook::TcIngress) && is_forged(packet, connection) {
        return Err(Verdict::Forged);
    }
    Ok(())
}

/// Whether the packet came in by another interface than that of the pod which the
/// other direction leads to. Where that is gone, another node may speak for a pod
/// that moved and kept its address.
#[inline(always)]
pub(crate) fn comes_by_another<P: Packet>(packet: &P, connection: &Connection) -> bool {
    connection.path == ROUTE
        && connection.other_path == ROUTE
        && connection.other_interface != 0
        && connection.other_interface != packet.interface()
        && [connection.other_interface, packet.interface()]
            .into_iter()
            .any(|interface| interfaces::is_kind(interface, InterfaceKind::Pod))
}

/// Whether a pod says what only another node can have said.
#[inline(always)]
fn is_forged<P: Packet>(packet: &P, connection: &Connection) -> bool {
    services::is_elsewhere(connection.backend, connection.generation)
        && interfaces::is_kind(packet.interface(), InterfaceKind::Pod)
}

/// Sends the packet in the scratch the way its connection goes.
#[inline(always)]
pub(crate) fn depart<P: Packet, F: Family>(packet: &P, way: u32) -> Step<Outcome> {
    let (headers, work) = &mut scratch::get()?.split();
    let found = Found {
        verdict: Verdict::Forward,
        way: Way::from_number(way),
    };
    send::<P, F>(packet, headers, &work.halves.one, found)
}

/// Translates a packet and sends it the way its connection goes.
#[inline(always)]
fn send<P: Packet, F: Family>(
    packet: &P,
    headers: &Headers<'_>,
    connection: &Connection,
    found: Found,
) -> Step<Outcome> {
    let translated = &connection.translated;
    prepare::<P, F>(packet, headers, connection, translated, &found)?;
    rewrite::<F>(packet, headers, translated)?;
    let action = leave(packet, connection, found.way)?;
    Ok(Outcome::new(found.verdict, action))
}

/// What the way asks for before the packet is changed.
#[inline(always)]
pub(crate) fn prepare<P: Packet, F: Family>(
    packet: &P,
    headers: &Headers<'_>,
    connection: &Connection,
    translated: &Tuple,
    found: &Found,
) -> Step<()> {
    let path = connection.path;
    if matches!(P::HOOK, Hook::Xdp) && path != STACK && path != ROUTE {
        return Err(Verdict::Deferred);
    }
    if path == ROUTE {
        if found.way == Way::Unknown {
            look_up_route::<P, F>(packet, headers, translated)?;
        }
        if !matches!(P::HOOK, Hook::TcEgress) {
            F::hop(packet, headers.shape.network as usize)?;
        }
    }
    Ok(())
}

const STACK: u8 = Path::Stack as u8;
const ROUTE: u8 = Path::Route as u8;
const BOUNCE: u8 = Path::Bounce as u8;

/// Sends a translated packet the way its connection goes.
#[inline(always)]
pub(crate) fn leave<P: Packet>(packet: &P, connection: &Connection, way: Way) -> Step<i32> {
    match connection.path {
        STACK => Ok(P::PASS),
        ROUTE if way == Way::Remembered => packet.go_on(&connection.hop),
        ROUTE => transmit(packet),
        BOUNCE => packet.bounce(),
        _ => match P::HOOK {
            Hook::TcEgress => packet.resend(packet.interface()),
            Hook::Xdp | Hook::TcIngress => packet.deliver(connection.interface),
        },
    }
}

/// Sends the packet along the route in the scratch.
#[inline(always)]
fn transmit<P: Packet>(packet: &P) -> Step<i32> {
    let work = &mut scratch::get()?.work;
    let leaving = work.route.interface;
    if work.resolved {
        write_macs(packet, work.route.destination_mac, work.route.source_mac)?;
    }
    match P::HOOK {
        Hook::TcEgress if !work.resolved && interfaces::interface(leaving).is_some() => {
            packet.resend(leaving)
        }
        Hook::TcIngress
            if work.resolved && interfaces::interface(leaving).is_some_and(hop::is_peer) =>
        {
            hop::remember(work);
            packet.go_on(&work.hop)
        }
        _ => packet.transmit(&work.route),
    }
}

/// Delivers or sends a packet that is translated already.
#[inline(always)]
fn send_on<P: Packet, F: Family>(packet: &P, offset: usize) -> Step<Outcome> {
    let Scratch { tuple, work, .. } = scratch::get()?;
    F::parse(packet, offset, tuple)?;
    if let Some(owner) = interfaces::owner(&tuple.destination) {
        let action = packet.deliver(F::delivery(owner))?;
        return Ok(Outcome::new(Verdict::Passing, action));
    }
    let route = &mut work.route;
    match route::lookup::<F>(packet.context(), LOOPBACK, tuple, 0, route) {
        Answer::NotForwarded | Answer::Prohibited | Answer::TooBig => Err(Verdict::NoRoute),
        Answer::Resolved | Answer::Unresolved => {
            let action = packet.transmit(route)?;
            Ok(Outcome::new(Verdict::Passing, action))
        }
    }
}

/// Leaves the route in the scratch.
#[inline(always)]
fn look_up_route<P: Packet, F: Family>(
    packet: &P,
    headers: &Headers<'_>,
    translated: &Tuple,
) -> Step<()> {
    let from = match P::HOOK {
        Hook::Xdp | Hook::TcIngress => packet.interface(),
        Hook::TcEgress => LOOPBACK,
    };
    let Work {
        route, resolved, ..
    } = &mut scratch::get()?.work;
    let length = route::length::<P, F>(packet, headers)?;
    match route::lookup::<F>(packet.context(), from, translated, length, route) {
        Answer::NotForwarded | Answer::Prohibited => Err(Verdict::NoRoute),
        Answer::TooBig => Err(Verdict::TooBig),
        answer => {
            *resolved = matches!(answer, Answer::Resolved);
            let index = route.interface;
            let leaving = || interfaces::interface(index);
            sendable(packet, headers, &answer, route, leaving)
        }
    }
}

//! ICMP errors about packets of connections: both the error and the packet that
//! it quotes become what they were on the other side of the translation.

use lb_common::{Connection, Hook, Tuple, Verdict, checksum::Delta};

use crate::{
    connections,
    echo::echo,
    family::{Family, Part},
    headers::{Headers, SCTP, Shape, TCP, UDP, checked_network, checked_offset},
    icmp,
    packet::{Outcome, Packet, Step, at, end},
    pipeline::{Found, Way, comes_by_another, leave, may_return, prepare},
    scratch::{self, Error, Scratch, Work, barrier, settled},
    subprograms::Subprograms,
    xdp::{TCP_CHECKSUM, UDP_CHECKSUM},
};

/// Where the packet that is quoted has its headers, in bytes from the start of
/// the frame.
struct Quote {
    network: usize,
    transport: usize,
    /// Of TCP or UDP, if the quote is long enough for it.
    checksum: Option<usize>,
}

/// Ethernet, two VLAN tags, two of the longest IPv4 headers, ICMP and TCP; the
/// same for IPv6, with a few extension headers.
const LONGEST_HEADERS: u32 = 256;

/// What is quoted of a transport header at least (RFC 792).
const LEAST: usize = 8;

#[inline(always)]
pub(crate) fn relate<P: Subprograms, F: Family>(packet: &P, network: u32) -> Step<Outcome> {
    packet.reveal(LONGEST_HEADERS);
    let network = checked_network(network);
    let Scratch {
        tuple, work, error, ..
    } = scratch::get()?;
    let header = F::parse(packet, network, tuple)?;
    let message = header.next;
    // SAFETY: `at` has checked the bounds.
    let [kind, ..] = unsafe { *at::<[u8; icmp::HEADER]>(packet, message)? };
    if kind == F::ECHO_REQUEST {
        return echo::<P, F>(packet, network, message, tuple, &mut error.translated);
    }
    let [a, b, c, d] = F::ERRORS;
    if kind != a && kind != b && kind != c && kind != d {
        return Err(Verdict::OtherProtocol);
    }
    let end = end::<P, F>(packet, checked_network(network as u32))?;
    let quote = read::<P, F>(packet, message + icmp::HEADER, end, &mut error.quoted)?;
    find(packet, tuple, work, error)?;

    let connection = &work.halves.one;
    let headers = &Headers {
        tuple,
        shape: Shape {
            network: network as u32,
            transport: message as u32,
            mark: 0,
            is_first: 0,
            is_later: 0,
        },
    };
    let found = Found {
        verdict: Verdict::Related,
        way: Way::Unknown,
    };
    match prepare::<P, F>(packet, headers, connection, &error.translated, &found) {
        // RFC 1122, section 3.2.2: no error about an error.
        Err(Verdict::TimeExceeded | Verdict::TooBig) => return Err(Verdict::Unanswered),
        result => result?,
    }
    let change = restore::<P, F>(packet, &quote, error)?;
    translate::<P, F>(packet, headers, &error.translated, change)?;
    Ok(Outcome::new(
        found.verdict,
        leave(packet, connection, found.way)?,
    ))
}

/// Looks through the packet that is quoted at `offset`, in an IP packet that
/// ends at `end`; writes its addresses and ports to `tuple`.
#[inline(always)]
fn read<P: Packet, F: Family>(
    packet: &P,
    offset: usize,
    end: usize,
    tuple: &mut Tuple,
) -> Step<Quote> {
    let offset = checked_offset(offset);
    let header = F::parse(packet, offset, tuple)?;
    let layers = F::look_through(packet, offset, header)?;
    let has_ports = matches!(layers.protocol, TCP | UDP | SCTP) && layers.part != Part::Later;
    let transport = checked_offset(layers.next);
    let claimed = offset + F::length(packet, checked_offset(offset))?;
    if !has_ports || transport + LEAST > end || transport + LEAST > claimed {
        return Err(Verdict::OtherProtocol);
    }
    // SAFETY: `at` has checked the bounds.
    let [source_port, destination_port, ..] =
        unsafe { *at::<[u16; LEAST / 2]>(packet, transport)? };
    tuple.source_port = source_port;
    tuple.destination_port = destination_port;
    tuple.set_protocol(layers.protocol);
    let checksum = transport
        + match layers.protocol {
            TCP => TCP_CHECKSUM,
            _ => UDP_CHECKSUM,
        };
    let is_quoted = layers.protocol != SCTP && checksum + size_of::<u16>() <= end;
    if is_quoted {
        at::<u16>(packet, checksum)?;
    }
    Ok(Quote {
        network: offset,
        transport,
        checksum: is_quoted.then_some(checksum),
    })
}

/// Finds the connection that the packet that is quoted belongs to, translated
/// as it was; works out what it and the error were before.
#[inline(always)]
fn find<P: Packet>(packet: &P, outer: &Tuple, work: &mut Work, error: &mut Error) -> Step<()> {
    let halves = &mut work.halves;
    let (key, connection) = (&mut halves.one_key, &mut halves.one);
    key.reverse_of(&error.quoted);
    barrier();
    // An error goes to the sender of what it is about.
    if outer.destination != key.destination || connections::find(key, connection).is_none() {
        return Err(Verdict::OtherProtocol);
    }
    may_pass(packet, connection)?;

    let translated = &connection.translated;
    error.restored.reverse_of(translated);
    let is_reply = connection.flags & Connection::REPLY != 0;
    let changes_source = match is_reply {
        // Whatever is between this node and the backend has its own address.
        true => outer.source == key.source,
        false => translated.source != key.source,
    };
    let new = &mut error.translated;
    new.source.set(match changes_source {
        true => &translated.source,
        false => &outer.source,
    });
    new.destination.set(&translated.destination);
    new.source_port = 0;
    new.destination_port = 0;
    new.set_protocol(outer.protocol);
    barrier();
    Ok(())
}

/// Whether errors that come the way of the connection's packets are translated
/// at this hook.
#[inline(always)]
fn may_pass<P: Packet>(packet: &P, connection: &Connection) -> Step<()> {
    const DIRECT_AT_EGRESS: u16 = Connection::DIRECT | Connection::AT_EGRESS;

    if !matches!(P::HOOK, Hook::TcEgress) && comes_by_another(packet, connection) {
        return Err(Verdict::Forged);
    }
    if connection.flags & Connection::REPLY != 0 {
        return may_return(packet, connection);
    }
    // To the address of no frontend: elsewhere, what looks the same is about
    // packets that were never translated.
    if matches!(P::HOOK, Hook::TcEgress) && connection.flags & DIRECT_AT_EGRESS == DIRECT_AT_EGRESS
    {
        return Err(Verdict::OtherHook);
    }
    Ok(())
}

/// Makes the packet that is quoted what its sender had sent; returns what that
/// changed of the sum over the message.
#[inline(always)]
fn restore<P: Packet, F: Family>(packet: &P, quote: &Quote, error: &Error) -> Step<Delta> {
    let (old, new) = (&error.quoted, &error.restored);
    let addresses = addresses(old, new);
    let ports = Delta::new()
        .word(old.source_port, new.source_port)
        .word(old.destination_port, new.destination_port);
    let ports = Delta::new().sum(settled(ports.wsum()));

    F::write(packet, checked_offset(quote.network), old, new)?;
    let transport = checked_offset(quote.transport);
    // SAFETY: `at` has checked the bounds.
    let written = unsafe { &mut *at::<[u16; 2]>(packet, transport)? };
    *written = [new.source_port, new.destination_port];
    let mut change = ports;
    if let Some(field) = quote.checksum {
        // SAFETY: `at` has checked the bounds.
        let checksum = unsafe { &mut *at::<u16>(packet, checked_offset(field))? };
        let (before, is_udp) = (*checksum, old.protocol == UDP);
        if !is_udp || before != 0 {
            let after = match addresses.and(ports).apply(before) {
                // RFC 768: a computed zero is sent as all ones.
                0 if is_udp => 0xffff,
                sum => sum,
            };
            *checksum = after;
            change = change.word(before, after);
        }
    }
    // The checksum of a header makes up for its addresses.
    Ok(match F::HAS_CHECKSUM {
        true => change,
        false => change.and(addresses),
    })
}

/// Translates the error itself.
///
/// Of what this and [`restore`] write, nothing changes the sum over the packet:
/// the message's checksum makes up for the message, and for IPv6 for the
/// addresses as well; IPv4's own for the header. So that sum, which the kernel
/// may have from the NIC (`CHECKSUM_COMPLETE`), stays right.
#[inline(always)]
fn translate<P: Packet, F: Family>(
    packet: &P,
    headers: &Headers<'_>,
    new: &Tuple,
    message: Delta,
) -> Step<()> {
    let change = match F::HAS_CHECKSUM {
        true => message,
        false => message.and(addresses(headers.tuple, new)),
    };
    F::write(packet, headers.shape.network as usize, headers.tuple, new)?;
    let field = headers.shape.transport as usize + icmp::CHECKSUM;
    // SAFETY: `at` has checked the bounds.
    let checksum = unsafe { &mut *at::<u16>(packet, field)? };
    *checksum = change.apply(*checksum);
    Ok(())
}

#[inline(always)]
fn addresses(old: &Tuple, new: &Tuple) -> Delta {
    let source = Delta::new().longs(&old.source.words, &new.source.words);
    let source = Delta::new().sum(settled(source.wsum()));
    let both = source.longs(&old.destination.words, &new.destination.words);
    Delta::new().sum(settled(both.wsum()))
}

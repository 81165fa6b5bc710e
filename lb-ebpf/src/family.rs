//! The one place where IPv4 and IPv6 differ.

use lb_common::{Address, Interface, Tuple, Verdict, checksum::Delta};

use crate::{
    headers::{Headers, TCP, UDP, transport},
    packet::{Packet, Step, at},
    route::{LOOPBACK, Route},
};

pub trait Family {
    /// `AF_INET` or `AF_INET6`.
    const NUMBER: u8;
    /// Whether the header has a checksum of its own.
    const HAS_CHECKSUM: bool;

    /// Addresses, protocol, and the offset of the transport header.
    fn parse(packet: &impl Packet, offset: usize) -> Step<(Address, Address, u8, usize)>;

    /// Writes both addresses of `new` over those of `old`.
    fn write(packet: &impl Packet, offset: usize, old: &Tuple, new: &Tuple) -> Step<()>;

    /// Counts one hop.
    fn hop(packet: &impl Packet, offset: usize) -> Step<()>;

    /// Puts the addresses where a route lookup wants them.
    fn ask(route: &mut Route, source: &Address, destination: &Address);

    /// What the interface offers as the source of SNAT.
    fn source(interface: &Interface) -> Address;

    /// Interface that leads a packet to a socket of this node, given the one
    /// that owns its destination address.
    ///
    /// `bpf_redirect_neigh` looks a route up. For IPv4 it finds the local one
    /// only by way of the owner, and then resolves the neighbour on the
    /// loopback device that the route names; for IPv6 it finds it either way,
    /// but resolves the neighbour on the device it is given.
    fn delivery(owner: u32) -> u32;
}

pub(crate) struct V4;
pub(crate) struct V6;

/// RFC 791, section 3.1.
#[repr(C)]
struct Ipv4Header {
    version_and_length: u8,
    tos: u8,
    total_length: u16,
    id: u16,
    fragment: u16,
    time_to_live: u8,
    protocol: u8,
    checksum: u16,
    source: u32,
    destination: u32,
}

/// RFC 8200, section 3.
#[repr(C)]
struct Ipv6Header {
    version_class_flow: u32,
    payload_length: u16,
    next_header: u8,
    hop_limit: u8,
    source: Address,
    destination: Address,
}

const _: () = assert!(size_of::<Ipv4Header>() == 20);
const _: () = assert!(size_of::<Ipv6Header>() == 40);

/// More-fragments flag and fragment offset.
const FRAGMENT_BITS: u16 = 0x3fff;
/// IPv6 fragment header (RFC 8200, section 4.5).
const IPV6_FRAGMENT: u8 = 44;

impl Family for V4 {
    const NUMBER: u8 = 2;
    const HAS_CHECKSUM: bool = true;

    #[inline(always)]
    fn parse(packet: &impl Packet, offset: usize) -> Step<(Address, Address, u8, usize)> {
        // SAFETY: `at` has checked the bounds.
        let header = unsafe { &*at::<Ipv4Header>(packet, offset)? };
        let length = usize::from(header.version_and_length & 0xf) * 4;
        if header.version_and_length >> 4 != 4 || length < size_of::<Ipv4Header>() {
            return Err(Verdict::Malformed);
        }
        if header.protocol != TCP && header.protocol != UDP {
            return Err(Verdict::OtherProtocol);
        }
        if header.fragment & FRAGMENT_BITS.to_be() != 0 {
            return Err(Verdict::Fragment);
        }
        Ok((
            Address::v4(header.source),
            Address::v4(header.destination),
            header.protocol,
            offset + length,
        ))
    }

    #[inline(always)]
    fn write(packet: &impl Packet, offset: usize, old: &Tuple, new: &Tuple) -> Step<()> {
        // SAFETY: `at` has checked the bounds.
        let header = unsafe { &mut *at::<Ipv4Header>(packet, offset)? };
        let [.., source] = new.source.words;
        let [.., destination] = new.destination.words;
        header.checksum = Delta::new()
            .long(old.source.words[3], source)
            .long(old.destination.words[3], destination)
            .apply(header.checksum);
        header.source = source;
        header.destination = destination;
        Ok(())
    }

    #[inline(always)]
    fn hop(packet: &impl Packet, offset: usize) -> Step<()> {
        // SAFETY: `at` has checked the bounds.
        let header = unsafe { &mut *at::<Ipv4Header>(packet, offset)? };
        let (hops, protocol) = (header.time_to_live, header.protocol);
        if hops <= 1 {
            return Err(Verdict::HopLimit);
        }
        header.checksum = Delta::new()
            .word(
                u16::from_ne_bytes([hops, protocol]),
                u16::from_ne_bytes([hops - 1, protocol]),
            )
            .apply(header.checksum);
        header.time_to_live = hops - 1;
        Ok(())
    }

    #[inline(always)]
    fn ask(route: &mut Route, source: &Address, destination: &Address) {
        route.source[0] = source.words[3];
        route.destination[0] = destination.words[3];
    }

    #[inline(always)]
    fn source(interface: &Interface) -> Address {
        interface.v4
    }

    #[inline(always)]
    fn delivery(owner: u32) -> u32 {
        owner
    }
}

impl Family for V6 {
    const NUMBER: u8 = 10;
    const HAS_CHECKSUM: bool = false;

    #[inline(always)]
    fn parse(packet: &impl Packet, offset: usize) -> Step<(Address, Address, u8, usize)> {
        // SAFETY: `at` has checked the bounds.
        let header = unsafe { &*at::<Ipv6Header>(packet, offset)? };
        if u32::from_be(header.version_class_flow) >> 28 != 6 {
            return Err(Verdict::Malformed);
        }
        match header.next_header {
            TCP | UDP => Ok((
                header.source,
                header.destination,
                header.next_header,
                offset + size_of::<Ipv6Header>(),
            )),
            IPV6_FRAGMENT => Err(Verdict::Fragment),
            _ => Err(Verdict::OtherProtocol),
        }
    }

    #[inline(always)]
    fn write(packet: &impl Packet, offset: usize, _old: &Tuple, new: &Tuple) -> Step<()> {
        // SAFETY: `at` has checked the bounds.
        let header = unsafe { &mut *at::<Ipv6Header>(packet, offset)? };
        header.source = new.source;
        header.destination = new.destination;
        Ok(())
    }

    #[inline(always)]
    fn hop(packet: &impl Packet, offset: usize) -> Step<()> {
        // SAFETY: `at` has checked the bounds.
        let header = unsafe { &mut *at::<Ipv6Header>(packet, offset)? };
        if header.hop_limit <= 1 {
            return Err(Verdict::HopLimit);
        }
        header.hop_limit -= 1;
        Ok(())
    }

    #[inline(always)]
    fn ask(route: &mut Route, source: &Address, destination: &Address) {
        route.source = source.words;
        route.destination = destination.words;
    }

    #[inline(always)]
    fn source(interface: &Interface) -> Address {
        interface.v6
    }

    #[inline(always)]
    fn delivery(_owner: u32) -> u32 {
        LOOPBACK
    }
}

/// Parses from the IP header on.
#[inline(always)]
pub(crate) fn headers<F: Family>(packet: &impl Packet, offset: usize) -> Step<Headers> {
    let (source, destination, protocol, next) = F::parse(packet, offset)?;
    let (source_port, destination_port, tcp) = transport(packet, next, protocol)?;
    Ok(Headers {
        tuple: Tuple {
            source,
            destination,
            source_port,
            destination_port,
            protocol,
            reserved: 0,
            reserved2: 0,
        },
        network: offset,
        transport: next,
        tcp,
    })
}

//! The one place where IPv4 and IPv6 differ.

use lb_common::{Address, Interface, Tuple, Verdict, checksum::Delta};

use crate::{
    icmp::Icmp,
    packet::{Packet, Step, at},
    route::{LOOPBACK, Route},
    scratch::Answer,
    words::copy,
};

pub trait Family: Icmp {
    /// `AF_INET` or `AF_INET6`.
    const NUMBER: u8;
    const VERSION: u8;
    /// Index into arrays with an element for each family.
    const INDEX: usize;
    /// Whether the header has a checksum of its own.
    const HAS_CHECKSUM: bool;
    /// Length in bytes of a header without options.
    const HEADER: usize;

    /// Writes addresses and protocol to `tuple`.
    fn parse(packet: &impl Packet, offset: usize, tuple: &mut Tuple) -> Step<Network>;

    /// Whether headers of this protocol stand between the IP header and what it
    /// carries.
    fn is_extension(protocol: u8) -> bool;

    /// Looks through them, and for which part of a packet this is.
    fn look_through(packet: &impl Packet, offset: usize, network: Network) -> Step<Layers>;

    /// What the header says of the length of header and payload, in bytes.
    fn length(packet: &impl Packet, offset: usize) -> Step<usize>;

    /// The pseudo header of `length` bytes between the two addresses.
    fn pseudo_sum(tuple: &Tuple, protocol: u8, length: u32) -> Delta;

    /// Writes a header in front of an answer to `tuple` with a payload of
    /// `length` bytes.
    fn write_answer(answer: &mut Answer, tuple: &Tuple, protocol: u8, length: u32);

    /// Writes both addresses of `new` over those of `old`.
    fn write(packet: &impl Packet, offset: usize, old: &Tuple, new: &Tuple) -> Step<()>;

    /// Counts one hop.
    fn hop(packet: &impl Packet, offset: usize) -> Step<()>;

    /// Gives the packet as many hops as a new one has.
    fn renew(packet: &impl Packet, offset: usize) -> Step<()>;

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

/// What follows a network header.
pub struct Network {
    /// Its protocol, or the kind of the extension header.
    pub(crate) protocol: u8,
    /// Where it begins, in bytes.
    pub(crate) next: usize,
    /// Whether it is one part of a packet.
    pub(crate) is_fragment: bool,
}

/// What an IP packet carries behind all its headers.
pub struct Layers {
    pub(crate) protocol: u8,
    /// Where it begins, in bytes.
    pub(crate) next: usize,
    pub(crate) part: Part,
    /// What all parts of a packet have in common; 0 for a whole one.
    pub(crate) id: u32,
    /// The protocol that all parts name.
    pub(crate) kind: u8,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    First,
    Later,
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

/// The first 8 bytes of any extension header; `offset` and `id` are those of a
/// fragment header, and the upper half of `offset` the type and segments left of
/// a routing header (RFC 8200, sections 4.4 and 4.5).
#[repr(C)]
struct Ipv6Extension {
    next_and_length: u16,
    offset: u16,
    id: u32,
}

/// How many extension headers are looked through.
const EXTENSIONS: usize = 6;
const IPV6_FRAGMENT_OFFSET: u16 = 0xfff8;
const IPV6_MORE_FRAGMENTS: u16 = 1;

/// Time to live or hop limit of what this node says by itself.
const HOPS: u8 = 64;
/// More-fragments flag and fragment offset.
const FRAGMENT_BITS: u16 = 0x3fff;
const FRAGMENT_OFFSET: u16 = 0x1fff;
/// IPv6 extension headers (RFC 8200, section 4).
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const IPV6_FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

impl Family for V4 {
    const NUMBER: u8 = 2;
    const VERSION: u8 = 4;
    const INDEX: usize = 0;
    const HAS_CHECKSUM: bool = true;
    const HEADER: usize = size_of::<Ipv4Header>();

    #[inline(always)]
    fn parse(packet: &impl Packet, offset: usize, tuple: &mut Tuple) -> Step<Network> {
        // SAFETY: `at` has checked the bounds.
        let header = unsafe { &*at::<Ipv4Header>(packet, offset)? };
        let length = usize::from(header.version_and_length & 0xf) * 4;
        if header.version_and_length >> 4 != 4 || length < size_of::<Ipv4Header>() {
            return Err(Verdict::Malformed);
        }
        tuple.source.set(&Address::v4(header.source));
        tuple.destination.set(&Address::v4(header.destination));
        tuple.set_protocol(header.protocol);
        Ok(Network {
            protocol: header.protocol,
            next: offset + length,
            is_fragment: header.fragment & FRAGMENT_BITS.to_be() != 0,
        })
    }

    #[inline(always)]
    fn is_extension(_protocol: u8) -> bool {
        false
    }

    #[inline(always)]
    fn look_through(packet: &impl Packet, offset: usize, network: Network) -> Step<Layers> {
        // SAFETY: `at` has checked the bounds.
        let header = unsafe { &*at::<Ipv4Header>(packet, offset)? };
        Ok(Layers {
            protocol: network.protocol,
            next: network.next,
            part: match header.fragment & FRAGMENT_OFFSET.to_be() {
                0 if network.is_fragment => Part::First,
                0 => Part::Whole,
                _ => Part::Later,
            },
            id: header.id.into(),
            kind: network.protocol,
        })
    }

    #[inline(always)]
    fn length(packet: &impl Packet, offset: usize) -> Step<usize> {
        // SAFETY: `at` has checked the bounds.
        let header = unsafe { &*at::<Ipv4Header>(packet, offset)? };
        Ok(u16::from_be(header.total_length).into())
    }

    #[inline(always)]
    fn pseudo_sum(tuple: &Tuple, protocol: u8, length: u32) -> Delta {
        Delta::new()
            .sum(tuple.source.words[3])
            .sum(tuple.destination.words[3])
            .sum(u32::from(protocol).to_be())
            .sum(length.to_be())
    }

    #[inline(always)]
    fn write_answer(answer: &mut Answer, tuple: &Tuple, protocol: u8, length: u32) {
        const DONT_FRAGMENT: u16 = 0x4000;
        let total_length = ((Self::HEADER as u32 + length) as u16).to_be();
        let [.., source] = tuple.destination.words;
        let [.., destination] = tuple.source.words;
        let kind = u16::from_ne_bytes([HOPS, protocol]);
        let sum = Delta::new()
            .sum(u16::from_ne_bytes([0x45, 0]).into())
            .sum(total_length.into())
            .sum(DONT_FRAGMENT.to_be().into())
            .sum(kind.into())
            .sum(source)
            .sum(destination);
        let header = Ipv4Header {
            version_and_length: 0x45,
            tos: 0,
            total_length,
            id: 0,
            fragment: DONT_FRAGMENT.to_be(),
            time_to_live: HOPS,
            protocol,
            checksum: !sum.fold(),
            source,
            destination,
        };
        // SAFETY: the buffer is aligned to 4 and far longer.
        unsafe { *answer.at(0) = header };
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
            return Err(Verdict::TimeExceeded);
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
    fn renew(packet: &impl Packet, offset: usize) -> Step<()> {
        // SAFETY: `at` has checked the bounds.
        let header = unsafe { &mut *at::<Ipv4Header>(packet, offset)? };
        let [old, new] =
            [header.time_to_live, HOPS].map(|hops| u16::from_ne_bytes([hops, header.protocol]));
        header.checksum = Delta::new().word(old, new).apply(header.checksum);
        header.time_to_live = HOPS;
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
    const VERSION: u8 = 6;
    const INDEX: usize = 1;
    const HAS_CHECKSUM: bool = false;
    const HEADER: usize = size_of::<Ipv6Header>();

    #[inline(always)]
    fn parse(packet: &impl Packet, offset: usize, tuple: &mut Tuple) -> Step<Network> {
        // SAFETY: `at` has checked the bounds.
        let header = unsafe { &*at::<Ipv6Header>(packet, offset)? };
        if u32::from_be(header.version_class_flow) >> 28 != 6 {
            return Err(Verdict::Malformed);
        }
        // Here they would stand for IPv4 (RFC 4291, section 2.5.5.2); no packet
        // has them.
        if header.source.is_v4() || header.destination.is_v4() {
            return Err(Verdict::Malformed);
        }
        tuple.source.set(&header.source);
        tuple.destination.set(&header.destination);
        tuple.set_protocol(header.next_header);
        Ok(Network {
            protocol: header.next_header,
            next: offset + size_of::<Ipv6Header>(),
            is_fragment: false,
        })
    }

    #[inline(always)]
    fn is_extension(protocol: u8) -> bool {
        matches!(
            protocol,
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | IPV6_FRAGMENT
        )
    }

    #[inline(always)]
    fn look_through(packet: &impl Packet, _offset: usize, network: Network) -> Step<Layers> {
        let mut layers = Layers {
            protocol: network.protocol,
            next: network.next,
            part: Part::Whole,
            id: 0,
            // What a later part names may be one more extension header.
            kind: IPV6_FRAGMENT,
        };
        for _ in 0..EXTENSIONS {
            if !Self::is_extension(layers.protocol) {
                return Ok(layers);
            }
            // SAFETY: `at` has checked the bounds.
            let header = unsafe { &*at::<Ipv6Extension>(packet, layers.next)? };
            let [next_header, length] = header.next_and_length.to_ne_bytes();
            match layers.protocol {
                IPV6_FRAGMENT => {
                    layers.id = header.id;
                    layers.next += size_of::<Ipv6Extension>();
                    if header.offset & IPV6_FRAGMENT_OFFSET.to_be() != 0 {
                        layers.part = Part::Later;
                        layers.protocol = next_header;
                        return Ok(layers);
                    }
                    // One that is the only one is no fragment (RFC 6946).
                    if header.offset & IPV6_MORE_FRAGMENTS.to_be() != 0 {
                        layers.part = Part::First;
                    }
                }
                // Addressed to somewhere on the way.
                ROUTING if header.offset.to_ne_bytes()[1] != 0 => {
                    return Err(Verdict::OtherProtocol);
                }
                _ => layers.next += (usize::from(length) + 1) * 8,
            }
            layers.protocol = next_header;
        }
        Ok(layers)
    }

    #[inline(always)]
    fn length(packet: &impl Packet, offset: usize) -> Step<usize> {
        // SAFETY: `at` has checked the bounds.
        let header = unsafe { &*at::<Ipv6Header>(packet, offset)? };
        Ok(Self::HEADER + usize::from(u16::from_be(header.payload_length)))
    }

    #[inline(always)]
    fn pseudo_sum(tuple: &Tuple, protocol: u8, length: u32) -> Delta {
        Delta::new()
            .sums(&tuple.source.words)
            .sums(&tuple.destination.words)
            .sum(u32::from(protocol).to_be())
            .sum(length.to_be())
    }

    #[inline(always)]
    fn write_answer(answer: &mut Answer, tuple: &Tuple, protocol: u8, length: u32) {
        let header = Ipv6Header {
            version_class_flow: 0x6000_0000_u32.to_be(),
            payload_length: (length as u16).to_be(),
            next_header: protocol,
            hop_limit: HOPS,
            source: tuple.destination,
            destination: tuple.source,
        };
        // SAFETY: the buffer is aligned to 4 and far longer.
        unsafe { *answer.at(0) = header };
    }

    #[inline(always)]
    fn write(packet: &impl Packet, offset: usize, _old: &Tuple, new: &Tuple) -> Step<()> {
        // SAFETY: `at` has checked the bounds.
        let header = unsafe { &mut *at::<Ipv6Header>(packet, offset)? };
        copy(&new.source.words, &mut header.source.words);
        copy(&new.destination.words, &mut header.destination.words);
        Ok(())
    }

    #[inline(always)]
    fn hop(packet: &impl Packet, offset: usize) -> Step<()> {
        // SAFETY: `at` has checked the bounds.
        let header = unsafe { &mut *at::<Ipv6Header>(packet, offset)? };
        if header.hop_limit <= 1 {
            return Err(Verdict::TimeExceeded);
        }
        let old = u16::from_ne_bytes([header.next_header, header.hop_limit]);
        header.hop_limit -= 1;
        let new = u16::from_ne_bytes([header.next_header, header.hop_limit]);
        packet.amend_sum(Delta::new().word(old, new));
        Ok(())
    }

    #[inline(always)]
    fn renew(packet: &impl Packet, offset: usize) -> Step<()> {
        // SAFETY: `at` has checked the bounds.
        unsafe { (*at::<Ipv6Header>(packet, offset)?).hop_limit = HOPS };
        Ok(())
    }

    #[inline(always)]
    fn ask(route: &mut Route, source: &Address, destination: &Address) {
        copy(&source.words, &mut route.source);
        copy(&destination.words, &mut route.destination);
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

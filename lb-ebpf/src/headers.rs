//! Ethernet, VLAN tags, TCP and UDP: everything but the network layer.

use core::hint;

use lb_common::{Signal, Tuple, Verdict};

use crate::packet::{Packet, Step, at};

pub(crate) const ETHERNET: usize = 14;

pub(crate) use lb_common::lifecycle::{SCTP, TCP, UDP};

pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const IPV6: u16 = 0x86dd;

const VLAN: usize = 4;
const DOT1Q: u16 = 0x8100;
const DOT1AD: u16 = 0x88a8;
/// One service tag and one customer tag (IEEE 802.1ad).
pub(crate) const TAGS: usize = 2;

/// What a parsed packet looks like.
#[derive(Clone, Copy)]
pub(crate) struct Headers<'a> {
    pub(crate) tuple: &'a Tuple,
    pub(crate) shape: Shape,
}

/// Where a packet's headers are, and what they say beside the tuple.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    /// Offset of the IP header, in bytes.
    pub(crate) network: u32,
    /// Offset of what the IP header carries, in bytes.
    pub(crate) transport: u32,
    /// TCP flags, or the type of the first SCTP chunk; else 0.
    pub(crate) mark: u32,
    /// Whether the packet is a fragment with the transport header.
    pub(crate) is_first: u32,
    /// Whether the packet is a fragment without the transport header, and if so,
    /// whether it has waited for the one with it already.
    pub(crate) is_later: u32,
}

impl Headers<'_> {
    #[inline(always)]
    pub(crate) fn signal(&self) -> Signal {
        match self.shape.is_later {
            0 => Signal::of(self.tuple.protocol, self.shape.mark as u8),
            _ => Signal::Data,
        }
    }

    /// Whether the packet may be the first of its flow.
    #[inline(always)]
    pub(crate) fn starts_flow(&self) -> bool {
        self.tuple.protocol == UDP || self.signal() == Signal::Open
    }
}

impl Shape {
    /// Values of `is_later`.
    pub(crate) const LATER: u32 = 1;
    pub(crate) const LATER_AGAIN: u32 = 2;

    /// Itself, from a map, in a form whose bounds any verifier can follow: that
    /// of Linux 6.1 forgets a comparison when a register goes to the stack.
    #[inline(always)]
    pub(crate) fn checked(self) -> Self {
        Self {
            network: hint::black_box(self.network) & NETWORK_MASK,
            transport: checked_offset(self.transport as usize) as u32,
            ..self
        }
    }
}

/// Enough for Ethernet and all tags.
const NETWORK_MASK: u32 = 31;
const _: () = assert!(ETHERNET + TAGS * VLAN <= NETWORK_MASK as usize);
/// Enough for the longest chain of IPv6 headers that is looked through.
const TRANSPORT_MASK: u32 = 0x3fff;

/// The offset of a network header, in a form as [`Shape::checked`] has it.
#[inline(always)]
pub(crate) fn checked_network(offset: u32) -> usize {
    (hint::black_box(offset) & NETWORK_MASK) as usize
}

/// The offset of any header behind it.
#[inline(always)]
pub(crate) fn checked_offset(offset: usize) -> usize {
    (hint::black_box(offset as u32) & TRANSPORT_MASK) as usize
}

/// EtherType in host byte order, and the offset of what follows it.
#[inline(always)]
pub(crate) fn ethernet(packet: &impl Packet) -> Step<(u16, usize)> {
    // SAFETY: `at` has checked the bounds.
    let mut kind = u16::from_be(unsafe { *at::<u16>(packet, ETHERNET - 2)? });
    let mut offset = ETHERNET;
    for _ in 0..TAGS {
        if kind != DOT1Q && kind != DOT1AD {
            break;
        }
        // SAFETY: `at` has checked the bounds.
        kind = u16::from_be(unsafe { *at::<u16>(packet, offset + 2)? });
        offset += VLAN;
    }
    Ok((kind, offset))
}

/// Writes the ports to `tuple`, which says what protocol it is; returns
/// [`Shape::mark`]. The packet ends at `end`.
#[inline(always)]
pub(crate) fn transport(
    packet: &impl Packet,
    offset: usize,
    end: usize,
    tuple: &mut Tuple,
) -> Step<u32> {
    let (ports, mark, length) = match tuple.protocol {
        TCP => {
            // SAFETY: `at` has checked the bounds of the 20-byte header.
            let header = unsafe { &*at::<[u16; 10]>(packet, offset)? };
            let [_, flags] = header[6].to_ne_bytes();
            ([header[0], header[1]], flags, size_of_val(header))
        }
        UDP => {
            // SAFETY: `at` has checked the bounds of the 8-byte header.
            let header = unsafe { &*at::<[u16; 4]>(packet, offset)? };
            ([header[0], header[1]], 0, size_of_val(header))
        }
        SCTP => {
            // SAFETY: `at` has checked the bounds of the 12-byte header and of
            // the first chunk's own.
            let header = unsafe { &*at::<[u16; 8]>(packet, offset)? };
            let [chunk, _] = header[6].to_ne_bytes();
            ([header[0], header[1]], chunk, size_of_val(header))
        }
        _ => return Err(Verdict::OtherProtocol),
    };
    if offset + length > end {
        return Err(Verdict::Malformed);
    }
    [tuple.source_port, tuple.destination_port] = ports;
    Ok(mark.into())
}

//! Ethernet, VLAN tags, TCP and UDP: everything but the network layer.

use lb_common::{Tuple, Verdict};

use crate::packet::{Packet, Step, at};

pub(crate) const ETHERNET: usize = 14;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const IPV6: u16 = 0x86dd;

const VLAN: usize = 4;
const DOT1Q: u16 = 0x8100;
const DOT1AD: u16 = 0x88a8;
/// One service tag and one customer tag (IEEE 802.1ad).
const TAGS: usize = 2;

/// What a parsed packet looks like.
pub(crate) struct Headers {
    pub(crate) tuple: Tuple,
    /// Offset of the IP header, in bytes.
    pub(crate) network: usize,
    /// Offset of the TCP or UDP header, in bytes.
    pub(crate) transport: usize,
    pub(crate) tcp: TcpFlags,
}

/// Byte 13 of a TCP header (RFC 9293, section 3.1); 0 for UDP.
#[derive(Clone, Copy)]
pub(crate) struct TcpFlags(u8);

impl TcpFlags {
    const FIN: u8 = 0x01;
    const SYN: u8 = 0x02;
    pub(crate) const RST: u8 = 0x04;
    pub(crate) const ACK: u8 = 0x10;

    #[inline(always)]
    pub(crate) const fn opens(self) -> bool {
        const MEANT: u8 = TcpFlags::SYN | TcpFlags::ACK | TcpFlags::RST | TcpFlags::FIN;
        self.0 & MEANT == Self::SYN
    }

    #[inline(always)]
    pub(crate) const fn closes(self) -> bool {
        self.0 & (Self::FIN | Self::RST) != 0
    }
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

/// Ports in network byte order, and the TCP flags.
#[inline(always)]
pub(crate) fn transport(
    packet: &impl Packet,
    offset: usize,
    protocol: u8,
) -> Step<(u16, u16, TcpFlags)> {
    match protocol {
        TCP => {
            // SAFETY: `at` has checked the bounds of the 20-byte header.
            let header = unsafe { &*at::<[u16; 10]>(packet, offset)? };
            let [_, flags] = header[6].to_ne_bytes();
            Ok((header[0], header[1], TcpFlags(flags)))
        }
        UDP => {
            // SAFETY: `at` has checked the bounds of the 8-byte header.
            let header = unsafe { &*at::<[u16; 4]>(packet, offset)? };
            Ok((header[0], header[1], TcpFlags(0)))
        }
        _ => Err(Verdict::OtherProtocol),
    }
}

//! ICMP (RFC 792) and ICMPv6 (RFC 4443).

use lb_common::checksum::Delta;

use crate::{
    family::{V4, V6},
    scratch::Answer,
};

pub(crate) const HEADER: usize = size_of::<Header>();

/// Offset of the checksum in a message, in bytes.
pub(crate) const CHECKSUM: usize = 2;

#[repr(C)]
pub(crate) struct Header {
    pub(crate) kind: u8,
    pub(crate) code: u8,
    pub(crate) checksum: u16,
    /// Of an error: the MTU, or zero.
    pub(crate) rest: u32,
}

const _: () = assert!(HEADER == 8);

impl Header {
    /// Changes the type. Swapped addresses do not change the checksum.
    #[inline(always)]
    pub(crate) fn become_reply(&mut self, kind: u8) {
        let [old, new] = [self.kind, kind].map(|kind| u16::from_ne_bytes([kind, self.code]));
        self.kind = kind;
        self.checksum = Delta::new().word(old, new).apply(self.checksum);
    }
}

/// Numbers that the two versions have for the same.
pub trait Icmp {
    /// Protocol number.
    const PROTOCOL: u8;
    /// Type and code of a port unreachable.
    const UNREACHABLE: (u8, u8);
    /// Time to live or hop limit exceeded in transit.
    const TIME_EXCEEDED: (u8, u8);
    /// Fragmentation needed, or packet too big.
    const TOO_BIG: (u8, u8);
    const ECHO_REQUEST: u8;
    const ECHO_REPLY: u8;
    /// Types of errors about a packet: it is quoted after the header.
    const ERRORS: [u8; 4];
    /// How much of a packet an error about it quotes, in bytes: with headers,
    /// what any host takes (RFC 1812, section 4.3.2.3; RFC 4443, section 2.4).
    const QUOTE: usize;
}

impl Icmp for V4 {
    const PROTOCOL: u8 = 1;
    const UNREACHABLE: (u8, u8) = (3, 3);
    const TIME_EXCEEDED: (u8, u8) = (11, 0);
    const TOO_BIG: (u8, u8) = (3, 4);
    const ECHO_REQUEST: u8 = 8;
    const ECHO_REPLY: u8 = 0;
    /// Unreachable, source quench, time exceeded, parameter problem. Not
    /// redirects: those are between neighbours.
    const ERRORS: [u8; 4] = [3, 4, 11, 12];
    const QUOTE: usize = 576 - 20 - HEADER;
}

impl Icmp for V6 {
    const PROTOCOL: u8 = 58;
    const UNREACHABLE: (u8, u8) = (1, 4);
    const TIME_EXCEEDED: (u8, u8) = (3, 0);
    const TOO_BIG: (u8, u8) = (2, 0);
    const ECHO_REQUEST: u8 = 128;
    const ECHO_REPLY: u8 = 129;
    const ERRORS: [u8; 4] = [1, 2, 3, 4];
    const QUOTE: usize = Answer::SIZE - 40 - HEADER;
}

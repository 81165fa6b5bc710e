//! Connections: what a packet looks like now, and what it becomes.

use crate::{address::Address, layout::layout};

layout! {
    /// Addresses and ports of a packet; key of the connection table.
    pub struct Tuple: 40 {
        pub source: Address,
        pub destination: Address,
        pub source_port: u16,
        pub destination_port: u16,
        /// IP protocol number.
        pub protocol: u8,
        pub reserved: u8,
        pub reserved2: u16,
    }
}

impl Tuple {
    /// The same flow, seen in the other direction.
    #[inline(always)]
    #[must_use]
    pub const fn reverse(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol: self.protocol,
            reserved: 0,
            reserved2: 0,
        }
    }
}

layout! {
    /// One direction of a connection: packets that match its key become
    /// `translated` and take `path`. The key of the other direction is
    /// `translated.reverse()`, and it becomes `key.reverse()`.
    pub struct Connection: 64 {
        pub translated: Tuple,
        /// Backend id, and the generation that was chosen.
        pub backend: u32,
        pub generation: u32,
        pub service: u32,
        /// Interface index for [`Path::Local`].
        pub interface: u32,
        pub flags: u32,
        /// [`Path`].
        pub path: u32,
    }
}

impl Connection {
    /// From the backend to the client.
    pub const REPLY: u32 = 1;
    /// Replies are translated where they leave towards the client; without
    /// it, where they enter.
    pub const AT_EGRESS: u32 = 2;
    /// A TCP FIN or RST went by in this direction.
    pub const CLOSING: u32 = 4;
}

/// Where a packet goes once it is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Path {
    /// On through the stack, or out of the interface it is leaving by.
    Stack = 0,
    /// Straight out, as the routing table says.
    Route = 1,
    /// Back to the interface it came from: a pod talks to itself.
    Bounce = 2,
    /// To a socket of this node, past input routing, which would call one of
    /// the node's own addresses as a source martian.
    Local = 3,
}

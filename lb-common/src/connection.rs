//! Connections: what a packet looks like now, and what it becomes.

use crate::{address::Address, layout::layout, service::Interface};

layout! {
    /// Addresses and ports of a packet; key of the connection tables.
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

    /// Becomes the other direction of `other`, word by word: a program's stack
    /// has no room for copies.
    #[inline(always)]
    pub const fn reverse_of(&mut self, other: &Self) {
        self.source.set(&other.destination);
        self.destination.set(&other.source);
        self.source_port = other.destination_port;
        self.destination_port = other.source_port;
        self.set_protocol(other.protocol);
    }

    #[inline(always)]
    pub const fn set_protocol(&mut self, protocol: u8) {
        self.protocol = protocol;
        self.reserved = 0;
        self.reserved2 = 0;
    }

    /// Becomes `other`, word by word.
    #[inline(always)]
    pub const fn set(&mut self, other: &Self) {
        self.source.set(&other.source);
        self.destination.set(&other.destination);
        self.source_port = other.source_port;
        self.destination_port = other.destination_port;
        self.set_protocol(other.protocol);
    }

    /// Guards a reader of [`Connection`] against an element that the kernel
    /// gave to another key between lookup and read.
    #[inline(always)]
    #[must_use]
    pub const fn check(&self) -> u32 {
        const fn pair(high: u32, low: u32, factor: u64) -> u64 {
            ((high as u64) << 32 | low as u64).wrapping_mul(factor)
        }
        let [a, b, c, d] = self.source.words;
        let [e, f, g, h] = self.destination.words;
        let ports = (self.source_port as u32) << 16 | self.destination_port as u32;
        let sum = pair(a, b, 0x9e37_79b9_7f4a_7c15)
            .wrapping_add(pair(c, d, 0xc2b2_ae3d_27d4_eb4f))
            .wrapping_add(pair(e, f, 0x1656_67b1_9e37_79f9))
            .wrapping_add(pair(g, h, 0x85eb_ca77_c2b2_ae63))
            .wrapping_add(pair(ports, self.protocol as u32, 0x27d4_eb2f_1656_67c5));
        (sum ^ sum >> 32) as u32
    }
}

layout! {
    /// One direction of a connection: packets that match its key become
    /// `translated` and take `path`. The key of the other direction is
    /// `translated.reverse()`, and it becomes `key.reverse()`; either element
    /// holds all that the other does, so one can be made from the other.
    pub struct Connection: 112 {
        pub translated: Tuple,
        /// Backend id, and the generation that was chosen.
        pub backend: u32,
        pub generation: u32,
        pub service: u32,
        /// Interface index for [`Path::Local`]; for [`Path::Route`] that of the
        /// pod which the packets go to, if its replies come by no other.
        pub interface: u32,
        /// The same of the other direction.
        pub other_interface: u32,
        pub flags: u16,
        /// [`Path`].
        pub path: u8,
        pub other_path: u8,
        /// [`crate::Life`], packed. The client's direction holds that of the
        /// connection, the backend's [`crate::State::Open`] and when it was
        /// refreshed from here last.
        pub life: u64,
        /// [`Tuple::check`] of its own key.
        pub check: u32,
        pub reserved: u32,
        /// The way of this direction only, for [`Path::Route`].
        pub hop: Hop,
    }
}

layout! {
    /// What the routing table said last. All zero: nothing yet.
    pub struct Hop: 32 {
        /// Index of the interface that packets leave by.
        pub interface: u32,
        /// The longest IP packet that the path takes, in bytes.
        pub mtu: u16,
        /// Of [`Interface::flags`], those of that interface which count here.
        pub flags: u16,
        /// Link-layer addresses as a frame has them.
        pub destination_mac: [u16; 3],
        pub source_mac: [u16; 3],
        /// [`crate::Settings::routes`] at that time.
        pub routes: u32,
        /// When, in the lower 32 bits of the kernel's jiffies.
        pub seen: u32,
        pub reserved: u32,
    }
}

impl Hop {
    /// As [`Interface::PEER`].
    pub const PEER: u16 = Interface::PEER as u16;
    /// As [`Interface::XDP`]: XDP may send there.
    pub const XDP: u16 = Interface::XDP as u16;
    /// As [`Interface::REDIRECT`].
    pub const REDIRECT: u16 = Interface::REDIRECT as u16;

    /// Becomes `other`, word by word.
    #[inline(always)]
    pub const fn set(&mut self, other: &Self) {
        self.interface = other.interface;
        self.mtu = other.mtu;
        self.flags = other.flags;
        self.destination_mac[0] = other.destination_mac[0];
        self.destination_mac[1] = other.destination_mac[1];
        self.destination_mac[2] = other.destination_mac[2];
        self.source_mac[0] = other.source_mac[0];
        self.source_mac[1] = other.source_mac[1];
        self.source_mac[2] = other.source_mac[2];
        self.routes = other.routes;
        self.seen = other.seen;
        self.reserved = other.reserved;
    }
}

impl Connection {
    /// From the backend to the client.
    pub const REPLY: u16 = 1;
    /// Replies are translated where they leave towards the client; without
    /// it, where they enter.
    pub const AT_EGRESS: u16 = 2;
    /// To no frontend: the client talks to a backend itself, from a port that
    /// it uses towards a frontend as well.
    pub const DIRECT: u16 = 4;

    /// Key and value of the other direction. Its life is the same.
    #[must_use]
    pub fn mirror(&self, key: &Tuple) -> (Tuple, Self) {
        let mut other = (Tuple::default(), Self::default());
        self.mirror_to(key, &mut other.0, &mut other.1);
        other
    }

    /// Writes key and value of the other direction, but for its way.
    #[inline(always)]
    pub const fn mirror_to(&self, key: &Tuple, other_key: &mut Tuple, other: &mut Self) {
        other_key.reverse_of(&self.translated);
        other.translated.reverse_of(key);
        other.backend = self.backend;
        other.generation = self.generation;
        other.service = self.service;
        other.interface = self.other_interface;
        other.other_interface = self.interface;
        other.flags = self.flags ^ Self::REPLY;
        other.path = self.other_path;
        other.other_path = self.path;
        other.life = self.life;
        other.check = other_key.check();
        other.reserved = 0;
    }
}

layout! {
    /// A packet that comes in parts (RFC 791, section 3.2; RFC 8200, section
    /// 4.5).
    pub struct FragmentKey: 40 {
        pub source: Address,
        pub destination: Address,
        /// As it lies in the header.
        pub id: u32,
        /// IP protocol number; for IPv6, whose later parts do not say it, that of
        /// the fragment header.
        pub protocol: u32,
    }
}

layout! {
    /// What the first part of a packet says of the others.
    pub struct Fragment: 12 {
        /// Both ports are 0 for a packet that has none.
        pub source_port: u16,
        pub destination_port: u16,
        /// IP protocol number of what the packet carries.
        pub protocol: u32,
        /// The kernel's jiffies, the lower 32 bits.
        pub seen: u32,
    }
}

/// Where a packet goes once it is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
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

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Tuple {
        Tuple {
            source: Address::v4(0x0100_000a),
            destination: Address::v4(0x0100_600a),
            source_port: 40_000_u16.to_be(),
            destination_port: 80_u16.to_be(),
            protocol: 6,
            reserved: 0,
            reserved2: 0,
        }
    }

    #[test]
    fn a_mirrored_mirror_is_the_connection() {
        let key = key();
        let connection = Connection {
            translated: Tuple {
                destination: Address::v4(0x0200_000a),
                destination_port: 8080_u16.to_be(),
                ..key
            },
            backend: 1,
            generation: 2,
            service: 3,
            interface: 4,
            other_interface: 5,
            flags: Connection::AT_EGRESS,
            path: Path::Route as u8,
            other_path: Path::Local as u8,
            life: 6,
            check: key.check(),
            reserved: 0,
            hop: Hop::default(),
        };
        let (reply_key, reply) = connection.mirror(&key);
        assert_eq!(reply_key, connection.translated.reverse());
        assert_eq!(reply.translated, key.reverse());
        assert_eq!(reply.flags, Connection::AT_EGRESS | Connection::REPLY);
        assert_eq!((reply.path, reply.interface), (Path::Local as u8, 5));
        assert_eq!(reply.mirror(&reply_key), (key, connection));
    }

    #[test]
    fn check_tells_keys_apart() {
        let key = key();
        let keys = [
            key,
            key.reverse(),
            Tuple {
                source_port: 40_001_u16.to_be(),
                ..key
            },
            Tuple {
                protocol: 17,
                ..key
            },
            Tuple {
                source: Address::v4(0x0101_000a),
                ..key
            },
        ];
        for (i, a) in keys.iter().enumerate() {
            for b in &keys[i + 1..] {
                assert_ne!(a.check(), b.check(), "{a:?} {b:?}");
            }
        }
    }
}

//! What the agent tells the dataplane: frontends, their backends, interfaces.

use crate::{address::Address, layout::layout, lifecycle::TIMEOUTS};

layout! {
    /// Exact match of a packet's destination.
    pub struct FrontendKey: 20 {
        pub address: Address,
        pub port: u16,
        /// IP protocol number.
        pub protocol: u8,
        pub reserved: u8,
    }
}

impl FrontendKey {
    /// What stands for every port and protocol of an address that no frontend
    /// of its own serves.
    #[inline(always)]
    #[must_use]
    pub const fn any_port(address: Address) -> Self {
        Self {
            address,
            port: 0,
            protocol: 0,
            reserved: 0,
        }
    }

    /// What says that echo requests to an address of the IP protocol `version`
    /// 4 or 6 are answered for it.
    #[inline(always)]
    #[must_use]
    pub const fn echo(address: Address, version: u8) -> Self {
        Self {
            protocol: match version {
                4 => Self::ICMP,
                _ => Self::ICMPV6,
            },
            ..Self::any_port(address)
        }
    }

    const ICMP: u8 = 1;
    const ICMPV6: u8 = 58;

    /// Guards a reader of [`Frontend`] against a hash element that the kernel
    /// gave to another key between lookup and read.
    #[inline(always)]
    #[must_use]
    pub const fn check(&self) -> u32 {
        let [a, b, c, d] = self.address.words;
        a ^ b.rotate_left(8)
            ^ c.rotate_left(16)
            ^ d.rotate_left(24)
            ^ ((self.port as u32) << 8 | self.protocol as u32)
    }
}

layout! {
    /// A frontend: its two backend sets, and what goes for new connections.
    ///
    /// A hash element may be rewritten while a program reads it. Each set is
    /// one aligned 8-byte word, so it is read whole; `check` lies below the
    /// rest and is read after it, so what is another key's is noticed.
    pub struct Frontend: 40 {
        /// [`FrontendKey::check`] of its own key.
        pub check: u32,
        pub service: u32,
        /// [`Slice`] for pods and the node itself, packed.
        pub inside: u64,
        /// [`Slice`] for everyone else, packed.
        pub outside: u64,
        /// Clients keep their backend for this long after their last new
        /// connection; 0 if they do not.
        pub affinity_seconds: u32,
        /// [`NetworkKey::set`] of the sources that are let in; 0 if all are.
        pub sources: u32,
        pub flags: u32,
        pub reserved: u32,
    }
}

impl Frontend {
    /// Backends see this node's address instead of the client's.
    pub const MASQUERADE: u32 = 1;
    /// Not a frontend but a backend itself.
    pub const ENDPOINT: u32 = 2;
}

/// A contiguous run of backend slots, ids in ascending order. An empty one says
/// in its base what becomes of the packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slice {
    pub base: u32,
    pub count: u32,
}

impl Slice {
    /// There is no usable backend anywhere: the client is told.
    pub const REJECT: Self = Self { base: 0, count: 0 };
    /// The traffic policy leaves none: the packet is dropped.
    pub const DROP: Self = Self { base: 1, count: 0 };

    #[inline(always)]
    #[must_use]
    pub const fn pack(self) -> u64 {
        (self.count as u64) << 32 | self.base as u64
    }

    #[inline(always)]
    #[must_use]
    pub const fn unpack(word: u64) -> Self {
        Self {
            base: word as u32,
            count: (word >> 32) as u32,
        }
    }
}

layout! {
    /// A backend of one service port, found by its id. Address, port and
    /// service never change within a generation.
    pub struct Backend: 32 {
        pub address: Address,
        pub port: u16,
        pub flags: u8,
        pub reserved: u8,
        /// Raised when the id is retired; a connection that remembers another
        /// generation has outlived its backend.
        pub generation: u32,
        pub service: u32,
        pub reserved2: u32,
    }
}

impl Backend {
    /// On this node: reached without leaving it.
    pub const LOCAL: u8 = 1;
    /// The id is taken. Array maps hold zeros for what was never written.
    pub const ALIVE: u8 = 2;
}

layout! {
    /// An interface that programs are attached to, by interface index.
    pub struct Interface: 48 {
        /// [`InterfaceKind`].
        pub kind: u32,
        pub flags: u32,
        /// Its hardware address in three words as they lie in a frame, and a
        /// word of zero; all zero if it has none.
        pub mac: [u16; 4],
        /// Source of SNAT out of this interface: its own address, else the
        /// node's; zero if there is none.
        pub v4: Address,
        pub v6: Address,
    }
}

impl Interface {
    /// XDP frames go out by redirect, even where they came in: a veth wakes
    /// its peer after `XDP_TX` only if that runs an XDP program too.
    pub const REDIRECT: u32 = 1;
    /// XDP runs here, before TC.
    pub const XDP: u32 = 2;
    /// What leaves here has passed the egress hook of a bridge.
    pub const PORT: u32 = 4;
    /// `bpf_redirect_peer` reaches its other end, and nothing on this end has
    /// a say in what passes.
    pub const PEER: u32 = 8;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum InterfaceKind {
    /// Towards other nodes and the world.
    Uplink = 1,
    /// The host end of a pod's interface.
    Pod = 2,
    /// Holds addresses of the node, carries none of the above.
    Local = 3,
}

layout! {
    /// Data of a longest-prefix key: a network is in a set if the map holds the
    /// set's 32 bits and those of the network's prefix.
    pub struct NetworkKey: 20 {
        pub set: u32,
        /// Network byte order, so bits come as they are written.
        pub address: Address,
    }
}

impl NetworkKey {
    /// [`Self::set`] of the networks that pods are in.
    pub const PODS: u32 = 1;
    /// [`Self::set`] of the networks that clusterIPs are taken from.
    pub const SERVICES: u32 = 2;
    /// The first [`Self::set`] for [`Frontend::sources`].
    pub const FIRST_SOURCES: u32 = 16;
    /// Prefix length that matches one address.
    pub const WHOLE: u32 = 32 + 128;
}

layout! {
    /// What goes for all Services.
    pub struct Settings: 184 {
        /// Every clusterIP and every network of [`NetworkKey::SERVICES`]
        /// equals `covers` where `masks` has ones: IPv4, then IPv6. Packets
        /// to elsewhere need no closer look.
        pub covers: [Address; 2],
        pub masks: [Address; 2],
        /// [`PodDetection`].
        pub pods: u32,
        /// Assured connections that a Service may have.
        pub connection_quota: u32,
        /// In jiffies, by [`crate::lifecycle::timeout_index`].
        pub timeouts: [u32; TIMEOUTS],
        /// Jiffies in a second.
        pub second: u32,
        /// 1 if a new connection may take the shortcut past the node's stack,
        /// and with it past what filters there; else 0.
        pub shortcut: u32,
        /// Another number whenever routes or neighbours may have changed: what
        /// connections remember of them is outdated.
        pub routes: u32,
        pub reserved: u32,
    }
}

layout! {
    /// What one Service holds, by [`Frontend::service`].
    pub struct Holdings: 16 {
        /// Assured connections.
        pub connections: u64,
        /// Times that a connection was not assured, for the quota or for want
        /// of room in the table.
        pub refused: u64,
    }
}

impl Holdings {
    /// The number that connections to no frontend count for.
    pub const NO_SERVICE: u32 = u32::MAX;
}

/// What makes a client a pod, for traffic policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum PodDetection {
    /// Nothing does.
    None = 0,
    /// Its packets enter by a pod's interface.
    Interface = 1,
    /// Its address is in [`NetworkKey::PODS`].
    Network = 2,
}

layout! {
    /// A client of a service port.
    pub struct ClientKey: 20 {
        pub client: Address,
        /// [`Frontend::service`].
        pub service: u32,
    }
}

layout! {
    /// The backend that a client had last.
    pub struct Affinity: 16 {
        /// When, in nanoseconds of `CLOCK_MONOTONIC_COARSE`.
        pub last_used: u64,
        /// Backend id, and its generation then.
        pub backend: u32,
        pub generation: u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slice_packs_both_ways() {
        for slice in [
            Slice { base: 0, count: 0 },
            Slice {
                base: u32::MAX,
                count: 1,
            },
            Slice {
                base: 7,
                count: u32::MAX,
            },
        ] {
            assert_eq!(Slice::unpack(slice.pack()), slice);
        }
    }

    #[test]
    fn check_tells_keys_apart() {
        let key = |address, port: u16, protocol| FrontendKey {
            address: Address::v4(address),
            port: port.to_be(),
            protocol,
            reserved: 0,
        };
        let keys = [
            key(1, 80, 6),
            key(2, 80, 6),
            key(1, 81, 6),
            key(1, 80, 17),
            key(1 << 8, 80, 6),
        ];
        for (i, a) in keys.iter().enumerate() {
            for b in &keys[i + 1..] {
                assert_ne!(a.check(), b.check(), "{a:?} {b:?}");
            }
        }
    }
}

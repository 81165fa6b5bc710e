//! Layouts shared by the eBPF programs and the agent: the keys and values of
//! every map, the verdicts, and the checksum arithmetic.
//!
//! All addresses are `[u32; 4]` in network byte order, IPv4 ones mapped into
//! IPv6 (RFC 4291, section 2.5.5.2). All ports are `u16` in network byte order.
//! Every layout is `repr(C)` without implicit padding and of an asserted size.

#![cfg_attr(not(test), no_std)]

pub mod address;
pub mod checksum;
pub mod collection;
pub mod connection;
pub mod crc32c;
pub mod floor;
pub mod known;
mod layout;
pub mod lifecycle;
pub mod maps;
pub mod ports;
pub mod service;
pub mod sets;
pub mod verdict;

pub use address::Address;
pub use connection::{Connection, Fragment, FragmentKey, Hop, Path, Tuple};
pub use lifecycle::{Life, Signal, State};
pub use service::{
    Affinity, Backend, ClientKey, Frontend, FrontendKey, Holdings, Interface, InterfaceKind,
    NetworkKey, PodDetection, Settings, Slice,
};
pub use verdict::{Hook, Verdict};

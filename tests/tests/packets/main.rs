//! Single frames through the loaded programs (BPF_PROG_TEST_RUN): verdict,
//! return code, and every byte of what comes out.

#![expect(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

mod backends;
mod chained;
mod collection;
mod connections;
mod direct;
mod drops;
mod expiry;
mod forgeries;
mod fragments;
mod fragments_early;
mod fragments_odd;
mod halves;
mod headers;
mod headers_lengths;
mod icmp;
mod icmp_echo;
mod icmp_told;
mod icmp_untouched;
mod known;
mod lifecycle;
mod line;
mod paths;
mod ports;
mod refusals;
mod rig;
mod room;
mod sets;
mod shapes;
mod shortcuts;
mod tables;
mod untouched;
mod ways;

use std::net::SocketAddr;

use lb_tests::{
    lab::{Family, Pair, Protocol},
    packet::{
        frame::{self, SYN, Transport},
        wiring,
    },
};

/// Both families and protocols.
fn kinds() -> impl Iterator<Item = (Family, Protocol)> {
    let families = Family::ALL.into_iter();
    families.flat_map(|family| Protocol::ALL.map(|protocol| (family, protocol)))
}

fn socket(at: Pair, family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(at.get(family), port)
}

/// What the first packet of a connection carries.
fn first(protocol: Protocol) -> Transport {
    match protocol {
        Protocol::Tcp => Transport::Tcp(SYN),
        Protocol::Udp => Transport::Udp,
    }
}

/// What a later one carries.
fn later(protocol: Protocol, flags: u8) -> Transport {
    match protocol {
        Protocol::Tcp => Transport::Tcp(flags),
        Protocol::Udp => Transport::Udp,
    }
}

//! Where packets meet a program, with interface numbers.

use std::collections::BTreeMap;

use lb_common::Hook;

use crate::packet::{Place, at};

const fn forwarded(interface: &'static str, origin: &'static str) -> Place {
    Place {
        hook: Hook::TcEgress,
        interface,
        origin: Some(origin),
    }
}

pub(crate) const PLACES: [Place; 14] = [
    at(Hook::Xdp, "up0"),
    at(Hook::Xdp, "up1"),
    at(Hook::TcIngress, "up0"),
    at(Hook::TcIngress, "up1"),
    at(Hook::TcIngress, "pod0"),
    at(Hook::TcIngress, "pod1"),
    at(Hook::TcIngress, "lo"),
    at(Hook::TcEgress, "up0"),
    at(Hook::TcEgress, "up1"),
    at(Hook::TcEgress, "pod0"),
    at(Hook::TcEgress, "pod1"),
    at(Hook::TcEgress, "lo"),
    forwarded("up0", "pod0"),
    forwarded("pod0", "up0"),
];

/// The heads of struct xdp_md and struct __sk_buff (linux/bpf.h) for a frame at
/// the place.
pub(crate) fn context(place: Place, indices: &BTreeMap<String, u32>, length: usize) -> Vec<u8> {
    let index = |name: &str| indices.get(name).copied().unwrap_or_default();
    let interface = index(place.interface);
    let origin = place.origin.map_or(0, index);
    let words: &[u32] = match place.hook {
        Hook::Xdp => &[0, length as u32, 0, interface, 0, 0],
        Hook::TcIngress => &[0, 0, 0, 0, 0, 0, 0, 0, 0, interface, interface, 0],
        Hook::TcEgress => &[0, 0, 0, 0, 0, 0, 0, 0, 0, origin, interface, 0],
    };
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

//! Where packets meet a program, with interface numbers.

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

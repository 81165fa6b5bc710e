//! How a packet leaves the node.

use lb_common::{Hook, Verdict};

use super::{
    Step,
    connections::{Connection, Path, Way},
    parse::Part,
    plan::Opening,
    rewrite::rewrite,
    routes::{MTU, Route},
};
use crate::{
    fuzz::{flow::Flow, node::Outcome, world::SCTP},
    packet::action::{TC_PASS, TC_REDIRECT, XDP_PASS, XDP_REDIRECT, XDP_TX},
};

/// Translates a packet and sends it the way its connection goes.
pub(super) fn send(
    at: &Opening<'_>,
    connection: &Connection,
    way: Way,
    verdict: Verdict,
) -> Step<Outcome> {
    let (path, translated) = (connection.path(way), connection.becomes(way));
    let exit = prepare(at, path, &translated)?;
    let ports = |flow: &Flow| [flow.source.port(), flow.destination.port()];
    let changes_ports = ports(&at.parsed.flow) != ports(&translated);
    let is_sctp = at.parsed.flow.protocol == SCTP;
    if at.parsed.part == Part::First && is_sctp && changes_ports {
        // The checksum covers what other parts hold.
        return Err(Verdict::FragmentLost);
    }
    let bytes = rewrite(at.frame, at.parsed, &translated, exit.is_hop);
    let (action, bytes) = leave_by(at, path, exit, bytes);
    Ok(Outcome {
        verdict,
        action,
        bytes,
    })
}

/// How a packet leaves.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Exit {
    pub(super) is_hop: bool,
    /// Interface, and the addresses of the frame, where they are known.
    link: Option<(&'static str, [[u8; 6]; 2])>,
}

pub(super) fn prepare(at: &Opening<'_>, path: Path, translated: &Flow) -> Step<Exit> {
    match path {
        Path::Bounce | Path::Local if at.place.hook == Hook::Xdp => Err(Verdict::Deferred),
        Path::Stack | Path::Bounce | Path::Local => Ok(Exit::default()),
        Path::Route => {
            let Route::Out { interface, macs } = at.route(translated) else {
                return Err(Verdict::NoRoute);
            };
            if at.parsed.length > MTU {
                return Err(Verdict::TooBig);
            }
            if !at.can_send(interface, macs.is_some()) {
                return Err(Verdict::Deferred);
            }
            let is_hop = at.place.hook != Hook::TcEgress;
            if is_hop && at.parsed.hops <= 1 {
                return Err(Verdict::TimeExceeded);
            }
            let link = macs.map(|macs| (interface, macs));
            Ok(Exit { is_hop, link })
        }
    }
}

pub(super) fn leave_by(at: &Opening<'_>, path: Path, exit: Exit, bytes: Vec<u8>) -> (i32, Vec<u8>) {
    let is_xdp = at.place.hook == Hook::Xdp;
    match (path, exit.link) {
        (Path::Stack, _) if is_xdp => (XDP_PASS, bytes),
        (Path::Stack, _) => (TC_PASS, bytes),
        (Path::Bounce, _) => bounce(at, bytes),
        (Path::Route, Some((interface, macs))) => transmit(at, interface, macs, bytes),
        (Path::Route | Path::Local, _) => (TC_REDIRECT, bytes),
    }
}

fn transmit(
    at: &Opening<'_>,
    interface: &str,
    macs: [[u8; 6]; 2],
    mut bytes: Vec<u8>,
) -> (i32, Vec<u8>) {
    bytes[..12].copy_from_slice(macs.as_flattened());
    let action = match at.place.hook {
        Hook::Xdp => leave(at, interface),
        Hook::TcIngress | Hook::TcEgress => TC_REDIRECT,
    };
    (action, bytes)
}

/// Back to where it came from.
pub(super) fn bounce(at: &Opening<'_>, mut bytes: Vec<u8>) -> (i32, Vec<u8>) {
    if at.place.hook == Hook::TcEgress && at.place.interface == "lo" {
        return (TC_PASS, bytes);
    }
    let (to, from) = bytes[..12].split_at_mut(6);
    to.swap_with_slice(from);
    match at.place.hook {
        Hook::Xdp => (leave(at, at.place.interface), bytes),
        Hook::TcIngress | Hook::TcEgress => (TC_REDIRECT, bytes),
    }
}

/// A veth takes frames by redirect, even back; `up0` is one.
fn leave(at: &Opening<'_>, interface: &str) -> i32 {
    match interface == at.place.interface && interface != "up0" {
        true => XDP_TX,
        false => XDP_REDIRECT,
    }
}

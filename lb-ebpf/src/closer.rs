//! Packets that are more than a network and a transport header: fragments, and
//! those with IPv6 extension headers.

use lb_common::Verdict;

use crate::{
    family::{Family, Part},
    fragments,
    headers::{Shape, checked_network, transport},
    packet::{Outcome, Step, end},
    scratch::{self, Scratch},
    subprograms::Subprograms,
};

/// How far from its begin a frame is searched for headers, in bytes, where that
/// has a cost.
const REACH: u32 = 1024;

/// Leaves headers in the scratch that look like any other packet's.
#[inline(always)]
pub(crate) fn look_closer<P: Subprograms, F: Family>(packet: &P, network: u32) -> Step<Outcome> {
    let offset = checked_network(network);
    let scratch = scratch::get()?;
    let Scratch { tuple, shape, .. } = scratch;
    if F::is_extension(tuple.protocol) {
        packet.reveal(REACH);
    }
    let header = F::parse(packet, offset, tuple)?;
    let layers = F::look_through(packet, offset, header)?;
    tuple.set_protocol(layers.protocol);
    *shape = Shape {
        network,
        transport: layers.next as u32,
        mark: 0,
        is_first: 0,
        is_later: 0,
    };
    let end = end::<P, F>(packet, offset);
    if layers.part == Part::Later {
        if layers.next > end? {
            return Err(Verdict::Malformed);
        }
        shape.is_later = match packet.is_back() {
            true => Shape::LATER_AGAIN,
            false => Shape::LATER,
        };
        return match fragments::recall(packet, scratch, &layers)? {
            Some(outcome) => Ok(outcome),
            None => Err(Verdict::Opened),
        };
    }
    let mark = end.and_then(|end| transport(packet, layers.next, end, tuple));
    if layers.part == Part::First {
        shape.is_first = 1;
        if mark.is_err() {
            // Nobody is to wait for ports.
            (tuple.source_port, tuple.destination_port) = (0, 0);
        }
        if let Some(outcome) = fragments::remember(packet, scratch, &layers)? {
            return Ok(outcome);
        }
    }
    scratch.shape.mark = mark?;
    Err(Verdict::Opened)
}

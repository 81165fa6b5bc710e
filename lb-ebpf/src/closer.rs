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

/// Leaves headers in the scratch that look like any other packet's.
#[inline(always)]
pub(crate) fn look_closer<P: Subprograms, F: Family>(packet: &P, network: u32) -> Step<Outcome> {
    let offset = checked_network(network);
    let Scratch { tuple, shape, .. } = scratch::get()?;
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
    if layers.part == Part::Later {
        shape.is_later = 1;
        fragments::recall(packet, tuple, layers.id)?;
        return Err(Verdict::Opened);
    }
    let end = end::<P, F>(packet, offset)?;
    shape.mark = transport(packet, layers.next, end, tuple)?;
    shape.is_first = (layers.part == Part::First).into();
    if layers.part == Part::First
        && let Some(outcome) = fragments::remember(packet, tuple, layers.id)?
    {
        return Ok(outcome);
    }
    Err(Verdict::Opened)
}

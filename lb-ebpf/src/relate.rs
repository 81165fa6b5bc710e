//! ICMP errors about packets of connections.

use lb_common::Verdict;

use crate::{
    family::Family,
    packet::{Outcome, Step},
    subprograms::Subprograms,
};

#[inline(always)]
pub(crate) fn relate<P: Subprograms, F: Family>(_packet: &P, _network: u32) -> Step<Outcome> {
    Err(Verdict::OtherProtocol)
}

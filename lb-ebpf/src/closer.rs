//! Fragments, and packets with IPv6 extension headers.

use lb_common::Verdict;

use crate::{
    family::Family,
    packet::{Outcome, Step},
    subprograms::Subprograms,
};

#[inline(always)]
pub(crate) fn look_closer<P: Subprograms, F: Family>(_packet: &P, _network: u32) -> Step<Outcome> {
    Err(Verdict::Fragment)
}

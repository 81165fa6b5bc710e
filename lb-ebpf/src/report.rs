//! ICMP errors (RFC 792; RFC 4443, section 3).

use lb_common::Verdict;

use crate::{
    answer::{send_back, sum},
    family::Family,
    headers::Headers,
    icmp,
    packet::{Packet, Step, end},
    scratch::Answer,
};

/// What a packet's sender is told.
pub(crate) struct Message {
    /// Type and code.
    pub(crate) kind: (u8, u8),
    /// As in [`icmp::Header`].
    pub(crate) rest: u32,
}

/// Puts an error about a packet in its place.
#[inline(always)]
pub(crate) fn report<P: Packet, F: Family>(
    packet: &P,
    headers: &Headers<'_>,
    message: &Message,
    answer: &mut Answer,
) -> Step<()> {
    /// Of the packet's own transport header (RFC 792).
    const LEAST: usize = 8;

    let network = headers.shape.network as usize;
    let whole = end::<P, F>(packet, network)? - network;
    if whole < (headers.shape.transport - headers.shape.network) as usize + LEAST {
        return Err(Verdict::Malformed);
    }
    // Whole words, which is what the checksum helper takes.
    let quote = whole.min(F::QUOTE) as u32 & !3;
    packet.load(
        headers.shape.network as usize,
        answer.at(F::HEADER + icmp::HEADER),
        quote,
        F::QUOTE as u32,
    )?;
    // SAFETY: the buffer is aligned to 4 and far longer.
    let header = unsafe { &mut *answer.at::<icmp::Header>(F::HEADER) };
    *header = icmp::Header {
        kind: message.kind.0,
        code: message.kind.1,
        checksum: 0,
        rest: message.rest,
    };
    let length = icmp::HEADER as u32 + quote;
    let sum = sum(answer, F::HEADER, length)?;
    let sum = match F::HAS_CHECKSUM {
        true => sum,
        false => sum.and(F::pseudo_sum(headers.tuple, F::PROTOCOL, length)),
    };
    header.checksum = !sum.fold();
    send_back::<P, F>(packet, headers, answer, F::PROTOCOL, length)
}

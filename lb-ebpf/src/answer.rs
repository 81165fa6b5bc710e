//! Answers to packets that go no further: a TCP reset, or an ICMP error.

use core::ptr;

use aya_ebpf::helpers::bpf_csum_diff;
use lb_common::{Hook, Tuple, Verdict, checksum::Delta};

use crate::{
    family::Family,
    headers::{Headers, TCP},
    interfaces,
    limit::is_due,
    packet::{Outcome, Packet, Step, at, bounded},
    report::{Message, report},
    reset::reset,
    scratch::{self, Answer},
};

/// Turns the packet whose headers are in the scratch into the answer, and
/// sends it back.
#[inline(always)]
pub(crate) fn answer<P: Packet, F: Family>(packet: &P, why: u32) -> Step<Outcome> {
    const TIME_EXCEEDED: u32 = Verdict::TimeExceeded as u32;
    const TOO_BIG: u32 = Verdict::TooBig as u32;

    let scratch = scratch::get()?;
    let (tuple, shape) = (&mut scratch.tuple, scratch.shape.checked());
    if shape.is_later != 0 || !is_answerable(packet, tuple)? || !is_due(&tuple.source) {
        return Err(Verdict::Unanswered);
    }
    let (verdict, message) = match why {
        TIME_EXCEEDED => {
            let message = Message {
                kind: F::TIME_EXCEEDED,
                rest: 0,
            };
            (Verdict::TimeExceeded, Some(message))
        }
        TOO_BIG => {
            let message = Message {
                kind: F::TOO_BIG,
                rest: scratch.work.route.mtu().to_be(),
            };
            (Verdict::TooBig, Some(message))
        }
        _ => {
            let message = Message {
                kind: F::UNREACHABLE,
                rest: 0,
            };
            let is_tcp = tuple.protocol == TCP;
            (Verdict::Rejected, (!is_tcp).then_some(message))
        }
    };
    // A node takes nothing from its own addresses that comes in.
    if why != Verdict::Rejected as u32 && !matches!(P::HOOK, Hook::TcEgress) {
        speak_for_this_node::<P, F>(packet, tuple)?;
    }
    let headers = &Headers { tuple, shape };
    let answer = &mut scratch.answer;
    match message {
        Some(message) => report::<P, F>(packet, headers, &message, answer)?,
        None => reset::<P, F>(packet, headers, answer)?,
    }
    Ok(Outcome::new(verdict, packet.bounce()?))
}

/// RFC 1122, section 3.2.2: neither to groups nor from what is no host.
#[inline(always)]
pub(crate) fn is_answerable<P: Packet>(packet: &P, tuple: &Tuple) -> Step<bool> {
    if !tuple.source.is_unicast() || !tuple.destination.is_unicast() {
        return Ok(false);
    }
    if matches!(P::HOOK, Hook::TcEgress) {
        return Ok(true);
    }
    // SAFETY: `at` has checked the bounds.
    let [first, ..] = unsafe { *at::<[u8; 6]>(packet, 0)? };
    let group = first & 1 != 0;
    // What arrives with an address of this node is forged.
    let forged = tuple.source.is_loopback() || interfaces::owner(&tuple.source).is_some();
    Ok(!group && !forged)
}

/// Has the answer come from the address of the interface that the packet came
/// in by, as from any router, not from where the packet was going.
#[inline(always)]
fn speak_for_this_node<P: Packet, F: Family>(packet: &P, tuple: &mut Tuple) -> Step<()> {
    let entering = interfaces::interface(packet.interface()).ok_or(Verdict::Unanswered)?;
    let own = F::source(entering);
    if own.is_zero() {
        return Err(Verdict::Unanswered);
    }
    tuple.destination.set(&own);
    Ok(())
}

/// Puts a network header before `length` bytes of the answer, and all of it in
/// the packet's place.
#[inline(always)]
pub(crate) fn send_back<P: Packet, F: Family>(
    packet: &P,
    headers: &Headers<'_>,
    answer: &mut Answer,
    protocol: u8,
    length: u32,
) -> Step<()> {
    F::write_answer(answer, headers.tuple, protocol, length);
    let whole = F::HEADER as u32 + length;
    packet.resize(headers.shape.network + whole)?;
    packet.store(
        headers.shape.network as usize,
        answer.at(0),
        whole,
        Answer::SIZE as u32,
    )
}

/// The one's complement sum of `length` bytes, a multiple of 4.
#[inline(always)]
pub(crate) fn sum(answer: &Answer, offset: usize, length: u32) -> Step<Delta> {
    let mut sum = 0;
    for index in 0..Answer::CHUNKS {
        let done = index * Answer::CHUNK;
        let chunk = length.saturating_sub(done).min(Answer::CHUNK);
        if chunk == 0 {
            break;
        }
        let chunk = bounded(chunk, Answer::CHUNK)?;
        let from = answer.at_const::<u32>(offset + done as usize);
        // SAFETY: the buffer holds the chunk.
        let added = unsafe { bpf_csum_diff(ptr::null_mut(), 0, from.cast_mut(), chunk, sum) };
        if added < 0 {
            return Err(Verdict::Refused);
        }
        sum = added as u32;
    }
    Ok(Delta::new().sum(sum))
}

//! Answers to packets that nobody serves: a TCP reset (RFC 9293, section
//! 3.10.7.1), or ICMP port unreachable (RFC 792; RFC 4443, section 3.1).

use core::ptr;

use aya_ebpf::{
    btf_maps::PerCpuArray,
    helpers::{bpf_csum_diff, bpf_ktime_get_coarse_ns},
    macros::btf_map,
};
use lb_common::{Address, Hook, Tuple, Verdict, checksum::Delta, lifecycle::tcp};

use crate::{
    family::Family,
    headers::{Headers, TCP},
    icmp, interfaces,
    packet::{Outcome, Packet, Step, at, bounded},
    scratch::{self, Answer},
    xdp::TCP_CHECKSUM,
};

/// The earliest time at which a client of this bucket has used up what it may
/// ask for, in nanoseconds.
#[btf_map]
static REFUSALS: PerCpuArray<u64, { BUCKETS as usize }> = PerCpuArray::new();

/// Clients share these by a hash of their address.
const BUCKETS: u32 = 256;
/// One answer a millisecond for each bucket and CPU, 100 at once.
const INTERVAL: u64 = 1_000_000;
const BURST: u64 = 100 * INTERVAL;

/// The longest options of an IPv4 header, in bytes.
const OPTIONS: usize = 40;

/// RFC 9293, section 3.1.
#[repr(C)]
struct TcpHeader {
    source_port: u16,
    destination_port: u16,
    sequence: u32,
    acknowledgment: u32,
    /// Header length in words of 4 bytes, in the upper half.
    offset: u8,
    flags: u8,
    window: u16,
    checksum: u16,
    urgent: u16,
}

#[repr(C)]
struct Reset {
    header: TcpHeader,
    data: [u32; OPTIONS / 4],
}

const _: () = assert!(size_of::<TcpHeader>() == 20);

/// Turns the packet whose headers are in the scratch into the answer, and
/// sends it back.
#[inline(always)]
pub(crate) fn refuse<P: Packet, F: Family>(packet: &P) -> Step<Outcome> {
    let scratch = scratch::get()?;
    let headers = &Headers {
        tuple: &scratch.tuple,
        shape: scratch.shape.checked(),
    };
    let answer = &mut scratch.answer;
    if !is_answerable(packet, headers.tuple)? || !is_due(&headers.tuple.source) {
        return Err(Verdict::Unanswered);
    }
    if headers.tuple.protocol == TCP {
        reset::<P, F>(packet, headers, answer)?;
    } else {
        unreachable::<P, F>(packet, headers, answer)?;
    }
    Ok(Outcome::new(Verdict::Rejected, packet.bounce()?))
}

/// RFC 1122, section 3.2.2: neither to groups nor from what is no host.
#[inline(always)]
fn is_answerable<P: Packet>(packet: &P, tuple: &Tuple) -> Step<bool> {
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

/// Whether the client may have one more answer now.
#[inline(always)]
fn is_due(client: &Address) -> bool {
    let [a, b, c, d] = client.words;
    let hash = (a ^ b ^ c ^ d).wrapping_mul(0x9e37_79b1) >> (32 - BUCKETS.ilog2());
    let Some(bucket) = REFUSALS.get_ptr_mut(hash) else {
        return false;
    };
    // SAFETY: the helper has no precondition.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    // SAFETY: the element belongs to this CPU, and programs of these hooks do
    // not interrupt each other.
    let used_until = unsafe { &mut *bucket };
    if *used_until > now + BURST {
        return false;
    }
    *used_until = now.max(*used_until) + INTERVAL;
    true
}

#[inline(always)]
fn reset<P: Packet, F: Family>(packet: &P, headers: &Headers<'_>, answer: &mut Answer) -> Step<()> {
    // SAFETY: `at` has checked the bounds.
    let asked = unsafe { &*at::<TcpHeader>(packet, headers.shape.transport as usize)? };
    let length = F::length(packet, headers.shape.network as usize)? as u32;
    let before_data =
        headers.shape.transport - headers.shape.network + u32::from(asked.offset >> 4) * 4;
    let data = length.saturating_sub(before_data);
    let acknowledgment = u32::from_be(asked.sequence).wrapping_add(1 + data);

    let segment = TcpHeader {
        source_port: headers.tuple.destination_port,
        destination_port: headers.tuple.source_port,
        sequence: 0,
        acknowledgment: acknowledgment.to_be(),
        offset: 5 << 4,
        flags: tcp::RST | tcp::ACK,
        window: 0,
        checksum: 0,
        urgent: 0,
    };
    // In place of IP options there is data, zeros: the kernel does not cut into
    // a header whose checksum a device is to complete (RFC 1122, section
    // 4.2.2.12, lets a reset carry data).
    let options = (headers.shape.transport - headers.shape.network) as usize - F::HEADER;
    if options > OPTIONS {
        return Err(Verdict::Unanswered);
    }
    let length = (size_of::<TcpHeader>() + options) as u32;
    let pseudo = F::pseudo_sum(headers.tuple, TCP, length);
    let reset = Reset {
        header: segment,
        data: [0; OPTIONS / 4],
    };
    // SAFETY: the buffer is aligned to 4 and far longer.
    unsafe { *answer.at(F::HEADER) = reset };
    let body = sum(answer, F::HEADER, length)?;
    // SAFETY: as above.
    unsafe { (*answer.at::<TcpHeader>(F::HEADER)).checksum = pseudo.fold() };
    send_back::<P, F>(packet, headers, answer, TCP, length)?;
    let checksum = headers.shape.network as usize + F::HEADER + TCP_CHECKSUM;
    packet.complete_checksum(checksum, pseudo, body)
}

#[inline(always)]
fn unreachable<P: Packet, F: Family>(
    packet: &P,
    headers: &Headers<'_>,
    answer: &mut Answer,
) -> Step<()> {
    /// Of the packet's own transport header (RFC 792).
    const LEAST: usize = 8;

    let present = packet.length().saturating_sub(headers.shape.network) as usize;
    let whole = F::length(packet, headers.shape.network as usize)?.min(present);
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
        kind: F::UNREACHABLE.0,
        code: F::UNREACHABLE.1,
        checksum: 0,
        rest: 0,
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

/// Puts a network header before `length` bytes of the answer, and all of it in
/// the packet's place.
#[inline(always)]
fn send_back<P: Packet, F: Family>(
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
fn sum(answer: &Answer, offset: usize, length: u32) -> Step<Delta> {
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

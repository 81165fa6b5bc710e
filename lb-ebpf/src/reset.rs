//! Resets of TCP connections that nobody serves (RFC 9293, section 3.10.7.1).

use lb_common::{Verdict, lifecycle::tcp};

use crate::{
    answer::{send_back, sum},
    family::Family,
    headers::{Headers, TCP},
    packet::{Packet, Step, at},
    scratch::Answer,
    xdp::TCP_CHECKSUM,
};

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

/// Puts a reset in the place of a segment.
#[inline(always)]
pub(crate) fn reset<P: Packet, F: Family>(
    packet: &P,
    headers: &Headers<'_>,
    answer: &mut Answer,
) -> Step<()> {
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

//! Internet checksums, summed up over all that they cover (RFC 1071).

use std::net::IpAddr;

use crate::fuzz::flow::Flow;

/// One's complement sum, folded: 0 only if every byte is.
pub(crate) fn sum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u64;
    for part in parts {
        let mut words = part.chunks_exact(2);
        for word in &mut words {
            sum += u64::from(u16::from_be_bytes([word[0], word[1]]));
        }
        if let [last] = words.remainder() {
            sum += u64::from(*last) << 8;
        }
    }
    while sum >> 16 != 0 {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

/// The pseudo header (RFC 9293, section 3.1; RFC 8200, section 8.1) of
/// `length` bytes.
pub(crate) fn pseudo(flow: &Flow, protocol: u8, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(40);
    for end in [flow.source.ip(), flow.destination.ip()] {
        match end {
            IpAddr::V4(v4) => bytes.extend(v4.octets()),
            IpAddr::V6(v6) => bytes.extend(v6.octets()),
        }
    }
    bytes.extend((length as u32).to_be_bytes());
    bytes.extend([0, 0, 0, protocol]);
    bytes
}

/// The checksum that makes what is summed up to `rest` without it as wrong as
/// `before`, a sum that includes its own: a right one comes out right. Never
/// the complement of zero.
pub(crate) fn as_wrong_as(before: u16, rest: u16) -> u16 {
    let difference = u32::from(before) + u32::from(!rest);
    (difference % 0xffff) as u16
}

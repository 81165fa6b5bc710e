//! Packets cut into fragments (RFC 791, section 3.2; RFC 8200, section 4.5).

use std::net::SocketAddr;

use super::{
    extension::{FRAGMENT, HOP_BY_HOP, ROUTING},
    frame::{Frame, checksum},
};

/// The frames of the fragments, in order: one of each size, and one with what
/// is left. Sizes count bytes behind the headers that every fragment has, and
/// are multiples of 8. IPv4 takes the lower 16 bits of `id`.
#[must_use]
pub fn fragments(frame: &Frame, id: u32, sizes: &[usize]) -> Vec<Vec<u8>> {
    let bytes = frame.bytes();
    let (link, packet) = bytes.split_at(frame.network());
    let (header, mut left) = packet.split_at(kept(frame));
    let mut fragments = Vec::new();
    let mut offset = 0;
    for &size in sizes.iter().chain([&usize::MAX]) {
        let (data, behind) = left.split_at(size.min(left.len()));
        if data.is_empty() {
            break;
        }
        let more = !behind.is_empty();
        assert!(
            !more || size.is_multiple_of(8),
            "a fragment of {size} bytes"
        );
        let header = match frame.source {
            SocketAddr::V4(_) => v4(header, id as u16, offset, more, data.len()),
            SocketAddr::V6(_) => v6(frame, header, id, offset, more, data.len()),
        };
        fragments.push([link, &header, data].concat());
        offset += data.len();
        left = behind;
    }
    fragments
}

/// Length of the headers that every fragment has.
fn kept(frame: &Frame) -> usize {
    match frame.source {
        SocketAddr::V4(_) => 20 + frame.options,
        SocketAddr::V6(_) => 40 + unfragmentable(frame).iter().map(|x| x.1).sum::<usize>(),
    }
}

/// The extension headers that nodes on the way look at.
fn unfragmentable(frame: &Frame) -> &[(u8, usize)] {
    let looked_at = |&(kind, _): &(u8, usize)| matches!(kind, HOP_BY_HOP | ROUTING);
    let end = frame.extensions.iter().rposition(looked_at);
    &frame.extensions[..end.map_or(0, |last| last + 1)]
}

fn v4(header: &[u8], id: u16, offset: usize, more: bool, data: usize) -> Vec<u8> {
    const MORE: u16 = 0x2000;
    let field = (offset / 8) as u16 | if more { MORE } else { 0 };
    let mut header = header.to_vec();
    let length = (header.len() + data) as u16;
    header[2..4].copy_from_slice(&length.to_be_bytes());
    header[4..6].copy_from_slice(&id.to_be_bytes());
    header[6..8].copy_from_slice(&field.to_be_bytes());
    header[10..12].fill(0);
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header
}

fn v6(frame: &Frame, header: &[u8], id: u32, offset: usize, more: bool, data: usize) -> Vec<u8> {
    let mut header = header.to_vec();
    let length = (header.len() - 40 + 8 + data) as u16;
    header[4..6].copy_from_slice(&length.to_be_bytes());
    let at = match unfragmentable(frame).last() {
        Some((_, length)) => header.len() - length,
        None => 6,
    };
    let next = std::mem::replace(&mut header[at], FRAGMENT);
    header.extend([next, 0]);
    header.extend((offset as u16 | u16::from(more)).to_be_bytes());
    header.extend(id.to_be_bytes());
    header
}

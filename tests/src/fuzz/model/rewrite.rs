//! One flow's packet turned into another's.

use std::net::IpAddr;

use super::{
    parse::{Parsed, Part},
    sum::{as_wrong_as, pseudo, sum},
};
use crate::fuzz::{
    flow::Flow,
    world::{SCTP, UDP},
};

/// The frame with the ends of `new`, and one hop less if so wished.
pub(crate) fn rewrite(old: &[u8], parsed: &Parsed, new: &Flow, hop: bool) -> Vec<u8> {
    let mut frame = old.to_vec();
    set_addresses(&mut frame, parsed.network, new);
    set_hop(&mut frame, parsed, hop);
    if new.source.is_ipv4() {
        let at = parsed.network + 10;
        set(&mut frame, at, 0);
        let rest = network_sum(&frame, parsed);
        set(&mut frame, at, as_wrong_as(network_sum(old, parsed), rest));
    }
    if parsed.part == Part::Later {
        return frame;
    }
    set(&mut frame, parsed.transport, new.source.port());
    set(&mut frame, parsed.transport + 2, new.destination.port());
    match parsed.flow.protocol {
        SCTP => fix_crc(old, &mut frame, parsed),
        protocol => fix_sum(old, &mut frame, parsed, new, protocol),
    }
    frame
}

pub(crate) fn set_hop(frame: &mut [u8], parsed: &Parsed, hop: bool) {
    let hops = if parsed.flow.source.is_ipv4() { 8 } else { 7 };
    frame[parsed.network + hops] -= u8::from(hop);
}

pub(crate) fn set_addresses(frame: &mut [u8], network: usize, new: &Flow) {
    let mut put = |at: usize, bytes: &[u8]| frame[at..at + bytes.len()].copy_from_slice(bytes);
    for (index, end) in [new.source, new.destination].into_iter().enumerate() {
        match end.ip() {
            IpAddr::V4(v4) => put(network + 12 + 4 * index, &v4.octets()),
            IpAddr::V6(v6) => put(network + 8 + 16 * index, &v6.octets()),
        }
    }
}

fn fix_sum(old: &[u8], frame: &mut [u8], parsed: &Parsed, new: &Flow, protocol: u8) {
    let field = parsed.transport + if protocol == UDP { 6 } else { 16 };
    // RFC 768: zero says that there is none.
    if protocol == UDP && frame[field..field + 2] == [0, 0] {
        return;
    }
    set(frame, field, 0);
    let before = transport_sum(old, parsed, &parsed.flow);
    let sum = as_wrong_as(before, transport_sum(frame, parsed, new));
    let is_zero = protocol == UDP && sum == 0;
    set(frame, field, if is_zero { 0xffff } else { sum });
}

/// RFC 9260, appendix A. Zero stands where a device is still to work it out.
fn fix_crc(old: &[u8], frame: &mut [u8], parsed: &Parsed) {
    let field = parsed.transport + 8..parsed.transport + 12;
    let end = parsed.network + parsed.length;
    if old[field.clone()] == [0; 4] {
        return;
    }
    let right = |frame: &[u8]| {
        let mut packet = frame[parsed.transport..end].to_vec();
        packet[8..12].fill(0);
        crc32c::crc32c(&packet).to_le_bytes()
    };
    let (before, after) = (right(old), right(frame));
    for (index, byte) in frame[field].iter_mut().enumerate() {
        *byte ^= before[index] ^ after[index];
    }
}

fn network_sum(frame: &[u8], parsed: &Parsed) -> u16 {
    match parsed.flow.source.is_ipv4() {
        true => sum(&[&frame[parsed.network..parsed.transport]]),
        false => 0,
    }
}

fn transport_sum(frame: &[u8], parsed: &Parsed, flow: &Flow) -> u16 {
    let segment = &frame[parsed.transport..];
    sum(&[&pseudo(flow, flow.protocol, segment.len()), segment])
}

fn set(frame: &mut [u8], at: usize, word: u16) {
    frame[at..at + 2].copy_from_slice(&word.to_be_bytes());
}

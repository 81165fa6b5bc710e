//! One flow's packet turned into another's.

use std::net::IpAddr;

use super::{
    parse::Parsed,
    sum::{as_wrong_as, pseudo, sum},
};
use crate::fuzz::{flow::Flow, world::UDP};

/// The frame with the ends of `new`, and one hop less if so wished.
pub(crate) fn rewrite(frame: &[u8], parsed: &Parsed, new: &Flow, hop: bool) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let checksum = match parsed.flow.protocol {
        UDP => parsed.transport + 6,
        _ => parsed.transport + 16,
    };
    let network = network_sum(&frame, parsed);
    let transport = transport_sum(&frame, parsed, &parsed.flow);

    set_ends(&mut frame, parsed, new);
    if hop {
        let hops = if new.source.is_ipv4() { 8 } else { 7 };
        frame[parsed.network + hops] -= 1;
    }

    if new.source.is_ipv4() {
        let at = parsed.network + 10;
        set(&mut frame, at, 0);
        let rest = network_sum(&frame, parsed);
        set(&mut frame, at, as_wrong_as(network, rest));
    }
    let is_unsummed = frame[checksum..checksum + 2] == [0, 0];
    if parsed.flow.protocol == UDP && is_unsummed {
        return frame;
    }
    set(&mut frame, checksum, 0);
    let rest = transport_sum(&frame, parsed, new);
    let mut found = as_wrong_as(transport, rest);
    if parsed.flow.protocol == UDP && found == 0 {
        // RFC 768: zero says that there is none.
        found = 0xffff;
    }
    set(&mut frame, checksum, found);
    frame
}

fn set_ends(frame: &mut [u8], parsed: &Parsed, new: &Flow) {
    let mut put = |at: usize, bytes: &[u8]| frame[at..at + bytes.len()].copy_from_slice(bytes);
    for (index, end) in [new.source, new.destination].into_iter().enumerate() {
        match end.ip() {
            IpAddr::V4(v4) => put(parsed.network + 12 + 4 * index, &v4.octets()),
            IpAddr::V6(v6) => put(parsed.network + 8 + 16 * index, &v6.octets()),
        }
        put(parsed.transport + 2 * index, &end.port().to_be_bytes());
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

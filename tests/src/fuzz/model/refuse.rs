//! Answers to packets that nobody serves, built from scratch.

use std::net::IpAddr;

use lb_common::{Hook, Verdict};

use super::{
    parse::{Parsed, Part},
    routes::{MTU, own, owner},
    sum::{pseudo, sum},
};
use crate::{
    fuzz::{flow::Flow, world::TCP},
    packet::Place,
};

/// No frame gets shorter than this by an answer, at XDP.
const SHORTEST: usize = 60;
/// What a reset has room for in their place.
const LONGEST_OPTIONS: usize = 40;

/// Tells the sender why a packet that this node forwards goes no further.
pub(crate) fn tell(
    place: Place,
    frame: &[u8],
    parsed: &Parsed,
    why: Verdict,
) -> Result<Vec<u8>, Verdict> {
    if parsed.part == Part::Later || !is_answerable(place, parsed) {
        return Err(Verdict::Unanswered);
    }
    let (kind, rest) = match (why, parsed.flow.source.is_ipv4()) {
        (Verdict::TooBig, true) => ([3, 4], MTU as u32),
        (Verdict::TooBig, false) => ([2, 0], MTU as u32),
        (_, true) => ([11, 0], 0),
        (_, false) => ([3, 0], 0),
    };
    let asked = parsed.flow.destination.ip();
    let source = match place.hook {
        Hook::TcEgress => asked,
        Hook::Xdp | Hook::TcIngress => own(place.interface, asked),
    };
    let packet = report(frame, parsed, source, kind, rest)?;
    Ok(padded(place, frame, parsed, packet))
}

pub(crate) fn refuse(place: Place, frame: &[u8], parsed: &Parsed) -> Result<Vec<u8>, Verdict> {
    if !is_answerable(place, parsed) {
        return Err(Verdict::Unanswered);
    }
    let packet = if parsed.flow.protocol == TCP {
        if options(parsed) > LONGEST_OPTIONS {
            return Err(Verdict::Unanswered);
        }
        reset(frame, parsed)
    } else {
        unreachable(frame, parsed)?
    };
    Ok(padded(place, frame, parsed, packet))
}

fn padded(place: Place, frame: &[u8], parsed: &Parsed, packet: Vec<u8>) -> Vec<u8> {
    let mut answer = frame[..parsed.network].to_vec();
    answer.extend(packet);
    if place.hook == Hook::Xdp {
        let least = frame.len().min(SHORTEST);
        if answer.len() < least {
            answer.extend(&frame[answer.len()..least]);
        }
    }
    answer
}

/// RFC 1122, section 3.2.2.
fn is_answerable(place: Place, parsed: &Parsed) -> bool {
    let Flow {
        source,
        destination,
        ..
    } = parsed.flow;
    if !is_host(source.ip()) || !is_host(destination.ip()) {
        return false;
    }
    let is_group = parsed.mac[0] & 1 != 0;
    let is_forged = source.ip().is_loopback() || owner(source.ip()).is_some();
    place.hook == Hook::TcEgress || !is_group && !is_forged
}

fn is_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !matches!(v4.octets()[0], 0 | 224..),
        IpAddr::V6(v6) => !v6.is_multicast() && !v6.is_unspecified(),
    }
}

/// RFC 9293, section 3.10.7.1. Data of zeros takes the place of IP options.
fn reset(frame: &[u8], parsed: &Parsed) -> Vec<u8> {
    const RST_ACK: u8 = 0x14;

    let asked = &frame[parsed.transport..];
    let headers = parsed.transport - parsed.network + usize::from(asked[12] >> 4) * 4;
    let data = parsed.length.saturating_sub(headers) as u32;
    let sequence = u32::from_be_bytes([asked[4], asked[5], asked[6], asked[7]]);
    let acknowledgment = sequence.wrapping_add(1).wrapping_add(data);

    let flow = parsed.flow.reverse();
    let mut segment = Vec::new();
    segment.extend(flow.source.port().to_be_bytes());
    segment.extend(flow.destination.port().to_be_bytes());
    segment.extend([0; 4]);
    segment.extend(acknowledgment.to_be_bytes());
    segment.extend([5 << 4, RST_ACK, 0, 0, 0, 0, 0, 0]);
    segment.resize(segment.len() + options(parsed), 0);
    let total = sum(&[&pseudo(&flow, TCP, segment.len()), &segment]);
    segment[16..18].copy_from_slice(&(!total).to_be_bytes());
    packet(&flow, TCP, &segment)
}

/// RFC 792; RFC 4443, section 3.1.
fn unreachable(frame: &[u8], parsed: &Parsed) -> Result<Vec<u8>, Verdict> {
    let kind = match parsed.flow.source.is_ipv4() {
        true => [3, 3],
        false => [1, 4],
    };
    report(frame, parsed, parsed.flow.destination.ip(), kind, 0)
}

/// An error from `source` that quotes whole words.
fn report(
    frame: &[u8],
    parsed: &Parsed,
    source: IpAddr,
    [kind, code]: [u8; 2],
    rest: u32,
) -> Result<Vec<u8>, Verdict> {
    const LEAST: usize = 8;

    let asked = &frame[parsed.network..];
    let asked = &asked[..parsed.length.min(asked.len())];
    if asked.len() < parsed.transport - parsed.network + LEAST {
        return Err(Verdict::Malformed);
    }
    let mut flow = parsed.flow.reverse();
    flow.source.set_ip(source);
    let (protocol, longest) = match flow.source.is_ipv4() {
        true => (1, 576 - 20 - 8),
        false => (58, 1280 - 40 - 8),
    };
    let quoted = asked.len().min(longest) / 4 * 4;
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest.to_be_bytes());
    message.extend(&asked[..quoted]);
    let pseudo = match flow.source.is_ipv4() {
        true => Vec::new(),
        false => pseudo(&flow, protocol, message.len()),
    };
    let total = sum(&[&pseudo, &message]);
    message[2..4].copy_from_slice(&(!total).to_be_bytes());
    Ok(packet(&flow, protocol, &message))
}

fn packet(flow: &Flow, protocol: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = match (flow.source.ip(), flow.destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = vec![0x45, 0];
            header.extend((20 + body.len() as u16).to_be_bytes());
            header.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
            header.extend(source.octets());
            header.extend(destination.octets());
            let total = sum(&[&header]);
            header[10..12].copy_from_slice(&(!total).to_be_bytes());
            header
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut header = vec![0x60, 0, 0, 0];
            header.extend((body.len() as u16).to_be_bytes());
            header.extend([protocol, 64]);
            header.extend(source.octets());
            header.extend(destination.octets());
            header
        }
        _ => Vec::new(),
    };
    packet.extend(body);
    packet
}

/// Bytes between the fixed part of the IP header and the transport header.
fn options(parsed: &Parsed) -> usize {
    let fixed = if parsed.flow.source.is_ipv4() { 20 } else { 40 };
    parsed.transport - parsed.network - fixed
}

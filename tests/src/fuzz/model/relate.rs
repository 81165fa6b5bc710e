//! ICMP errors about packets of connections: both the error and what it quotes
//! become what they were on the other side of the translation.

use std::net::{IpAddr, SocketAddr};

use lb_common::{Hook, Verdict};

use super::{
    Model, Step,
    connections::{Edge, Way},
    parse::{Parsed, Quote, quoted},
    plan::Opening,
    rewrite::{set_addresses, set_hop},
    send::{leave_by, prepare},
    sum::{as_wrong_as, pseudo, sum},
};
use crate::fuzz::{
    flow::Flow,
    node::Outcome,
    world::{TCP, UDP},
};

const ICMP: u8 = 1;
const HEADER: usize = 8;
/// Unreachable, source quench, time exceeded, parameter problem.
const ERRORS: [u8; 4] = [3, 4, 11, 12];
/// Unreachable, too big, time exceeded, parameter problem (RFC 4443).
const ERRORS_V6: [u8; 4] = [1, 2, 3, 4];

impl Model<'_> {
    pub(super) fn relate(&self, at: &Opening<'_>) -> Step<Outcome> {
        let outer = at.parsed;
        let message = outer.transport;
        let header = at.frame.get(message..message + HEADER);
        let kind = header.ok_or(Verdict::Malformed)?[0];
        let errors = match outer.flow.protocol {
            ICMP => ERRORS,
            _ => ERRORS_V6,
        };
        if !errors.contains(&kind) {
            return Err(Verdict::OtherProtocol);
        }
        let end = outer.network + outer.length;
        if end > at.frame.len() {
            return Err(Verdict::Malformed);
        }
        let quote = quoted(at.frame, message + HEADER, end, outer.flow.source.is_ipv4())?;
        let key = quote.flow.reverse();
        if outer.flow.destination.ip() != key.destination.ip() {
            return Err(Verdict::OtherProtocol);
        }
        let known = self.connections.get(&key);
        let (number, way) = known.ok_or(Verdict::OtherProtocol)?;
        let connection = self.connections.by_number(number);
        let connection = connection.ok_or(Verdict::OtherProtocol)?;
        match way {
            Way::Reply => {
                self.reply(at, number)?;
            }
            // Elsewhere, what looks the same was never translated.
            Way::Forward => {
                let is_direct = connection.backend.is_none() && connection.edge == Edge::Egress;
                if is_direct && at.place.hook == Hook::TcEgress {
                    return Err(Verdict::OtherHook);
                }
            }
        }

        let becomes = connection.becomes(way);
        let source = outer.flow.source.ip();
        let takes_source = match way {
            // Whatever is on the way has its own address.
            Way::Reply => source == key.source.ip(),
            Way::Forward => becomes.source.ip() != key.source.ip(),
        };
        let new = Flow {
            source: SocketAddr::new(
                if takes_source {
                    becomes.source.ip()
                } else {
                    source
                },
                0,
            ),
            destination: SocketAddr::new(becomes.destination.ip(), 0),
            protocol: outer.flow.protocol,
        };
        let path = connection.path(way);
        let exit = prepare(at, path, &new).map_err(|verdict| match verdict {
            // RFC 1122, section 3.2.2: no error about an error.
            Verdict::TimeExceeded | Verdict::TooBig => Verdict::Unanswered,
            verdict => verdict,
        })?;
        let mut bytes = restore(at.frame, &quote, &becomes.reverse());
        translate(at.frame, &mut bytes, outer, &new, exit.is_hop);
        let (action, bytes) = leave_by(at, path, exit, bytes);
        Ok(Outcome {
            verdict: Verdict::Related,
            action,
            bytes,
        })
    }
}

/// The frame with a quote of what was sent at first.
fn restore(old: &[u8], quote: &Quote, sent: &Flow) -> Vec<u8> {
    let mut frame = old.to_vec();
    set_addresses(&mut frame, quote.network, sent);
    if sent.source.is_ipv4() {
        let header = quote.network..quote.network + usize::from(old[quote.network] & 0xf) * 4;
        let field = quote.network + 10;
        set(&mut frame, field, 0);
        let rest = sum(&[&frame[header.clone()]]);
        set(&mut frame, field, as_wrong_as(sum(&[&old[header]]), rest));
    }
    set(&mut frame, quote.transport, sent.source.port());
    set(&mut frame, quote.transport + 2, sent.destination.port());
    let protocol = quote.flow.protocol;
    let offset = match protocol {
        TCP => 16,
        UDP => 6,
        // SCTP's checksum covers what is not quoted.
        _ => return frame,
    };
    let field = quote.transport + offset;
    if field + 2 > quote.end || protocol == UDP && old[field..field + 2] == [0, 0] {
        return frame;
    }
    set(&mut frame, field, 0);
    let segment = |frame: &[u8], flow: &Flow| {
        let segment = &frame[quote.transport..quote.end];
        sum(&[&pseudo(flow, protocol, segment.len()), segment])
    };
    let fixed = as_wrong_as(segment(old, &quote.flow), segment(&frame, sent));
    let is_zero = protocol == UDP && fixed == 0;
    set(&mut frame, field, if is_zero { 0xffff } else { fixed });
    frame
}

/// Gives the error itself other ends, and a checksum for all that changed.
fn translate(old: &[u8], frame: &mut [u8], outer: &Parsed, new: &Flow, hop: bool) {
    set_addresses(frame, outer.network, new);
    set_hop(frame, outer, hop);
    if new.source.is_ipv4() {
        let header = outer.network..outer.transport;
        let field = outer.network + 10;
        set(frame, field, 0);
        let rest = sum(&[&frame[header.clone()]]);
        set(frame, field, as_wrong_as(sum(&[&old[header]]), rest));
    }
    let message = |frame: &[u8], flow: &Flow| {
        let message = &frame[outer.transport..];
        let pseudo = match flow.source.ip() {
            IpAddr::V4(_) => Vec::new(),
            IpAddr::V6(_) => pseudo(flow, flow.protocol, message.len()),
        };
        sum(&[&pseudo, message])
    };
    let field = outer.transport + 2;
    set(frame, field, 0);
    let fixed = as_wrong_as(message(old, &outer.flow), message(frame, new));
    set(frame, field, fixed);
}

fn set(frame: &mut [u8], at: usize, word: u16) {
    frame[at..at + 2].copy_from_slice(&word.to_be_bytes());
}

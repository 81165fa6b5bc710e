//! What a program made of a frame, read from the frame alone.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use etherparse::{Icmpv4Slice, Icmpv6Slice, IpNumber, NetSlice, SlicedPacket, TcpSlice};
use lb_common::Hook;

use crate::{
    lab::{Verdict as Checksums, inspect},
    packet::{
        Place, Returned,
        action::{TC_DROP, TC_PASS, TC_REDIRECT, XDP_DROP, XDP_PASS, XDP_REDIRECT, XDP_TX},
        frame::{Frame, Transport},
    },
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Translated and on its way, every other byte as it should be.
    Sent {
        source: SocketAddr,
        destination: SocketAddr,
    },
    /// The sender is told.
    Rejected,
    Dropped,
    /// Left alone and passed on.
    Passed,
    /// None of these.
    Wrong(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sent {
                source,
                destination,
            } => write!(f, "dnat to {destination} from {source}"),
            Self::Rejected => f.write_str("reject"),
            Self::Dropped => f.write_str("drop"),
            Self::Passed => f.write_str("pass"),
            Self::Wrong(what) => f.write_str(what),
        }
    }
}

/// Whether the next hook sees the packet.
pub(crate) fn passes(at: Place, action: i32) -> bool {
    const TC_OK: i32 = 0;
    match at.hook {
        Hook::Xdp => action == XDP_PASS,
        Hook::TcIngress | Hook::TcEgress => action == TC_PASS || action == TC_OK,
    }
}

/// What became of `sent`, which the program at `at` was the last to see.
pub(crate) fn outcome(sent: &Frame, at: Place, returned: &Returned) -> Outcome {
    let Returned { action, bytes } = returned;
    let passed = passes(at, *action);
    let (drop, elsewhere) = match at.hook {
        Hook::Xdp => (XDP_DROP, [XDP_TX, XDP_REDIRECT]),
        Hook::TcIngress | Hook::TcEgress => (TC_DROP, [TC_REDIRECT; 2]),
    };
    if *action == drop {
        return Outcome::Dropped;
    }
    if !passed && !elsewhere.contains(action) {
        return Outcome::Wrong(format!("action {action}"));
    }
    if *bytes == sent.bytes() {
        return match passed {
            true => Outcome::Passed,
            false => Outcome::Wrong("untouched and sent elsewhere".to_owned()),
        };
    }
    let comes_back = !passed || at.interface == "lo";
    read(sent, bytes, comes_back).unwrap_or_else(Outcome::Wrong)
}

fn read(sent: &Frame, bytes: &[u8], comes_back: bool) -> Result<Outcome, String> {
    let packet = packet(bytes)?;
    match packet.refusal(sent) {
        None => packet.translation(sent, bytes),
        Some(refusal) => {
            refusal?;
            match inspect(bytes) {
                Checksums::Good if comes_back => Ok(Outcome::Rejected),
                Checksums::Good => Err("an answer that goes on to the backend".to_owned()),
                other => Err(format!("an answer with checksums: {other:?}")),
            }
        }
    }
}

struct Packet<'a> {
    source: IpAddr,
    destination: IpAddr,
    hops: u8,
    protocol: IpNumber,
    payload: &'a [u8],
}

fn packet(bytes: &[u8]) -> Result<Packet<'_>, String> {
    let sliced = SlicedPacket::from_ethernet(bytes)
        .map_err(|error| format!("a frame that cannot be read: {error}"))?;
    match sliced.net {
        Some(NetSlice::Ipv4(ip)) => Ok(Packet {
            source: ip.header().source_addr().into(),
            destination: ip.header().destination_addr().into(),
            hops: ip.header().ttl(),
            protocol: ip.payload().ip_number,
            payload: ip.payload().payload,
        }),
        Some(NetSlice::Ipv6(ip)) => Ok(Packet {
            source: ip.header().source_addr().into(),
            destination: ip.header().destination_addr().into(),
            hops: ip.header().hop_limit(),
            protocol: ip.payload().ip_number,
            payload: ip.payload().payload,
        }),
        _ => Err("a frame without an IP packet".to_owned()),
    }
}

impl Packet<'_> {
    /// The frame that was sent, other addresses and ports aside.
    fn translation(&self, sent: &Frame, bytes: &[u8]) -> Result<Outcome, String> {
        let port = |at: usize| {
            let bytes = self.payload.get(at..at + 2).ok_or("no ports")?;
            Ok::<_, String>(u16::from_be_bytes([bytes[0], bytes[1]]))
        };
        let (source, destination) = (
            SocketAddr::new(self.source, port(0)?),
            SocketAddr::new(self.destination, port(2)?),
        );
        let mut macs = [[0; 6]; 2];
        macs.as_flattened_mut().copy_from_slice(&bytes[..12]);
        let expect = Frame {
            macs,
            hops: self.hops,
            source,
            destination,
            ..sent.clone()
        };
        if expect.bytes() != bytes {
            return Err(format!(
                "a damaged frame to {destination} from {source}: {:?}",
                inspect(bytes)
            ));
        }
        if self.hops > sent.hops || self.hops + 1 < sent.hops {
            return Err(format!("{} hops left of {}", self.hops, sent.hops));
        }
        if source.ip() == sent.source.ip() && source != sent.source {
            return Err(format!("source port {} of {}", source.port(), sent.source));
        }
        Ok(Outcome::Sent {
            source,
            destination,
        })
    }

    /// Whether this is a right answer to `sent`; `None` if it is no answer.
    fn refusal(&self, sent: &Frame) -> Option<Result<(), String>> {
        let answer = match self.protocol {
            IpNumber::TCP => TcpSlice::from_slice(self.payload)
                .ok()
                .filter(TcpSlice::rst)
                .map(|segment| reset(&segment, sent)),
            IpNumber::ICMP | IpNumber::IPV6_ICMP => Some(self.unreachable(sent)),
            _ => None,
        }?;
        Some(answer.and_then(|()| self.comes_back(sent)))
    }

    fn comes_back(&self, sent: &Frame) -> Result<(), String> {
        let expect = (sent.destination.ip(), sent.source.ip());
        if (self.source, self.destination) != expect {
            return Err(format!(
                "an answer from {} to {}",
                self.source, self.destination
            ));
        }
        Ok(())
    }

    /// Destination unreachable, port unreachable (RFC 792; RFC 4443, section
    /// 3.1), about the packet that was sent.
    fn unreachable(&self, sent: &Frame) -> Result<(), String> {
        let (kind, code, quote) = match self.protocol {
            IpNumber::ICMP => {
                let icmp = Icmpv4Slice::from_slice(self.payload).map_err(|e| e.to_string())?;
                (icmp.type_u8(), icmp.code_u8(), icmp.payload())
            }
            _ => {
                let icmp = Icmpv6Slice::from_slice(self.payload).map_err(|e| e.to_string())?;
                (icmp.type_u8(), icmp.code_u8(), icmp.payload())
            }
        };
        let expect = if sent.source.is_ipv4() {
            (3, 3)
        } else {
            (1, 4)
        };
        if (kind, code) != expect {
            return Err(format!("ICMP type {kind}, code {code}"));
        }
        let asked = &sent.bytes()[sent.network()..];
        let least = sent.transport_offset() - sent.network() + 8;
        if quote.len() < least || !asked.starts_with(quote) {
            return Err("ICMP about another packet".to_owned());
        }
        Ok(())
    }
}

/// RFC 9293, section 3.10.7.1.
fn reset(segment: &TcpSlice<'_>, sent: &Frame) -> Result<(), String> {
    let bytes = sent.bytes();
    let asked = TcpSlice::from_slice(&bytes[sent.transport_offset()..]);
    let asked = asked.map_err(|error| error.to_string())?;
    if !matches!(sent.transport, Transport::Tcp(_)) {
        return Err("a reset of what is not TCP".to_owned());
    }
    let ports = (segment.source_port(), segment.destination_port());
    if ports != (sent.destination.port(), sent.source.port()) {
        return Err(format!("a reset of other ports: {ports:?}"));
    }
    let numbers = (segment.sequence_number(), segment.acknowledgment_number());
    let next = asked.sequence_number().wrapping_add(1);
    if !segment.ack() || segment.syn() || numbers != (0, next) {
        return Err(format!("a reset with numbers {numbers:?}"));
    }
    Ok(())
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;

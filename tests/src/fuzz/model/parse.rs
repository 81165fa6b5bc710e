//! A whole frame, read from its first byte.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::Verdict;

use crate::fuzz::{
    flow::Flow,
    world::{SCTP, TCP, UDP},
};

const VLAN: [[u8; 2]; 2] = [[0x81, 0], [0x88, 0xa8]];
const MOST_TAGS: usize = 2;

const HOP_BY_HOP: u8 = 0;
const ICMP: u8 = 1;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const ICMPV6: u8 = 58;
const DESTINATION: u8 = 60;
const MOST_EXTENSIONS: usize = 6;

#[derive(Clone, Debug)]
pub(crate) struct Parsed {
    /// Without ports if this is a later fragment, or ICMP.
    pub(crate) flow: Flow,
    /// Offsets of the IP header and of what it carries, in bytes.
    pub(crate) network: usize,
    pub(crate) transport: usize,
    /// TCP's flags, or the type of SCTP's first chunk; else 0.
    pub(crate) mark: u8,
    /// What is wrong with a first fragment's transport header.
    pub(crate) flaw: Option<Verdict>,
    /// What the IP header says of its own length and that of what follows.
    pub(crate) length: usize,
    pub(crate) hops: u8,
    /// Destination of the frame.
    pub(crate) mac: [u8; 6],
    pub(crate) part: Part,
    /// What the parts of a packet have in common.
    pub(crate) id: u32,
}

impl Parsed {
    /// Whether it is ICMP.
    pub(crate) fn is_message(&self) -> bool {
        [ICMP, ICMPV6].contains(&self.flow.protocol)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    First,
    Later,
}

/// A packet that an ICMP error quotes.
#[derive(Clone, Debug)]
pub(crate) struct Quote {
    pub(crate) flow: Flow,
    pub(crate) network: usize,
    pub(crate) transport: usize,
    /// Of what is quoted.
    pub(crate) end: usize,
}

pub(crate) fn parse(frame: &[u8]) -> Result<Parsed, Verdict> {
    let (kind, network) = ethernet(frame)?;
    let mut start = match kind {
        [8, 0] => Start::v4(frame, network)?,
        [0x86, 0xdd] => Start::v6(frame, network)?,
        _ => return Err(Verdict::NotIp),
    };
    if start.part == Part::Whole && start.is_message() {
        return start.finish(frame, Ok(([0, 0], 0)));
    }
    start.look_through(frame)?;
    let transport = match start.part {
        Part::Whole => Ok(start.transport(frame)?),
        Part::First => start.transport(frame),
        Part::Later => {
            let end = start.network + start.length;
            if end > frame.len() || start.transport > end {
                return Err(Verdict::Malformed);
            }
            Ok(([0, 0], 0))
        }
    };
    start.finish(frame, transport)
}

/// Reads what is quoted from `at` to `end`: as much of it as tells whose it is.
pub(crate) fn quoted(frame: &[u8], at: usize, end: usize, is_v4: bool) -> Result<Quote, Verdict> {
    const LEAST: usize = 8;

    let mut start = match is_v4 {
        true => Start::v4(frame, at)?,
        false => Start::v6(frame, at)?,
    };
    start.look_through(frame)?;
    let has_ports = [TCP, UDP, SCTP].contains(&start.protocol) && start.part != Part::Later;
    let least = start.transport + LEAST;
    if !has_ports || least > end || least > at + start.length {
        return Err(Verdict::OtherProtocol);
    }
    let port = |offset| take(frame, start.transport + offset).map(u16::from_be_bytes);
    let [from, to] = start.ends;
    Ok(Quote {
        flow: Flow {
            source: SocketAddr::new(from, port(0)?),
            destination: SocketAddr::new(to, port(2)?),
            protocol: start.protocol,
        },
        network: at,
        transport: start.transport,
        end,
    })
}

fn ethernet(frame: &[u8]) -> Result<([u8; 2], usize), Verdict> {
    let mut kind = take(frame, 12)?;
    let mut end = 14;
    for _ in 0..MOST_TAGS {
        if !VLAN.contains(&kind) {
            break;
        }
        kind = take(frame, end + 2)?;
        end += 4;
    }
    Ok((kind, end))
}

/// A packet up to what it carries.
struct Start {
    network: usize,
    transport: usize,
    ends: [IpAddr; 2],
    protocol: u8,
    length: usize,
    hops: u8,
    part: Part,
    id: u32,
}

impl Start {
    fn v4(frame: &[u8], network: usize) -> Result<Self, Verdict> {
        let header: [u8; 20] = take(frame, network)?;
        let [first, _, l0, l1, i0, i1, f0, f1, hops, protocol, ..] = header;
        let length = usize::from(first & 0xf) * 4;
        if first >> 4 != 4 || length < 20 {
            return Err(Verdict::Malformed);
        }
        let field = u16::from_be_bytes([f0, f1]);
        let (has_more, offset) = (field & 0x2000 != 0, field & 0x1fff);
        let address = |at| take(&header, at).map(|octets: [u8; 4]| Ipv4Addr::from(octets));
        Ok(Self {
            network,
            transport: network + length,
            ends: [address(12)?.into(), address(16)?.into()],
            protocol,
            length: u16::from_be_bytes([l0, l1]).into(),
            hops,
            part: match (has_more, offset) {
                (false, 0) => Part::Whole,
                (true, 0) => Part::First,
                _ => Part::Later,
            },
            id: u16::from_be_bytes([i0, i1]).into(),
        })
    }

    fn v6(frame: &[u8], network: usize) -> Result<Self, Verdict> {
        let header: [u8; 40] = take(frame, network)?;
        let [first, _, _, _, l0, l1, next, hops, ..] = header;
        if first >> 4 != 6 {
            return Err(Verdict::Malformed);
        }
        let address = |at| take(&header, at).map(|octets: [u8; 16]| Ipv6Addr::from(octets));
        let (source, destination) = (address(8)?, address(24)?);
        // RFC 4291, section 2.5.5.2: these stand for IPv4, and are in no packet.
        if source.to_ipv4_mapped().is_some() || destination.to_ipv4_mapped().is_some() {
            return Err(Verdict::Malformed);
        }
        Ok(Self {
            network,
            transport: network + 40,
            ends: [source.into(), destination.into()],
            protocol: next,
            length: 40 + usize::from(u16::from_be_bytes([l0, l1])),
            hops,
            part: Part::Whole,
            id: 0,
        })
    }

    fn is_message(&self) -> bool {
        self.protocol == if self.ends[0].is_ipv4() { ICMP } else { ICMPV6 }
    }

    /// IPv6 extension headers (RFC 8200, section 4).
    fn look_through(&mut self, frame: &[u8]) -> Result<(), Verdict> {
        if self.ends[0].is_ipv4() {
            return Ok(());
        }
        for _ in 0..MOST_EXTENSIONS {
            if ![HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION].contains(&self.protocol) {
                return Ok(());
            }
            let header: [u8; 8] = take(frame, self.transport)?;
            let [next, length, f0, f1, id @ ..] = header;
            let field = u16::from_be_bytes([f0, f1]);
            match self.protocol {
                // Segments left: it is to go elsewhere first.
                ROUTING if f1 != 0 => return Err(Verdict::OtherProtocol),
                FRAGMENT => {
                    self.id = u32::from_be_bytes(id);
                    self.transport += 8;
                    if field & 0xfff8 != 0 {
                        self.part = Part::Later;
                    } else if field & 1 != 0 {
                        self.part = Part::First;
                    }
                }
                _ => self.transport += (usize::from(length) + 1) * 8,
            }
            self.protocol = next;
            if self.part == Part::Later {
                return Ok(());
            }
        }
        Ok(())
    }

    fn finish(
        self,
        frame: &[u8],
        transport: Result<([u16; 2], u8), Verdict>,
    ) -> Result<Parsed, Verdict> {
        let ([from_port, to_port], mark) = transport.unwrap_or(([0, 0], 0));
        let [from, to] = self.ends;
        Ok(Parsed {
            flow: Flow {
                source: SocketAddr::new(from, from_port),
                destination: SocketAddr::new(to, to_port),
                protocol: self.protocol,
            },
            network: self.network,
            transport: self.transport,
            mark,
            flaw: transport.err(),
            length: self.length,
            hops: self.hops,
            mac: take(frame, 0)?,
            part: self.part,
            id: self.id,
        })
    }

    /// Ports, and what the header says of the connection. All of it must lie in
    /// the packet, and that in the frame.
    fn transport(&self, frame: &[u8]) -> Result<([u16; 2], u8), Verdict> {
        let end = self.network + self.length;
        let packet = frame.get(..end).ok_or(Verdict::Malformed)?;
        let at = self.transport;
        let mark = match self.protocol {
            TCP => take::<20>(packet, at)?[13],
            UDP => {
                take::<8>(packet, at)?;
                0
            }
            // With the first chunk's own header.
            SCTP => take::<16>(packet, at)?[12],
            _ => return Err(Verdict::OtherProtocol),
        };
        let port = |offset| take(packet, at + offset).map(u16::from_be_bytes);
        Ok(([port(0)?, port(2)?], mark))
    }
}

fn take<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Verdict> {
    let found = bytes
        .get(at..at + N)
        .and_then(|found| found.try_into().ok());
    found.ok_or(Verdict::Malformed)
}

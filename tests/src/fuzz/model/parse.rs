//! A whole frame, read from its first byte.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::Verdict;

use crate::fuzz::{
    flow::Flow,
    world::{SCTP, TCP, UDP},
};

const VLAN: [[u8; 2]; 2] = [[0x81, 0], [0x88, 0xa8]];
const MOST_TAGS: usize = 2;
const MORE_AND_OFFSET: u16 = 0x3fff;
const EXTENSIONS: [u8; 4] = [0, 43, 44, 60];

#[derive(Clone, Debug)]
pub(crate) struct Parsed {
    pub(crate) flow: Flow,
    /// Offsets of the IP header and of the transport header, in bytes.
    pub(crate) network: usize,
    pub(crate) transport: usize,
    /// TCP's flags, or the type of SCTP's first chunk; else 0.
    pub(crate) mark: u8,
    /// What the IP header says of its own length and that of what follows.
    pub(crate) length: usize,
    pub(crate) hops: u8,
    /// Destination of the frame.
    pub(crate) mac: [u8; 6],
}

pub(crate) fn parse(frame: &[u8]) -> Result<Parsed, Verdict> {
    let (kind, network) = ethernet(frame)?;
    match kind {
        [8, 0] => ipv4(frame, network),
        [0x86, 0xdd] => ipv6(frame, network),
        _ => Err(Verdict::NotIp),
    }
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

fn ipv4(frame: &[u8], network: usize) -> Result<Parsed, Verdict> {
    let header: [u8; 20] = take(frame, network)?;
    let [first, _, l0, l1, _, _, f0, f1, hops, protocol, ..] = header;
    let length = usize::from(first & 0xf) * 4;
    if first >> 4 != 4 || length < 20 {
        return Err(Verdict::Malformed);
    }
    if u16::from_be_bytes([f0, f1]) & MORE_AND_OFFSET != 0 {
        return Err(Verdict::Fragment);
    }
    let address = |at| take(&header, at).map(|octets: [u8; 4]| Ipv4Addr::from(octets));
    Start {
        network,
        transport: network + length,
        ends: [address(12)?.into(), address(16)?.into()],
        protocol,
        length: u16::from_be_bytes([l0, l1]).into(),
        hops,
    }
    .finish(frame)
}

fn ipv6(frame: &[u8], network: usize) -> Result<Parsed, Verdict> {
    let header: [u8; 40] = take(frame, network)?;
    let [first, _, _, _, l0, l1, protocol, hops, ..] = header;
    if first >> 4 != 6 {
        return Err(Verdict::Malformed);
    }
    if EXTENSIONS.contains(&protocol) {
        return Err(Verdict::Fragment);
    }
    let address = |at| take(&header, at).map(|octets: [u8; 16]| Ipv6Addr::from(octets));
    Start {
        network,
        transport: network + 40,
        ends: [address(8)?.into(), address(24)?.into()],
        protocol,
        length: 40 + usize::from(u16::from_be_bytes([l0, l1])),
        hops,
    }
    .finish(frame)
}

/// A packet up to its transport header.
struct Start {
    network: usize,
    transport: usize,
    ends: [IpAddr; 2],
    protocol: u8,
    length: usize,
    hops: u8,
}

impl Start {
    fn finish(self, frame: &[u8]) -> Result<Parsed, Verdict> {
        let at = self.transport;
        let mark = match self.protocol {
            TCP => take::<20>(frame, at)?[13],
            UDP => {
                take::<8>(frame, at)?;
                0
            }
            // With the first chunk's own header.
            SCTP => take::<16>(frame, at)?[12],
            _ => return Err(Verdict::OtherProtocol),
        };
        let [from, to] = self.ends;
        let port = |offset| take(frame, at + offset).map(u16::from_be_bytes);
        Ok(Parsed {
            flow: Flow {
                source: SocketAddr::new(from, port(0)?),
                destination: SocketAddr::new(to, port(2)?),
                protocol: self.protocol,
            },
            network: self.network,
            transport: at,
            mark,
            length: self.length,
            hops: self.hops,
            mac: take(frame, 0)?,
        })
    }
}

fn take<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Verdict> {
    let found = bytes
        .get(at..at + N)
        .and_then(|found| found.try_into().ok());
    found.ok_or(Verdict::Malformed)
}

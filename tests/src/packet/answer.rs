//! What the sender of a frame is told when nobody serves it, built from scratch
//! with checksums of its own making.

use std::net::{IpAddr, SocketAddr};

use super::frame::{ACK, Frame, RST, Transport, checksum, octets};

#[derive(Clone, Debug)]
pub struct Answer {
    /// The frame that is answered.
    pub asked: Frame,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub content: Content,
}

#[derive(Clone, Debug)]
pub enum Content {
    /// A TCP segment.
    Reset {
        flags: u8,
        sequence: u32,
        acknowledgment: u32,
    },
    /// An ICMP or ICMPv6 error about a packet.
    Error {
        kind: u8,
        code: u8,
        /// What follows the checksum: an MTU, or zero.
        rest: u32,
        quote: Vec<u8>,
    },
}

impl Answer {
    /// The right one: a reset for TCP (RFC 9293, section 3.10.7.1), port
    /// unreachable for others (RFC 792; RFC 4443, section 3.1).
    #[must_use]
    pub fn to(asked: &Frame) -> Self {
        let content = match asked.transport {
            Transport::Tcp(_) => reset(asked),
            _ => unreachable(asked),
        };
        Self {
            asked: asked.clone(),
            source: asked.destination,
            destination: asked.source,
            content,
        }
    }

    /// An error of this type and code, from a router.
    #[must_use]
    pub fn error(asked: &Frame, router: IpAddr, kind: (u8, u8), rest: u32) -> Self {
        Self {
            asked: asked.clone(),
            source: SocketAddr::new(router, 0),
            destination: asked.source,
            content: error(asked, kind, rest),
        }
    }

    /// `swapped`: link-layer addresses change places.
    #[must_use]
    pub fn bytes(&self, swapped: bool) -> Vec<u8> {
        let mut bytes = self.asked.bytes()[..self.asked.network()].to_vec();
        if swapped {
            bytes[..12].copy_from_slice(&[self.asked.macs[1], self.asked.macs[0]].concat());
        }
        let body = self.body();
        bytes.extend(self.header(body.len()));
        bytes.extend(body);
        bytes
    }

    fn header(&self, length: usize) -> Vec<u8> {
        let addresses = self.addresses();
        match self.source {
            SocketAddr::V4(_) => {
                let mut header = vec![0x45, 0];
                header.extend((20 + length as u16).to_be_bytes());
                header.extend([0, 0, 0x40, 0, 64, self.protocol(), 0, 0]);
                header.extend(addresses);
                let sum = checksum(&header);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                header
            }
            SocketAddr::V6(_) => {
                let mut header = vec![0x60, 0, 0, 0];
                header.extend((length as u16).to_be_bytes());
                header.extend([self.protocol(), 64]);
                header.extend(addresses);
                header
            }
        }
    }

    fn body(&self) -> Vec<u8> {
        let (mut body, field, has_pseudo) = match &self.content {
            Content::Reset {
                flags,
                sequence,
                acknowledgment,
            } => {
                let mut body = Vec::new();
                body.extend(self.source.port().to_be_bytes());
                body.extend(self.destination.port().to_be_bytes());
                body.extend(sequence.to_be_bytes());
                body.extend(acknowledgment.to_be_bytes());
                body.extend([5 << 4, *flags, 0, 0, 0, 0, 0, 0]);
                // Data in place of the IP options.
                body.resize(body.len() + self.asked.options, 0);
                (body, 16, true)
            }
            Content::Error {
                kind,
                code,
                rest,
                quote,
            } => {
                let mut body = vec![*kind, *code, 0, 0];
                body.extend(rest.to_be_bytes());
                body.extend(quote);
                (body, 2, self.source.is_ipv6())
            }
        };
        let mut pseudo = Vec::new();
        if has_pseudo {
            pseudo = self.addresses();
            pseudo.extend((body.len() as u32).to_be_bytes());
            pseudo.extend([0, 0, 0, self.protocol()]);
        }
        let sum = checksum(&[pseudo, body.clone()].concat());
        body[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        body
    }

    fn protocol(&self) -> u8 {
        match (&self.content, self.source) {
            (Content::Reset { .. }, _) => 6,
            (Content::Error { .. }, SocketAddr::V4(_)) => 1,
            (Content::Error { .. }, SocketAddr::V6(_)) => 58,
        }
    }

    fn addresses(&self) -> Vec<u8> {
        [octets(self.source.ip()), octets(self.destination.ip())].concat()
    }
}

fn reset(asked: &Frame) -> Content {
    let bytes = asked.bytes();
    let numbers = &bytes[asked.transport_offset() + 4..];
    let sequence = u32::from_be_bytes([numbers[0], numbers[1], numbers[2], numbers[3]]);
    Content::Reset {
        flags: RST | ACK,
        sequence: 0,
        acknowledgment: sequence.wrapping_add(1 + asked.payload.len() as u32),
    }
}

fn unreachable(asked: &Frame) -> Content {
    let kind = if asked.source.is_ipv4() {
        (3, 3)
    } else {
        (1, 4)
    };
    error(asked, kind, 0)
}

fn error(asked: &Frame, (kind, code): (u8, u8), rest: u32) -> Content {
    let packet = &asked.bytes()[asked.network()..];
    let limit = if asked.source.is_ipv4() { 548 } else { 1232 };
    let quoted = packet.len().min(limit) & !3;
    Content::Error {
        kind,
        code,
        rest,
        quote: packet[..quoted].to_vec(),
    }
}

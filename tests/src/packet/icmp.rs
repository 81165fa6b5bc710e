//! ICMP (RFC 792) and ICMPv6 (RFC 4443) messages.

use std::net::{IpAddr, SocketAddr};

use super::frame::{CLIENT_MAC, Frame, NODE_MAC, Transport, checksum, octets};

/// A frame with a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Icmp {
    /// Destination, source.
    pub macs: [[u8; 6]; 2],
    /// TPID and TCI of each VLAN tag, outermost first.
    pub tags: Vec<[u16; 2]>,
    pub hops: u8,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub kind: u8,
    pub code: u8,
    /// What follows the checksum: identifier and sequence number, an MTU, a
    /// pointer, or nothing.
    pub rest: [u8; 4],
    /// The quoted packet, or what an echo carries.
    pub body: Vec<u8>,
}

impl Icmp {
    /// An error to the frame's sender that quotes its packet, as much of it as
    /// may be (RFC 1812, section 4.3.2.3; RFC 4443, section 3).
    #[must_use]
    pub fn error(kind: u8, code: u8, source: IpAddr, about: &Frame) -> Self {
        let limit = match source {
            IpAddr::V4(_) => 548,
            IpAddr::V6(_) => 1232,
        };
        Self {
            kind,
            code,
            body: quote(about, limit),
            ..Self::between(source, about.source.ip())
        }
    }

    /// An echo request.
    #[must_use]
    pub fn request(source: IpAddr, destination: IpAddr) -> Self {
        Self {
            kind: if source.is_ipv4() { 8 } else { 128 },
            rest: [0x12, 0x34, 0, 1],
            body: b"an odd payload!".to_vec(),
            ..Self::between(source, destination)
        }
    }

    /// The echo reply to a request, one hop on.
    #[must_use]
    pub fn answer(&self) -> Self {
        Self {
            macs: [self.macs[1], self.macs[0]],
            hops: 61,
            source: self.destination,
            destination: self.source,
            kind: if self.source.is_ipv4() { 0 } else { 129 },
            ..self.clone()
        }
    }

    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let transport = Transport::Raw(self.protocol());
        let [source, destination] =
            [self.source, self.destination].map(|address| SocketAddr::new(address, 0));
        Frame {
            macs: self.macs,
            tags: self.tags.clone(),
            hops: self.hops,
            payload: self.message(),
            ..Frame::new(transport, source, destination)
        }
        .bytes()
    }

    /// From the checksummed type on.
    fn message(&self) -> Vec<u8> {
        let mut message = vec![self.kind, self.code, 0, 0];
        message.extend(self.rest);
        message.extend(&self.body);
        let mut summed = Vec::new();
        if self.source.is_ipv6() {
            summed.extend(octets(self.source));
            summed.extend(octets(self.destination));
            summed.extend((message.len() as u32).to_be_bytes());
            summed.extend([0, 0, 0, self.protocol()]);
        }
        summed.extend(&message);
        let sum = checksum(&summed);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        message
    }

    fn protocol(&self) -> u8 {
        if self.source.is_ipv4() { 1 } else { 58 }
    }

    fn between(source: IpAddr, destination: IpAddr) -> Self {
        Self {
            macs: [NODE_MAC, CLIENT_MAC],
            tags: Vec::new(),
            hops: 64,
            source,
            destination,
            kind: 0,
            code: 0,
            rest: [0; 4],
            body: Vec::new(),
        }
    }
}

/// The first bytes of a frame's packet, from the IP header on.
#[must_use]
pub fn quote(frame: &Frame, limit: usize) -> Vec<u8> {
    let mut packet = frame.bytes().split_off(frame.network());
    packet.truncate(limit);
    packet
}

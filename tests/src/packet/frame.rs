//! Frames, built from scratch, with checksums of their own making.

use std::net::{IpAddr, SocketAddr};

use super::{
    extension,
    sctp::{self, kind},
};

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

pub const CLIENT_MAC: [u8; 6] = [2, 0xc, 0, 0, 0, 1];
pub const NODE_MAC: [u8; 6] = [2, 0xc, 0, 0, 0, 2];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Flags.
    Tcp(u8),
    Udp,
    /// No checksum: a zero in its place.
    UdpUnsummed,
    /// Type of the first chunk ([`kind`]).
    Sctp(u8),
    /// No checksum: a zero in its place, as before a device computes it.
    SctpUnsummed(u8),
    /// Any other protocol, of this number: the payload is all there is.
    Raw(u8),
}

impl Transport {
    #[must_use]
    pub fn header(self) -> usize {
        match self {
            Self::Tcp(_) => 20,
            Self::Udp | Self::UdpUnsummed => 8,
            Self::Sctp(_) | Self::SctpUnsummed(_) => sctp::HEADER,
            Self::Raw(_) => 0,
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::Tcp(_) => 6,
            Self::Udp | Self::UdpUnsummed => 17,
            Self::Sctp(_) | Self::SctpUnsummed(_) => 132,
            Self::Raw(number) => number,
        }
    }

    /// What the other end answers with.
    fn answer(self) -> Self {
        let chunk = |asked| match asked {
            kind::INIT => kind::INIT_ACK,
            kind::COOKIE_ECHO => kind::COOKIE_ACK,
            kind::HEARTBEAT => kind::HEARTBEAT_ACK,
            kind::SHUTDOWN => kind::SHUTDOWN_ACK,
            kind::SHUTDOWN_ACK => kind::SHUTDOWN_COMPLETE,
            _ => kind::SACK,
        };
        match self {
            Self::Tcp(_) => Self::Tcp(ACK),
            Self::Sctp(asked) => Self::Sctp(chunk(asked)),
            Self::SctpUnsummed(asked) => Self::SctpUnsummed(chunk(asked)),
            Self::Udp | Self::UdpUnsummed | Self::Raw(_) => self,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Destination, source.
    pub macs: [[u8; 6]; 2],
    /// TPID and TCI of each VLAN tag, outermost first.
    pub tags: Vec<[u16; 2]>,
    /// IPv4 options in bytes, a multiple of 4.
    pub options: usize,
    /// Type and length in bytes of each IPv6 extension header.
    pub extensions: Vec<(u8, usize)>,
    pub hops: u8,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub transport: Transport,
    pub payload: Vec<u8>,
}

impl Frame {
    #[must_use]
    pub fn new(transport: Transport, source: SocketAddr, destination: SocketAddr) -> Self {
        Self {
            macs: [NODE_MAC, CLIENT_MAC],
            tags: Vec::new(),
            options: 0,
            extensions: Vec::new(),
            hops: 64,
            source,
            destination,
            transport,
            payload: b"an odd payload!".to_vec(),
        }
    }

    /// The frame that answers this one, one hop on.
    #[must_use]
    pub fn answer(&self) -> Self {
        Self {
            macs: [self.macs[1], self.macs[0]],
            hops: 61,
            source: self.destination,
            destination: self.source,
            transport: self.transport.answer(),
            payload: b"what was asked for".to_vec(),
            ..self.clone()
        }
    }

    /// Offset of the IP header.
    #[must_use]
    pub fn network(&self) -> usize {
        14 + 4 * self.tags.len()
    }

    /// Offset of the transport header.
    #[must_use]
    pub fn transport_offset(&self) -> usize {
        self.network()
            + match self.source {
                SocketAddr::V4(_) => 20 + self.options,
                SocketAddr::V6(_) => 40 + self.extended(),
            }
    }

    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let segment = self.segment();
        let mut bytes = self.macs.concat();
        for word in self.tags.concat() {
            bytes.extend(word.to_be_bytes());
        }
        let (kind, header): (u16, _) = match self.source {
            SocketAddr::V4(_) => (0x0800, self.ipv4(segment.len())),
            SocketAddr::V6(_) => (0x86dd, self.ipv6(segment.len())),
        };
        bytes.extend(kind.to_be_bytes());
        [bytes, header, segment].concat()
    }

    fn ipv4(&self, segment: usize) -> Vec<u8> {
        let length = 20 + self.options;
        let mut header = vec![0x40 | (length / 4) as u8, 0];
        header.extend(((length + segment) as u16).to_be_bytes());
        header.extend([
            0x12,
            0x34,
            0x40,
            0,
            self.hops,
            self.transport.number(),
            0,
            0,
        ]);
        header.extend(octets(self.source.ip()));
        header.extend(octets(self.destination.ip()));
        // No-operation options (RFC 791, section 3.1).
        header.resize(length, 1);
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header
    }

    fn ipv6(&self, segment: usize) -> Vec<u8> {
        let mut header = vec![0x60, 0x01, 0x23, 0x45];
        header.extend(((self.extended() + segment) as u16).to_be_bytes());
        let last = self.transport.number();
        let kinds = self.extensions.iter().map(|&(kind, _)| kind).chain([last]);
        let mut next = kinds.clone();
        header.extend([next.next().unwrap_or(last), self.hops]);
        header.extend(octets(self.source.ip()));
        header.extend(octets(self.destination.ip()));
        for (&(kind, length), next) in self.extensions.iter().zip(next) {
            header.extend(extension::bytes(kind, length, next));
        }
        header
    }

    /// Length of all extension headers.
    fn extended(&self) -> usize {
        self.extensions.iter().map(|&(_, length)| length).sum()
    }

    fn segment(&self) -> Vec<u8> {
        let ports = [self.source.port(), self.destination.port()];
        match self.transport {
            Transport::Tcp(flags) => {
                let fixed = [0, 0, 0, 9, 0, 0, 0, 8, 5 << 4, flags, 1, 0, 0, 0, 0, 0];
                self.summed(ports, &fixed, 16)
            }
            Transport::Udp => self.summed(ports, &self.udp(), 6),
            Transport::UdpUnsummed => self.unsummed(ports, &self.udp()),
            Transport::Sctp(first) => self.sctp(ports, first),
            Transport::SctpUnsummed(first) => {
                let mut packet = self.sctp(ports, first);
                packet[8..sctp::HEADER].fill(0);
                packet
            }
            Transport::Raw(_) => self.payload.clone(),
        }
    }

    /// Length and no checksum.
    fn udp(&self) -> [u8; 4] {
        let [high, low] = (8 + self.payload.len() as u16).to_be_bytes();
        [high, low, 0, 0]
    }

    fn sctp(&self, ports: [u16; 2], first: u8) -> Vec<u8> {
        let packet = sctp::Packet {
            ports,
            // None is known yet (RFC 9260, section 8.5.1).
            tag: if first == kind::INIT { 0 } else { 9 },
            chunks: sctp::carrying(first, &self.payload),
        };
        packet.bytes()
    }

    fn unsummed(&self, ports: [u16; 2], fixed: &[u8]) -> Vec<u8> {
        let mut segment = ports.map(u16::to_be_bytes).concat();
        segment.extend(fixed);
        segment.extend(&self.payload);
        segment
    }

    /// With the checksum at `field`, pseudo header included.
    fn summed(&self, ports: [u16; 2], fixed: &[u8], field: usize) -> Vec<u8> {
        let mut segment = self.unsummed(ports, fixed);
        let mut pseudo = octets(self.source.ip());
        pseudo.extend(octets(self.destination.ip()));
        pseudo.extend((segment.len() as u32).to_be_bytes());
        pseudo.extend([0, 0, 0, self.transport.number()]);
        pseudo.extend(&segment);
        let mut sum = checksum(&pseudo);
        if sum == 0 && self.transport == Transport::Udp {
            // RFC 768: a computed zero is sent as all ones.
            sum = 0xffff;
        }
        segment[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        segment
    }
}

pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// RFC 1071.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut words = bytes.chunks_exact(2);
    let mut sum = 0_u32;
    for word in &mut words {
        sum += u32::from(u16::from_be_bytes([word[0], word[1]]));
    }
    if let [last] = words.remainder() {
        sum += u32::from(*last) << 8;
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

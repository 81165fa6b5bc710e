//! Frames, built from scratch, with checksums of their own making.

use std::net::{IpAddr, SocketAddr};

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
    /// An INIT chunk; the payload is not sent.
    Sctp,
}

impl Transport {
    #[must_use]
    pub fn header(self) -> usize {
        match self {
            Self::Tcp(_) => 20,
            Self::Udp | Self::UdpUnsummed => 8,
            Self::Sctp => 12,
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::Tcp(_) => 6,
            Self::Udp | Self::UdpUnsummed => 17,
            Self::Sctp => 132,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Frame {
    /// Destination, source.
    pub macs: [[u8; 6]; 2],
    /// TPID and TCI of each VLAN tag, outermost first.
    pub tags: Vec<[u16; 2]>,
    /// IPv4 options in bytes, a multiple of 4.
    pub options: usize,
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
            transport: match self.transport {
                Transport::Tcp(_) => Transport::Tcp(ACK),
                udp => udp,
            },
            payload: b"what was asked for".to_vec(),
            ..self.clone()
        }
    }

    /// Offset of the IP header.
    #[must_use]
    pub fn network(&self) -> usize {
        14 + 4 * self.tags.len()
    }

    /// Offset of the TCP or UDP header.
    #[must_use]
    pub fn transport_offset(&self) -> usize {
        self.network()
            + match self.source {
                SocketAddr::V4(_) => 20 + self.options,
                SocketAddr::V6(_) => 40,
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
        header.extend((segment as u16).to_be_bytes());
        header.extend([self.transport.number(), self.hops]);
        header.extend(octets(self.source.ip()));
        header.extend(octets(self.destination.ip()));
        header
    }

    fn segment(&self) -> Vec<u8> {
        let mut segment = Vec::new();
        segment.extend(self.source.port().to_be_bytes());
        segment.extend(self.destination.port().to_be_bytes());
        if self.transport == Transport::Sctp {
            return init(segment);
        }
        let length = self.transport.header() + self.payload.len();
        let field = match self.transport {
            Transport::Tcp(flags) => {
                segment.extend([0, 0, 0, 9, 0, 0, 0, 8, 5 << 4, flags, 1, 0, 0, 0, 0, 0]);
                16
            }
            Transport::Udp | Transport::UdpUnsummed | Transport::Sctp => {
                segment.extend((length as u16).to_be_bytes());
                segment.extend([0, 0]);
                6
            }
        };
        segment.extend(&self.payload);
        if self.transport != Transport::UdpUnsummed {
            let mut pseudo = octets(self.source.ip());
            pseudo.extend(octets(self.destination.ip()));
            pseudo.extend((length as u32).to_be_bytes());
            pseudo.extend([0, 0, 0, self.transport.number()]);
            pseudo.extend(&segment);
            let mut sum = checksum(&pseudo);
            if sum == 0 && self.transport == Transport::Udp {
                // RFC 768: a computed zero is sent as all ones.
                sum = 0xffff;
            }
            segment[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        }
        segment
    }
}

/// An SCTP packet from `ports` with one INIT chunk (RFC 9260, section 3.3.2).
fn init(ports: Vec<u8>) -> Vec<u8> {
    // No verification tag yet; checksum; type, flags and length; initiate tag;
    // window; streams out and in; first TSN.
    let chunk = [
        [0; 4],
        [0; 4],
        [1, 0, 0, 20],
        [0, 0, 0, 9],
        [0, 0, 0xff, 0xff],
        [0, 1, 0, 1],
        [0, 0, 0, 8],
    ];
    let mut packet = [ports, chunk.concat()].concat();
    // The least significant byte goes first (RFC 9260, appendix A).
    let sum = crc32c::crc32c(&packet).to_le_bytes();
    packet[8..12].copy_from_slice(&sum);
    packet
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
    let words = bytes.chunks(2);
    let mut sum: u32 = words
        .map(|word| u32::from(word[0]) << 8 | word.get(1).copied().map_or(0, u32::from))
        .sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

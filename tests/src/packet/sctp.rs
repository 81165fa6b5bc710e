//! SCTP packets (RFC 9260, section 3), built and read with a checksum of this
//! file's own making.

use thiserror::Error;

/// Types of chunks (RFC 9260, section 3.2; RFC 4820, section 3).
pub mod kind {
    pub const DATA: u8 = 0;
    pub const INIT: u8 = 1;
    pub const INIT_ACK: u8 = 2;
    pub const SACK: u8 = 3;
    pub const HEARTBEAT: u8 = 4;
    pub const HEARTBEAT_ACK: u8 = 5;
    pub const ABORT: u8 = 6;
    pub const SHUTDOWN: u8 = 7;
    pub const SHUTDOWN_ACK: u8 = 8;
    pub const COOKIE_ECHO: u8 = 10;
    pub const COOKIE_ACK: u8 = 11;
    pub const SHUTDOWN_COMPLETE: u8 = 14;
    pub const PAD: u8 = 0x84;
}

pub const HEADER: usize = 12;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source, destination.
    pub ports: [u16; 2],
    /// Verification tag.
    pub tag: u32,
    pub chunks: Vec<Chunk>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    pub kind: u8,
    pub flags: u8,
    pub value: Vec<u8>,
}

/// Why bytes are no SCTP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Flaw {
    #[error("{0} bytes are shorter than the SCTP header")]
    Short(usize),
    #[error("the CRC32c is {is:08x}, not {should_be:08x}")]
    Checksum { is: u32, should_be: u32 },
    #[error("the chunk at byte {0} does not fit into the packet")]
    Chunk(usize),
}

impl Packet {
    /// With its checksum, every chunk padded to a multiple of 4.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.ports[0].to_be_bytes());
        bytes.extend(self.ports[1].to_be_bytes());
        bytes.extend(self.tag.to_be_bytes());
        bytes.extend([0; 4]);
        for chunk in &self.chunks {
            bytes.extend(chunk.bytes());
        }
        let sum = checksum(&bytes).to_le_bytes();
        bytes[8..HEADER].copy_from_slice(&sum);
        bytes
    }

    /// Reads a packet and checks its checksum.
    ///
    /// # Errors
    /// The first flaw.
    pub fn read(bytes: &[u8]) -> Result<Self, Flaw> {
        let Some((header, mut rest)) = bytes.split_first_chunk::<HEADER>() else {
            return Err(Flaw::Short(bytes.len()));
        };
        let [a, b, c, d, e, f, g, h, sum @ ..] = *header;
        let (is, should_be) = (u32::from_le_bytes(sum), checksum(bytes));
        if is != should_be {
            return Err(Flaw::Checksum { is, should_be });
        }
        let mut chunks = Vec::new();
        while !rest.is_empty() {
            let at = bytes.len() - rest.len();
            let chunk;
            (chunk, rest) = Chunk::split(rest).ok_or(Flaw::Chunk(at))?;
            chunks.push(chunk);
        }
        Ok(Self {
            ports: [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])],
            tag: u32::from_be_bytes([e, f, g, h]),
            chunks,
        })
    }
}

impl Chunk {
    #[must_use]
    pub fn new(kind: u8, value: Vec<u8>) -> Self {
        // All of a message, in its first and last chunk.
        let flags = if kind == kind::DATA { 3 } else { 0 };
        Self { kind, flags, value }
    }

    /// A chunk of type, length and value, and what is behind its padding.
    fn split(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (&[kind, flags, high, low], behind) = bytes.split_first_chunk()?;
        let length = usize::from(u16::from_be_bytes([high, low])).checked_sub(4)?;
        let chunk = Self {
            kind,
            flags,
            value: behind.get(..length)?.to_vec(),
        };
        Some((chunk, behind.get(length.next_multiple_of(4)..)?))
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.kind, self.flags];
        bytes.extend((4 + self.value.len() as u16).to_be_bytes());
        bytes.extend(&self.value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }
}

/// The chunks of a packet that begins with one of this type and carries the
/// payload: in that chunk if it has room for any, else in padding behind it.
#[must_use]
pub fn carrying(first: u8, payload: &[u8]) -> Vec<Chunk> {
    let (fixed, room) = shape(first);
    let mut value = fixed.to_vec();
    if payload.is_empty() {
        return vec![Chunk::new(first, value)];
    }
    match room {
        Room::Value => value.extend(payload),
        Room::Parameter(kind) => {
            value.extend(kind.to_be_bytes());
            value.extend((4 + payload.len() as u16).to_be_bytes());
            value.extend(payload);
        }
        Room::Behind => {
            let padding = Chunk::new(kind::PAD, payload.to_vec());
            return vec![Chunk::new(first, value), padding];
        }
    }
    vec![Chunk::new(first, value)]
}

/// Where a packet carries its payload.
enum Room {
    /// In the chunk, behind its fixed fields.
    Value,
    /// There, in a parameter or error cause of this type.
    Parameter(u16),
    /// In a chunk of its own.
    Behind,
}

/// The fixed fields of a chunk of this type, and what may follow them.
fn shape(kind: u8) -> (&'static [u8], Room) {
    const STATE_COOKIE: u16 = 7;
    const HEARTBEAT_INFORMATION: u16 = 1;
    const USER_INITIATED_ABORT: u16 = 12;
    /// RFC 4820, section 4.
    const PADDING: u16 = 0x8005;
    // Initiate tag, window, streams out and in, first TSN.
    const OPENING: &[u8] = &[0, 0, 0, 9, 0, 0, 0xff, 0xff, 0, 1, 0, 1, 0, 0, 0, 8];
    // TSN, stream, sequence number in it, payload protocol.
    const DATA: &[u8] = &[0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    // TSN, window, no gaps, no duplicates.
    const SACK: &[u8] = &[0, 0, 0, 8, 0, 0, 0xff, 0xff, 0, 0, 0, 0];
    const TSN: &[u8] = &[0, 0, 0, 8];

    match kind {
        kind::DATA => (DATA, Room::Value),
        kind::INIT => (OPENING, Room::Parameter(PADDING)),
        kind::INIT_ACK => (OPENING, Room::Parameter(STATE_COOKIE)),
        kind::SACK => (SACK, Room::Behind),
        kind::HEARTBEAT | kind::HEARTBEAT_ACK => (&[], Room::Parameter(HEARTBEAT_INFORMATION)),
        kind::ABORT => (&[], Room::Parameter(USER_INITIATED_ABORT)),
        kind::SHUTDOWN => (TSN, Room::Behind),
        kind::SHUTDOWN_ACK | kind::COOKIE_ACK | kind::SHUTDOWN_COMPLETE => (&[], Room::Behind),
        _ => (&[], Room::Value),
    }
}

/// The CRC32c with zeros in the checksum's place, whose least significant byte
/// goes first (RFC 9260, appendix A).
fn checksum(bytes: &[u8]) -> u32 {
    let sum = crc32c::crc32c(&bytes[..8]);
    let sum = crc32c::crc32c_append(sum, &[0; 4]);
    crc32c::crc32c_append(sum, &bytes[HEADER..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(first: u8, payload: &[u8]) -> Vec<u8> {
        let packet = Packet {
            ports: [40_000, 80],
            tag: 9,
            chunks: carrying(first, payload),
        };
        let bytes = packet.bytes();
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(bytes[HEADER], first);
        assert_eq!(Packet::read(&bytes), Ok(packet));
        bytes
    }

    #[test]
    fn every_chunk_is_read_as_it_was_built() {
        for first in 0..=u8::MAX {
            for payload in [&b""[..], b"x", b"even", &[0xa5; 1400]] {
                check(first, payload);
            }
        }
    }

    #[test]
    fn flaws_are_named() {
        let bytes = check(kind::DATA, b"odd");
        let sealed = |mut bytes: Vec<u8>| {
            let sum = checksum(&bytes).to_le_bytes();
            bytes[8..HEADER].copy_from_slice(&sum);
            bytes
        };
        let mut long = bytes.clone();
        long[15] += 8;
        let mut short = bytes.clone();
        short[15] = 3;
        let table = [
            (bytes[..11].to_vec(), Flaw::Short(11)),
            (sealed(long), Flaw::Chunk(12)),
            (sealed(short), Flaw::Chunk(12)),
            (sealed([&bytes[..], &[0; 3]].concat()), Flaw::Chunk(32)),
        ];
        for (bytes, flaw) in table {
            assert_eq!(Packet::read(&bytes), Err(flaw), "{bytes:02x?}");
        }
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 4;
            assert!(matches!(Packet::read(&bytes), Err(Flaw::Checksum { .. })));
        }
    }
}

//! What chunks say (RFC 9260, section 3.3).

use crate::packet::sctp::{Chunk, kind};

/// What INIT and INIT-ACK tell of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Opening {
    /// Verification tag of the packets to it.
    pub(super) tag: u32,
    /// Its first transmission sequence number.
    pub(super) first: u32,
    /// INIT-ACK: what the client is to say again.
    pub(super) cookie: Vec<u8>,
}

const STATE_COOKIE: u16 = 7;
const WINDOW: u32 = 0x1_0000;

impl Opening {
    pub(super) fn init(&self) -> Chunk {
        Chunk::new(kind::INIT, self.fixed())
    }

    pub(super) fn init_ack(&self) -> Chunk {
        let mut value = self.fixed();
        value.extend(STATE_COOKIE.to_be_bytes());
        value.extend((4 + self.cookie.len() as u16).to_be_bytes());
        value.extend(&self.cookie);
        Chunk::new(kind::INIT_ACK, value)
    }

    pub(super) fn read(value: &[u8]) -> Option<Self> {
        let cookie = match value.get(16..20) {
            Some(head) if head[..2] == STATE_COOKIE.to_be_bytes() => {
                let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
                value.get(20..16 + length)?.to_vec()
            }
            Some(_) => return None,
            None => Vec::new(),
        };
        Some(Self {
            tag: word(value, 0)?,
            first: word(value, 12)?,
            cookie,
        })
    }

    fn fixed(&self) -> Vec<u8> {
        let one_stream_each_way = 0x1_0001_u32;
        [self.tag, WINDOW, one_stream_each_way, self.first]
            .map(u32::to_be_bytes)
            .concat()
    }
}

/// A whole message.
pub(super) fn data(number: u32, message: &[u8]) -> Chunk {
    let fixed = [number, 0, 0].map(u32::to_be_bytes).concat();
    Chunk::new(kind::DATA, [&fixed, message].concat())
}

/// Transmission sequence number and message of a DATA chunk.
pub(super) fn read_data(value: &[u8]) -> Option<(u32, &[u8])> {
    Some((word(value, 0)?, value.get(12..)?))
}

/// Everything up to this number has come.
pub(super) fn sack(number: u32) -> Chunk {
    let value = [number, WINDOW, 0].map(u32::to_be_bytes).concat();
    Chunk::new(kind::SACK, value)
}

pub(super) fn shutdown(number: u32) -> Chunk {
    Chunk::new(kind::SHUTDOWN, number.to_be_bytes().to_vec())
}

pub(super) fn empty(kind: u8) -> Chunk {
    Chunk::new(kind, Vec::new())
}

/// The word at this offset in bytes.
pub(super) fn word(value: &[u8], at: usize) -> Option<u32> {
    let bytes = value.get(at..)?.first_chunk()?;
    Some(u32::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openings_are_read_as_written() {
        let opening = |cookie: &[u8]| Opening {
            tag: 7,
            first: u32::MAX,
            cookie: cookie.to_vec(),
        };
        let table = [
            (opening(b"").init(), Some(opening(b""))),
            (opening(b"odd").init_ack(), Some(opening(b"odd"))),
            (opening(b"odd").init(), Some(opening(b""))),
            (Chunk::new(kind::INIT, vec![0; 15]), None),
            (Chunk::new(kind::INIT_ACK, vec![0xff; 24]), None),
        ];
        for (chunk, expect) in table {
            assert_eq!(Opening::read(&chunk.value), expect, "{chunk:?}");
        }
    }
}

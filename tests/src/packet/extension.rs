//! IPv6 extension headers (RFC 8200, section 4).

pub const HOP_BY_HOP: u8 = 0;
pub const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
pub const AUTHENTICATION: u8 = 51;
pub const DESTINATION: u8 = 60;

/// An extension header of `length` bytes, with nothing in it that asks for
/// anything: padding, no segments left, the only fragment of its packet.
pub(super) fn bytes(kind: u8, length: usize, next: u8) -> Vec<u8> {
    let units = match kind {
        // RFC 4302, section 2.2.
        AUTHENTICATION => length / 4 - 2,
        FRAGMENT => 0,
        _ => length / 8 - 1,
    };
    let mut bytes = vec![next, units as u8];
    match kind {
        // A type for experiments (RFC 4727, section 4), no segments left.
        ROUTING => bytes.extend([253, 0]),
        FRAGMENT => bytes.extend([0, 0, 0, 0, 0x12, 0x34]),
        AUTHENTICATION => bytes.extend([0, 0, 0, 0, 1, 0]),
        _ => padding(&mut bytes, length),
    }
    bytes.resize(length, 0);
    bytes
}

/// PadN options as long as they can be (RFC 8200, section 4.2).
fn padding(bytes: &mut Vec<u8>, length: usize) {
    while bytes.len() < length {
        let left = length - bytes.len();
        if left == 1 {
            bytes.push(0);
            return;
        }
        let data = (left - 2).min(255);
        bytes.extend([1, data as u8]);
        bytes.resize(bytes.len() + data, 0);
    }
}

//! Incremental update of the CRC32c of SCTP packets (RFC 9260, section 6.8).
//!
//! A CRC is linear: those of two packets of one length differ by the remainder
//! of the packets' difference, whatever else is in the packets and whatever the
//! CRC starts and ends with. Polynomials are reflected, as in the CRC itself:
//! the highest bit is the coefficient of x^0.

/// What to exclusive-or into the checksum field when the ports of an SCTP packet
/// change from `old` to `new` and nothing else does.
///
/// Ports are source and destination in network byte order, as they lie in
/// memory, and so are the field and the result: the field has the CRC's least
/// significant byte first (RFC 9260, appendix A). `behind` counts the bytes from
/// the end of the ports to the end of the SCTP packet, the padding of its last
/// chunk included, that of the link layer not.
#[inline(always)]
#[must_use]
pub const fn change(old: [u16; 2], new: [u16; 2], behind: u16) -> u32 {
    let difference = long(old) ^ long(new);
    let [low, high] = behind.to_le_bytes();
    let product = multiply(difference, BYTES[low as usize]);
    multiply(product, BLOCKS[high as usize]).to_le()
}

/// CRC32c's, without x^32.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// x^(8 * (n + 4)): the remainder is that of the bytes and four more, zeros.
static BYTES: [u32; 256] = powers(power(4), power(1));
/// x^(8 * 256 * n).
static BLOCKS: [u32; 256] = powers(power(0), power(256));

/// `first`, and each the one before it by `step`.
const fn powers(first: u32, step: u32) -> [u32; 256] {
    let mut powers = [first; 256];
    let mut n = 1;
    while n < powers.len() {
        powers[n] = multiply(powers[n - 1], step);
        n += 1;
    }
    powers
}

/// x^(8 * bytes).
const fn power(bytes: usize) -> u32 {
    let mut power = 1 << 31;
    let mut n = 0;
    while n < bytes {
        power = multiply(power, 1 << (31 - 8));
        n += 1;
    }
    power
}

/// The product modulo the polynomial. The lowest bits, which have the highest
/// powers, go away with the multiple of the modulus that ends in the same ones
/// (P. L. Montgomery, "Modular multiplication without trial division", 1985).
///
/// Bit by bit it would take the verifier a hundred times as long, and the CPU
/// twenty times.
#[inline(always)]
const fn multiply(left: u32, right: u32) -> u32 {
    let product = carryless(left, right);
    let multiple = carryless((product << 1) as u32, INVERSE) as u32;
    ((product ^ carryless(multiple, POLYNOMIAL)) >> 31) as u32
}

/// Times the modulus, whose x^32 is in the lowest bit, a one in 32 bits.
const INVERSE: u32 = inverse((POLYNOMIAL << 1) | 1);

/// By Newton's iteration: each turn doubles the number of right bits.
const fn inverse(of: u32) -> u32 {
    let mut inverse = 1;
    let mut bits = 1;
    while bits < u32::BITS {
        let almost_one = carryless(of, inverse) as u32;
        inverse = carryless(inverse, almost_one) as u32;
        bits *= 2;
    }
    inverse
}

/// The product without carries, of which there are none in ordinary products of
/// every fourth bit: at most eight ones meet in one place, which has room for
/// them up to the next.
#[inline(always)]
const fn carryless(left: u32, right: u32) -> u64 {
    const fn every_fourth(bits: u32, from: u32) -> u64 {
        (bits & (0x1111_1111 << from)) as u64
    }
    let mut product = 0;
    let mut place = 0;
    while place < 4 {
        let mut sum = 0;
        let mut from = 0;
        while from < 4 {
            sum ^= every_fourth(left, from) * every_fourth(right, (4 + place - from) % 4);
            from += 1;
        }
        product |= sum & (0x1111_1111_1111_1111 << place);
        place += 1;
    }
    product
}

/// The four bytes as a reflected polynomial: the first bit of the first byte on
/// the wire has the highest power.
#[inline(always)]
const fn long(ports: [u16; 2]) -> u32 {
    let [a, b] = ports[0].to_ne_bytes();
    let [c, d] = ports[1].to_ne_bytes();
    u32::from_le_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELD: core::ops::Range<usize> = 8..12;

    /// Bit by bit, over any bytes.
    fn plain(bytes: &[u8]) -> u32 {
        let mut register = !0_u32;
        for &byte in bytes {
            register ^= u32::from(byte);
            for _ in 0..8 {
                let carry = register & 1;
                register = (register >> 1) ^ (POLYNOMIAL * carry);
            }
        }
        !register
    }

    fn sealed(packet: &mut [u8]) -> [u8; 4] {
        packet[FIELD].fill(0);
        let field = crc32c::crc32c(packet).to_le_bytes();
        packet[FIELD].copy_from_slice(&field);
        field
    }

    fn ports(packet: &[u8]) -> [u16; 2] {
        [0, 2].map(|at| u16::from_ne_bytes([packet[at], packet[at + 1]]))
    }

    fn check(packet: &mut [u8], new: [u8; 4]) {
        let before = sealed(packet);
        let old = ports(packet);
        packet[..4].copy_from_slice(&new);
        let behind = u16::try_from(packet.len() - 4).unwrap();
        let change = change(old, ports(packet), behind);
        let field = u32::from_ne_bytes(before) ^ change;
        assert_eq!(
            field.to_ne_bytes(),
            sealed(packet),
            "{} bytes",
            packet.len()
        );
    }

    #[test]
    fn rfc_3720_b_4() {
        let ascending: [u8; 32] = core::array::from_fn(|index| index as u8);
        let descending: [u8; 32] = core::array::from_fn(|index| 31 - index as u8);
        let mut read = [0; 48];
        for (at, byte) in [
            (0, 0x01),
            (1, 0xc0),
            (16, 0x14),
            (22, 0x04),
            (27, 0x14),
            (31, 0x18),
            (32, 0x28),
            (40, 0x02),
        ] {
            read[at] = byte;
        }
        let table: [(&[u8], [u8; 4]); 5] = [
            (&[0; 32], [0xaa, 0x36, 0x91, 0x8a]),
            (&[0xff; 32], [0x43, 0xab, 0xa8, 0x62]),
            (&ascending, [0x4e, 0x79, 0xdd, 0x46]),
            (&descending, [0x5c, 0xdb, 0x3f, 0x11]),
            (&read, [0x56, 0x3a, 0x96, 0xd9]),
        ];
        for (bytes, field) in table {
            assert_eq!(plain(bytes).to_le_bytes(), field, "{bytes:02x?}");
            assert_eq!(crc32c::crc32c(bytes).to_le_bytes(), field, "{bytes:02x?}");
            let end = u16::try_from(bytes.len() - 4).unwrap();
            let mut changed = bytes.to_vec();
            changed[..4].copy_from_slice(&[0x12, 0x34, 0xab, 0xcd]);
            let change = change(ports(bytes), ports(&changed), end);
            assert_eq!(
                (u32::from_ne_bytes(field) ^ change).to_ne_bytes(),
                plain(&changed).to_le_bytes()
            );
        }
    }

    #[test]
    fn equals_the_crc_over_the_whole() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u32
        };
        let mut bytes = vec![0; 65_535];
        bytes.fill_with(|| random() as u8);
        let shortest = 12_usize..300;
        let around_powers = (8..16).flat_map(|bit| (1 << bit) - 6..(1 << bit) + 6);
        let longest = 65_500..=65_535;
        let mut lengths: Vec<usize> = shortest.chain(around_powers).chain(longest).collect();
        lengths.extend((0..500).map(|_| 12 + random() as usize % (65_535 - 11)));
        for length in lengths {
            check(&mut bytes[..length], random().to_ne_bytes());
        }
    }

    #[test]
    fn nothing_for_the_same_ports() {
        for behind in [0, 8, 1_460, u16::MAX] {
            assert_eq!(change([7, 9], [7, 9], behind), 0);
        }
    }

    #[test]
    fn each_single_bit_counts() {
        let mut bytes = [0x5a; 76];
        for bit in 0..32 {
            let new = (0x5a5a_5a5a_u32 ^ (1 << bit)).to_ne_bytes();
            bytes[..4].fill(0x5a);
            check(&mut bytes, new);
        }
    }
}

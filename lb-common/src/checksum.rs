//! Incremental update of the Internet checksum (RFC 1624, equation 3).
//!
//! Words are taken as they lie in memory; one's complement addition does not
//! care for byte order as long as all words share one (RFC 1071, section 2.B).

/// The one's complement sum of what left a packet and what came into it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta(u64);

impl Delta {
    #[inline(always)]
    #[must_use]
    pub const fn new() -> Self {
        Self(0)
    }

    /// Replaces a 16-bit word at an even offset.
    #[inline(always)]
    #[must_use]
    pub const fn word(self, old: u16, new: u16) -> Self {
        Self(self.0 + (!old) as u64 + new as u64)
    }

    /// Replaces a 32-bit word at an even offset.
    #[inline(always)]
    #[must_use]
    pub const fn long(self, old: u32, new: u32) -> Self {
        Self(self.0 + (!old) as u64 + new as u64)
    }

    /// Replaces four 32-bit words at an even offset.
    #[inline(always)]
    #[must_use]
    pub const fn longs(self, old: &[u32; 4], new: &[u32; 4]) -> Self {
        self.long(old[0], new[0])
            .long(old[1], new[1])
            .long(old[2], new[2])
            .long(old[3], new[3])
    }

    /// Takes up a sum over bytes that come in, folded to 32 bits (`__wsum`).
    #[inline(always)]
    #[must_use]
    pub const fn sum(self, sum: u32) -> Self {
        Self(self.0 + sum as u64)
    }

    /// Takes up four 32-bit words that come in.
    #[inline(always)]
    #[must_use]
    pub const fn sums(self, words: &[u32; 4]) -> Self {
        self.sum(words[0]).sum(words[1]).sum(words[2]).sum(words[3])
    }

    /// Both changes.
    #[inline(always)]
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// Folded to 32 bits, as the kernel's checksum helpers take it (`__wsum`).
    #[inline(always)]
    #[must_use]
    pub const fn wsum(self) -> u32 {
        let sum = (self.0 >> 32) + (self.0 & 0xffff_ffff);
        ((sum >> 32) + sum) as u32
    }

    /// Folded to 16 bits.
    #[inline(always)]
    #[must_use]
    pub const fn fold(self) -> u16 {
        !self.apply(0xffff)
    }

    /// The checksum field after the change.
    #[inline(always)]
    #[must_use]
    pub const fn apply(self, checksum: u16) -> u16 {
        let mut sum = self.wsum() as u64 + (!checksum) as u64;
        sum = (sum >> 16) + (sum & 0xffff);
        sum = (sum >> 16) + (sum & 0xffff);
        sum = (sum >> 16) + (sum & 0xffff);
        !(sum as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(words: &[u16]) -> u16 {
        let mut sum: u32 = words.iter().map(|&word| u32::from(word)).sum();
        while sum >> 16 != 0 {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        !(sum as u16)
    }

    #[test]
    fn rfc_1624_section_4() {
        // C = 0xDD2F, m = 0x5555 becomes m' = 0x3285; the result is 0x0000.
        assert_eq!(Delta::new().word(0x5555, 0x3285).apply(0xdd2f), 0x0000);
    }

    #[test]
    fn equals_the_sum_over_the_whole() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u16
        };
        for _ in 0..20_000 {
            let mut words = [0_u16; 20];
            words.fill_with(&mut random);
            let before = full(&words);
            let mut delta = Delta::new();
            for index in [2, 7, 19] {
                let new = random();
                delta = delta.word(words[index], new);
                words[index] = new;
            }
            for index in [4, 10] {
                let long = |words: &[u16]| {
                    let [a, b] = words[index].to_ne_bytes();
                    let [c, d] = words[index + 1].to_ne_bytes();
                    u32::from_ne_bytes([a, b, c, d])
                };
                let old = long(&words);
                words[index] = random();
                words[index + 1] = random();
                delta = delta.long(old, long(&words));
            }
            assert_eq!(delta.apply(before), full(&words));
        }
    }
}

//! Ports that frontends may have, a bit each: to look for a frontend of a port that
//! none has would wait for a line of a large hash table, for nothing.

/// Words of the map.
pub const WORDS: u32 = (1 << u16::BITS) / u64::BITS;

/// Index of a port's word, and its bit of that.
#[inline(always)]
#[must_use]
pub const fn place(port: u16) -> (u32, u64) {
    let port = port as u32;
    (port / u64::BITS, 1 << (port % u64::BITS))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_port_has_a_bit_of_its_own() {
        let places: BTreeSet<_> = (0..=u16::MAX).map(place).collect();
        assert_eq!(places.len(), 1 << 16);
        let within = |&(word, bit): &(u32, u64)| word < WORDS && bit.is_power_of_two();
        assert!(places.iter().all(within));
    }
}

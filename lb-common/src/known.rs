//! Which keys the connection tables may hold: two sets of bits, of which one is
//! asked while the other is made anew. A bit that is set says nothing, one that
//! is not says that no element has this key. So most packets that are of no
//! connection are known for it without a look at the tables.

/// Words of one set.
pub const WORDS: u32 = 1 << 15;
/// Of the map: the number of the set that is asked, then both sets.
pub const ELEMENTS: u32 = 1 + 2 * WORDS;
/// Index of the word that says which set is asked, 0 or 1.
pub const ASKED: u32 = 0;

/// Word of a set, and bit in it, for a key of this [`crate::Tuple::check`].
#[inline(always)]
#[must_use]
pub const fn place(check: u32) -> (u32, u64) {
    const BITS: u32 = WORDS.ilog2() + u64::BITS.ilog2();
    let hash = check.wrapping_mul(0x9e37_79b1) >> (u32::BITS - BITS);
    (hash >> 6, 1 << (hash & 63))
}

/// Index of a word into the map.
#[inline(always)]
#[must_use]
pub const fn index(set: u32, word: u32) -> u32 {
    1 + set * WORDS + word
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn places_are_within_and_spread() {
        let places: BTreeSet<_> = (0..10_000_u32)
            .map(|n| place(n.wrapping_mul(7_919)))
            .collect();
        assert!(places.len() > 9_900, "{}", places.len());
        for (word, bit) in places {
            assert!(word < WORDS && bit.count_ones() == 1);
            assert!(index(1, word) < ELEMENTS && index(0, word) < index(1, 0));
        }
    }
}

//! Which keys the connection tables may hold: two sets of marks, of which one is
//! asked while the other is made anew. A mark that is set says nothing, one that is
//! not says that no element has this key. So most packets that are of no connection
//! are known for it without a look at the tables.
//!
//! A mark is a byte, which a program sets without waiting for its cache line, as it
//! would have to for a bit.

/// Words of one set.
pub const WORDS: u32 = 1 << 16;
/// Of the map: the number of the set that is asked, then both sets.
pub const ELEMENTS: u32 = 1 + 2 * WORDS;
/// Index of the word that says which set is asked, 0 or 1.
pub const ASKED: u32 = 0;

/// Where a mark is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// Word of a set.
    pub word: u32,
    /// Byte of that, 0 to 7.
    pub byte: u32,
}

impl Mark {
    /// For a key of this [`crate::Tuple::check`].
    #[inline(always)]
    #[must_use]
    pub const fn of(check: u32) -> Self {
        const BITS: u32 = WORDS.ilog2() + size_of::<u64>().ilog2();
        let hash = check.wrapping_mul(0x9e37_79b1) >> (u32::BITS - BITS);
        Self {
            word: hash >> 3,
            byte: hash & 7,
        }
    }

    /// What it sets of its word.
    #[must_use]
    pub fn bits(self) -> u64 {
        let mut bytes = [0; size_of::<u64>()];
        bytes[self.byte as usize] = u8::MAX;
        u64::from_ne_bytes(bytes)
    }
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
    fn marks_are_within_and_spread() {
        let marks: BTreeSet<_> = (0..10_000_u32)
            .map(|n| Mark::of(n.wrapping_mul(7_919)))
            .collect();
        assert!(marks.len() > 9_800, "{}", marks.len());
        for mark in marks {
            let word = mark.word;
            assert!(word < WORDS && mark.bits().count_ones() == u8::BITS);
            assert!(index(1, word) < ELEMENTS && index(0, word) < index(1, 0));
        }
    }
}

//! Which keys the connection tables may hold: two sets of marks, of which one is
//! asked while the other is made anew. A mark that is set says nothing, one that is
//! not says that no element has this key. So most packets that are of no connection
//! are known for it without a look at the tables.
//!
//! The marks of a key in both sets share a word: to enter one takes one operation, on
//! one cache line of few.

/// Keys that have a mark of their own.
const MARKS: u32 = 1 << 20;
const MARKS_OF_WORD: u32 = u64::BITS / 2;
const WORDS: u32 = MARKS / MARKS_OF_WORD;
/// Of the map: the number of the set that is asked, then the words of both.
pub const ELEMENTS: u32 = 1 + WORDS;
/// Index of the word that says which set is asked, 0 or 1.
pub const ASKED: u32 = 0;

/// Where the marks of a key are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// Index into the map.
    pub word: u32,
    bit: u32,
}

impl Mark {
    /// For a key of this [`crate::Tuple::check`].
    #[inline(always)]
    #[must_use]
    pub const fn of(check: u32) -> Self {
        let hash = check.wrapping_mul(0x9e37_79b1) >> (u32::BITS - MARKS.ilog2());
        Self {
            word: 1 + hash / MARKS_OF_WORD,
            bit: hash % MARKS_OF_WORD,
        }
    }

    /// Its bit of the word.
    #[inline(always)]
    #[must_use]
    pub const fn in_set(self, set: u32) -> u64 {
        1 << (self.bit + set * MARKS_OF_WORD)
    }

    /// Its bits of the word.
    #[inline(always)]
    #[must_use]
    pub const fn in_both(self) -> u64 {
        self.in_set(0) | self.in_set(1)
    }
}

/// What a set has of each word.
#[must_use]
pub const fn all_of(set: u32) -> u64 {
    (u32::MAX as u64) << (set * MARKS_OF_WORD)
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
            assert!((1..ELEMENTS).contains(&mark.word) && mark.word != ASKED);
            assert_eq!(mark.in_both().count_ones(), 2);
            for set in [0, 1] {
                assert_eq!(mark.in_both() & all_of(set), mark.in_set(set));
            }
        }
    }
}

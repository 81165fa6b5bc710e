//! The table of connections: sets of a few elements. A hash of its key says in which
//! set an element is. Where a set is full, a new element takes the place of the
//! unassured one that was seen last the longest ago. Of a set, only so many may be
//! assured; more go to another table.
//!
//! The hash is keyed: who could choose packets that share a set could have any
//! connection in it forgotten.

use crate::{connection::Connection, connection::Tuple, layout::layout};

/// Elements of a set.
pub const WAYS: usize = 7;
/// Those of them that may be assured: the rest is what [`sets`] counts on.
pub const ASSURED: usize = WAYS - FOR_UNASSURED;
const FOR_UNASSURED: usize = WAYS.div_ceil(2);

/// How many sets there are for so many unassured elements. The hash fills sets
/// unevenly: of as many elements as they are for, 2 % are more than their set takes;
/// of half as many, 0.07 %.
#[must_use]
pub const fn sets(elements: u32) -> u32 {
    elements.div_ceil(FOR_UNASSURED as u32)
}

layout! {
    /// What is in a set: one cache line. The elements are in a map of their own: to
    /// look for what is not there touches little memory.
    pub struct Set: 64 {
        pub lock: bpf_spin_lock,
        /// Another number whenever an element was entered.
        pub changes: u32,
        pub marks: [Mark; WAYS],
    }
}

/// Where the marks begin in a [`Set`], in bytes.
pub const MARKS: usize = core::mem::offset_of!(Set, marks);

layout! {
    /// The elements of a set, at the same index as their marks.
    pub struct Members: 1064 {
        pub elements: [Element; WAYS],
    }
}

layout! {
    pub struct Element: 152 {
        pub key: Tuple,
        pub connection: Connection,
    }
}

layout! {
    /// What the kernel knows by this name (`linux/bpf.h`): to be held by programs
    /// that enter an element.
    pub struct bpf_spin_lock: 4 {
        pub val: u32,
    }
}

layout! {
    /// One word: the element's tag, or 0 if there is none (upper half), whether it is
    /// assured (a bit), a version (seven bits), and the lower bits of the jiffies when
    /// it was seen last.
    pub struct Mark: 8 {
        pub packed: u64,
    }
}

impl Mark {
    const VERSION: u32 = 24;
    /// Of the jiffies, those that a mark holds.
    const SEEN: u32 = (1 << Self::VERSION) - 1;
    const ASSURED: u32 = 1 << 31;
    const VERSIONS: u32 = !Self::SEEN & !Self::ASSURED;
    /// More than [`Self::idle`] of any element.
    pub const FREE: u32 = 1 << Self::VERSION;

    /// In place of `self`, for an element with this tag.
    #[inline(always)]
    #[must_use]
    pub const fn next(self, tag: u32, now: u32) -> Self {
        let version = (self.packed as u32).wrapping_add(Self::FREE) & Self::VERSIONS;
        Self {
            packed: (tag as u64) << 32 | (version | now & Self::SEEN) as u64,
        }
    }

    /// In place of `self`, for no element.
    #[inline(always)]
    #[must_use]
    pub const fn cleared(self) -> Self {
        Self {
            packed: (self.packed as u32 & Self::VERSIONS) as u64,
        }
    }

    /// The same element, seen now.
    #[inline(always)]
    #[must_use]
    pub const fn seen(self, now: u32) -> Self {
        Self {
            packed: self.packed & !(Self::SEEN as u64) | (now & Self::SEEN) as u64,
        }
    }

    /// The same element, but none [`Self::is_of`] the marks that it had.
    #[inline(always)]
    #[must_use]
    pub const fn renewed(self) -> Self {
        let Self { packed } = self.next(self.tag(), self.packed as u32);
        Self {
            packed: packed | self.packed & Self::ASSURED as u64,
        }
    }

    /// The same element, assured or not.
    #[inline(always)]
    #[must_use]
    pub const fn with_assured(self, assured: bool) -> Self {
        let packed = self.packed & !(Self::ASSURED as u64);
        Self {
            packed: match assured {
                true => packed | Self::ASSURED as u64,
                false => packed,
            },
        }
    }

    #[inline(always)]
    #[must_use]
    pub const fn is_assured(self) -> bool {
        self.packed & Self::ASSURED as u64 != 0
    }

    /// Whether both are of the same element.
    #[inline(always)]
    #[must_use]
    pub const fn is_of(self, other: Self) -> bool {
        (self.packed ^ other.packed) & !((Self::SEEN | Self::ASSURED) as u64) == 0
    }

    #[inline(always)]
    #[must_use]
    pub const fn tag(self) -> u32 {
        (self.packed >> 32) as u32
    }

    /// Jiffies since the element was seen last, as far as the mark can tell.
    #[inline(always)]
    #[must_use]
    pub const fn idle(self, now: u32) -> u32 {
        now.wrapping_sub(self.packed as u32) & Self::SEEN
    }
}

/// Where to look for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index of the set.
    pub set: u32,
    /// Not 0. A set has one element of a tag at most.
    pub tag: u32,
}

layout! {
    /// What the hash is keyed with; all zero: nothing yet.
    pub struct Secret: 40 {
        pub words: [u32; 10],
    }
}

impl Place {
    /// NH of the secret (RFC 4418, section 5.2.2), mixed.
    #[inline(always)]
    #[must_use]
    pub const fn of(key: &Tuple, secret: &Secret, sets: u32) -> Self {
        const fn product(a: u32, b: u32) -> u64 {
            (a as u64).wrapping_mul(b as u64)
        }
        let [a, b, c, d] = key.source.words;
        let [e, f, g, h] = key.destination.words;
        let ports = (key.source_port as u32) << 16 | key.destination_port as u32;
        let [k0, k1, k2, k3, k4, k5, k6, k7, k8, k9] = secret.words;
        let sum = product(a.wrapping_add(k0), b.wrapping_add(k1))
            .wrapping_add(product(c.wrapping_add(k2), d.wrapping_add(k3)))
            .wrapping_add(product(e.wrapping_add(k4), f.wrapping_add(k5)))
            .wrapping_add(product(g.wrapping_add(k6), h.wrapping_add(k7)))
            .wrapping_add(product(
                ports.wrapping_add(k8),
                (key.protocol as u32).wrapping_add(k9),
            ));
        let mixed = (sum ^ sum >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self {
            set: ((mixed >> 32).wrapping_mul(sets as u64) >> 32) as u32,
            tag: mixed as u32 | 1,
        }
    }
}

impl Set {
    /// Index and mark of every element that is there.
    pub fn iter(&self) -> impl Iterator<Item = (usize, Mark)> {
        let all = (0..).zip(self.marks);
        all.filter(|(_, mark)| mark.tag() != 0)
    }

    /// Index of the element with this tag.
    #[must_use]
    pub fn find(&self, tag: u32) -> Option<usize> {
        self.iter()
            .find(|(_, mark)| mark.tag() == tag)
            .map(|(way, _)| way)
    }

    /// Index of what makes room for an element with this tag: the one that has it,
    /// or the unassured one that was seen last the longest ago.
    #[must_use]
    pub fn room(&self, tag: u32, now: u32) -> Option<usize> {
        const FREE: i64 = Mark::FREE as i64;
        let rank = |mark: Mark| match mark.tag() {
            held if held == tag => FREE + 1,
            0 => FREE,
            // Seen after `now`, it is the younger.
            _ => match i64::from(mark.idle(now)) {
                idle if idle > FREE / 2 => idle - FREE,
                idle => idle,
            },
        };
        (0..WAYS)
            .filter(|&way| !self.marks[way].is_assured() || self.marks[way].tag() == tag)
            .max_by_key(|&way| rank(self.marks[way]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Address;

    const KEYED: Secret = Secret {
        words: [
            0x1234_5671,
            0x89ab_cde3,
            0x0f1e_2d35,
            0x4b5a_6977,
            0x8796_a5b9,
            0xc3d2_e1fb,
            0x1357_9bdf,
            0x2468_ace1,
            0x9e37_79b3,
            0x7f4a_7c15,
        ],
    };

    fn key(number: u32) -> Tuple {
        Tuple {
            source: Address::v4(0x0100_000a),
            destination: Address::v4(0x0100_600a + (number >> 14 << 24)),
            source_port: (number as u16 & 0x3fff).to_be(),
            destination_port: 80_u16.to_be(),
            protocol: 6,
            reserved: 0,
            reserved2: 0,
        }
    }

    #[test]
    fn elements_spread_over_the_sets() {
        const ELEMENTS: u32 = 1 << 16;
        let count = sets(ELEMENTS);
        let mut held = vec![0_usize; count as usize];
        for number in 0..ELEMENTS {
            let place = Place::of(&key(number), &KEYED, count);
            held[place.set as usize] += 1;
            assert_ne!(place.tag, 0);
        }
        let lost: usize = held.iter().map(|held| held.saturating_sub(WAYS)).sum();
        assert!(lost < ELEMENTS as usize / 30, "{lost}");
    }

    #[test]
    fn another_secret_is_another_order() {
        let another = Secret {
            words: KEYED.words.map(|word| word.rotate_left(7)),
        };
        let same = (0..1000).filter(|&number| {
            let [a, b] = [KEYED, another].map(|secret| Place::of(&key(number), &secret, 1 << 12));
            a.set == b.set
        });
        assert!(same.count() < 10);
    }

    #[test]
    fn marks_tell_elements_apart() {
        let free = Mark::default();
        let first = free.next(7, 0x0123_4567);
        assert_eq!((first.tag(), free.tag()), (7, 0));
        assert_eq!(first.idle(0x0123_4570), 9);
        assert_eq!(first.idle(0x0023_4567), 0);
        assert!(first.is_of(first.seen(0x0199_9999)));
        assert_eq!(first.seen(0x0199_9999).idle(0x0199_999a), 1);
        let again = first.cleared().next(7, 0x0123_4567);
        assert!(!again.is_of(first) && !first.cleared().is_of(first));
        assert_eq!(first.cleared().tag(), 0);
        let assured = first.with_assured(true);
        assert!(assured.is_assured() && assured.is_of(first) && !first.is_assured());
        assert!(assured.seen(9).is_assured() && !assured.cleared().is_assured());
        assert!(!assured.next(7, 1).is_assured());
        assert_eq!(assured.with_assured(false), first);
        let renewed = assured.renewed();
        assert!(renewed.is_assured() && !renewed.is_of(assured));
        assert_eq!((renewed.tag(), renewed.idle(0x0123_4570)), (7, 9));
        let mut mark = free;
        for _ in 0..300 {
            let next = mark.next(7, 1);
            assert!(!next.is_of(mark));
            assert_eq!((next.tag(), next.idle(1)), (7, 0));
            mark = next;
        }
    }

    #[test]
    fn room_is_made_by_the_same_tag_then_by_none_then_by_the_oldest() {
        let mut set = Set::default();
        for (way, mark) in set.marks.iter_mut().enumerate() {
            *mark = mark.next(way as u32 + 1, 100 + way as u32);
        }
        assert_eq!(set.room(99, 200), Some(0));
        assert_eq!(set.room(5, 200), Some(4));
        assert_eq!(set.room(99, 103), Some(0));
        set.marks[0] = set.marks[0].seen(200);
        assert_eq!(set.room(99, 200), Some(1));
        set.marks[6] = set.marks[6].cleared();
        assert_eq!((set.room(99, 200), set.room(3, 200)), (Some(6), Some(2)));
        assert_eq!((set.find(3), set.iter().count()), (Some(2), 6));
        set.marks[2] = set.marks[2].cleared();
        assert_eq!((set.find(3), set.iter().count()), (None, 5));
        set.marks[2] = set.marks[2].next(3, 150);
        for way in [0, 1, 6] {
            set.marks[way] = set.marks[way].next(way as u32 + 1, 1).with_assured(true);
        }
        assert_eq!((set.room(99, 200), set.room(1, 200)), (Some(3), Some(0)));
        set.marks = set.marks.map(|mark| mark.with_assured(true));
        assert_eq!(set.room(99, 200), None);
    }
}

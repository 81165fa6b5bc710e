//! Numbers to hand out: backend ids, and runs of backend slots. Pure; time is
//! whatever clock the caller counts.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use lb_common::Slice;

/// How long a freed run of slots, or set of sources, stays as it is: far longer than any program
/// that read a frontend before the swap may still run.
pub(super) const SLOT_GRACE: Duration = Duration::from_secs(5);
/// How long a freed id rests. Its generation tells old connections apart
/// anyway; the rest keeps generations from wrapping in a churning cluster.
const ID_GRACE: Duration = Duration::from_secs(60);

/// Backend ids below a limit, each with the generation it is to be used with.
#[derive(Debug)]
pub(crate) struct Ids {
    limit: u32,
    first: u32,
    next: u32,
    /// (free from, id, generation), oldest first.
    freed: VecDeque<(Duration, u32, u32)>,
}

impl Ids {
    /// Ids that were never used start with generation `first`.
    pub(crate) fn new(limit: u32, first: u32) -> Self {
        Self {
            limit,
            first,
            next: 0,
            freed: VecDeque::new(),
        }
    }

    /// Notes an id found in the kernel; ids below it that nobody notes are
    /// handed out again.
    pub(crate) fn found(&mut self, id: u32, retired: Option<u32>) {
        for skipped in self.next..id {
            self.freed.push_back((Duration::ZERO, skipped, self.first));
        }
        self.next = self.next.max(id + 1);
        if let Some(generation) = retired {
            self.freed.push_back((Duration::ZERO, id, generation));
        }
    }

    /// An id and its generation, or `None` when all are in use.
    pub(crate) fn take(&mut self, now: Duration) -> Option<(u32, u32)> {
        let rested = self.freed.front().is_some_and(|&(at, ..)| at <= now);
        if rested || self.next == self.limit {
            return self
                .freed
                .pop_front()
                .map(|(_, id, generation)| (id, generation));
        }
        self.next += 1;
        Some((self.next - 1, self.first))
    }

    pub(crate) fn free(&mut self, id: u32, generation: u32, now: Duration) {
        self.freed.push_back((now + ID_GRACE, id, generation));
    }
}

/// Runs of slots below a limit, first fit.
#[derive(Debug)]
pub(crate) struct Slots {
    /// Base -> length of the gaps.
    gaps: BTreeMap<u32, u32>,
    freed: VecDeque<(Duration, Slice)>,
}

impl Slots {
    pub(crate) fn new(limit: u32) -> Self {
        Self {
            gaps: BTreeMap::from([(0, limit)]),
            freed: VecDeque::new(),
        }
    }

    /// Takes a run that the kernel's frontends use. `false` if it does not lie
    /// whole in a gap.
    pub(crate) fn reserve(&mut self, slice: Slice) -> bool {
        let Some((&base, &length)) = self.gaps.range(..=slice.base).next_back() else {
            return false;
        };
        let before = slice.base - base;
        let Some(after) = length
            .checked_sub(before)
            .and_then(|rest| rest.checked_sub(slice.count))
        else {
            return false;
        };
        self.gaps.remove(&base);
        if before > 0 {
            self.gaps.insert(base, before);
        }
        if after > 0 {
            self.gaps.insert(slice.base + slice.count, after);
        }
        true
    }

    /// A run of `count` > 0 slots, or `None` when there is none that long.
    pub(crate) fn take(&mut self, count: u32, now: Duration) -> Option<Slice> {
        self.settle(now);
        let (&base, _) = self.gaps.iter().find(|&(_, &length)| length >= count)?;
        let slice = Slice { base, count };
        self.reserve(slice).then_some(slice)
    }

    pub(crate) fn free(&mut self, slice: Slice, now: Duration) {
        if slice.count > 0 {
            self.freed.push_back((now + SLOT_GRACE, slice));
        }
    }

    /// Gives runs whose grace is over back, joined with their neighbours.
    fn settle(&mut self, now: Duration) {
        while let Some((_, slice)) = self.freed.pop_front_if(|&mut (at, _)| at <= now) {
            let (mut base, mut length) = (slice.base, slice.count);
            if let Some((&left, &size)) = self.gaps.range(..base).next_back()
                && left + size == base
            {
                self.gaps.remove(&left);
                (base, length) = (left, size + length);
            }
            if let Some(size) = self.gaps.remove(&(base + length)) {
                length += size;
            }
            self.gaps.insert(base, length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATER: Duration = Duration::from_secs(3600);

    #[test]
    fn ids_rest_before_reuse_and_keep_their_generation() {
        let mut ids = Ids::new(3, 1);
        assert_eq!(ids.take(Duration::ZERO), Some((0, 1)));
        ids.free(0, 2, Duration::ZERO);
        assert_eq!(ids.take(Duration::ZERO), Some((1, 1)));
        assert_eq!(ids.take(LATER), Some((0, 2)));
        assert_eq!(ids.take(LATER), Some((2, 1)));
        assert_eq!(ids.take(LATER), None);
        ids.free(1, 9, LATER);
        assert_eq!(ids.take(LATER), Some((1, 9)), "exhaustion ends the rest");
    }

    #[test]
    fn ids_found_in_the_kernel_are_not_handed_out() {
        let mut ids = Ids::new(4, 1);
        ids.found(1, None);
        ids.found(2, Some(7));
        let mut taken: Vec<_> = std::iter::from_fn(|| ids.take(LATER)).collect();
        taken.sort_unstable();
        assert_eq!(taken, [(0, 1), (2, 7), (3, 1)]);
    }

    #[test]
    fn slots_are_contiguous_and_join_again() {
        let mut slots = Slots::new(10);
        let a = slots.take(4, Duration::ZERO).unwrap();
        let b = slots.take(4, Duration::ZERO).unwrap();
        assert_eq!((a.base, b.base), (0, 4));
        assert_eq!(slots.take(3, Duration::ZERO), None);
        slots.free(a, Duration::ZERO);
        slots.free(b, Duration::ZERO);
        assert_eq!(slots.take(3, Duration::ZERO), None, "grace");
        assert_eq!(slots.take(10, LATER), Some(Slice { base: 0, count: 10 }));
    }

    #[test]
    fn slots_reserve_what_is_free_only() {
        let mut slots = Slots::new(10);
        for (base, count, free) in [(2, 3, true), (4, 1, false), (0, 2, true), (9, 2, false)] {
            assert_eq!(slots.reserve(Slice { base, count }), free, "{base}+{count}");
        }
        assert_eq!(slots.take(5, LATER), Some(Slice { base: 5, count: 5 }));
    }
}

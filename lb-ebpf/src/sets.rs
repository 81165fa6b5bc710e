//! The table of unassured connections, as [`lb_common::sets`] lays it out.
//!
//! Who changes which elements a set has, holds its lock. Who reads does not, and
//! looks at the mark once more: it is another one if the element is.

use core::ptr;

use aya_ebpf::{
    bindings::bpf_spin_lock,
    btf_maps::Array,
    helpers::{bpf_spin_lock as lock, bpf_spin_unlock as unlock},
    macros::btf_map,
};
use lb_common::{
    Connection, Tuple, maps,
    sets::{ELEMENTS, Element, MARKS, Mark, Place, Set, WAYS, sets},
};

use crate::{
    atomic, clock,
    connections::Entered,
    networks,
    scratch::{barrier, hidden},
    words::{copy_connection, is_same},
};

const DEFAULT_SETS: u32 = sets(maps::UNASSURED as u32);
/// `BPF_F_MMAPABLE`, for the sake of its alignment: the marks of a set share one
/// cache line.
const ALIGNED: usize = 1 << 10;

#[btf_map]
static UNASSURED: Array<Set, { DEFAULT_SETS as usize }, ALIGNED> = Array::new();

/// How many sets the map has; the agent says so before it loads the programs.
#[unsafe(no_mangle)]
static UNASSURED_SETS: u32 = DEFAULT_SETS;

/// Where an element is.
#[derive(Clone, Copy)]
pub(crate) struct Slot {
    mark: *mut Mark,
    element: *mut Element,
}

impl Slot {
    /// The connection, which may go to another key at any time.
    #[inline(always)]
    pub(crate) fn connection(self) -> *mut Connection {
        // SAFETY: within the element.
        unsafe { &raw mut (*self.element).connection }
    }

    #[inline(always)]
    pub(crate) fn mark(self) -> Mark {
        // SAFETY: one aligned word of the map.
        unsafe { ptr::read_volatile(self.mark) }
    }

    #[inline(always)]
    fn has(self, key: &Tuple) -> bool {
        // SAFETY: the element begins with its key.
        unsafe { is_same(self.element.cast(), key) }
    }
}

/// The element with this key, and its mark.
#[inline(always)]
pub(crate) fn find(key: &Tuple) -> Option<(Slot, Mark)> {
    let (set, tag) = set(key)?;
    let slot = slot(set, tagged(set, tag))?;
    let mark = slot.mark();
    (mark.tag() == tag && slot.has(key)).then_some((slot, mark))
}

/// Keeps the element from being the next that makes room.
#[inline(always)]
pub(crate) fn touch(key: &Tuple, now: u32) {
    if let Some((slot, mark)) = find(key) {
        // SAFETY: one aligned word of the map. If it fails, the element is another
        // one, or another packet was faster.
        unsafe { atomic::swap(slot.mark.cast(), mark.word, mark.seen(now).word) };
    }
}

/// Enters an element; `replaces` the one that has the key.
#[inline(always)]
pub(crate) fn enter(key: &Tuple, connection: &Connection, replaces: bool) -> Entered {
    let now = clock::now();
    let Some((set, tag)) = set(key) else {
        return Entered::Refused;
    };
    let guard = guard(set);
    // SAFETY: the set's lock, and no other is held.
    unsafe { lock(guard) };
    let entered = enter_locked(set, tag, key, connection, replaces, now);
    // SAFETY: as above.
    unsafe { unlock(guard) };
    entered
}

/// Whether it was there.
#[inline(always)]
pub(crate) fn remove(key: &Tuple) -> bool {
    let Some((set, tag)) = set(key) else {
        return false;
    };
    let guard = guard(set);
    // SAFETY: the set's lock, and no other is held.
    unsafe { lock(guard) };
    let mut removed = false;
    if let Some(slot) = slot(set, tagged(set, tag))
        && slot.has(key)
    {
        // SAFETY: one aligned word of the map.
        unsafe { ptr::write_volatile(slot.mark, slot.mark().cleared()) };
        removed = true;
    }
    // SAFETY: as above.
    unsafe { unlock(guard) };
    removed
}

#[inline(always)]
fn enter_locked(
    set: *mut Set,
    tag: u32,
    key: &Tuple,
    connection: &Connection,
    replaces: bool,
    now: u32,
) -> Entered {
    let held = tagged(set, tag);
    let way = match held {
        NONE => oldest(set, now),
        held => held,
    };
    let Some(slot) = slot(set, way) else {
        return Entered::Refused;
    };
    if held != NONE && !replaces && slot.has(key) {
        return Entered::Taken;
    }
    let before = slot.mark();
    // SAFETY: all within the element and its mark, which the lock keeps for us;
    // who reads meanwhile sees that there is none.
    unsafe {
        ptr::write_volatile(slot.mark, before.cleared());
        barrier();
        (*slot.element).key.set(key);
        copy_connection(connection, slot.connection());
        barrier();
        ptr::write_volatile(slot.mark, before.next(tag, now));
    }
    Entered::Done
}

#[inline(always)]
fn set(key: &Tuple) -> Option<(*mut Set, u32)> {
    // SAFETY: a constant of the program by the time it runs.
    let sets = unsafe { ptr::read_volatile(&raw const UNASSURED_SETS) };
    let place = Place::of(key, &networks::settings()?.secret, sets);
    Some((UNASSURED.get_ptr_mut(place.set)?, place.tag))
}

#[inline(always)]
fn guard(set: *mut Set) -> *mut bpf_spin_lock {
    // SAFETY: within the set. The kernel's type is the same.
    unsafe { (&raw mut (*set).lock).cast() }
}

/// No element of a set.
const NONE: u64 = WAYS as u64;

/// Index of the element with this tag. Without a branch: the verifier would follow
/// each of them to the end of the program.
#[inline(always)]
fn tagged(set: *const Set, tag: u32) -> u64 {
    let mut found = NONE;
    for way in 0..WAYS as u64 {
        let difference = u64::from(mark_at(set, way).tag() ^ tag);
        let is_it = all_ones_if_negative(difference.wrapping_sub(1));
        found ^= (found ^ way) & is_it;
    }
    found
}

/// Index of the element that was seen last the longest ago, or of none. As above.
#[inline(always)]
fn oldest(set: *const Set, now: u32) -> u64 {
    const WAY: u64 = 7;
    let mut highest = 0_u64;
    for way in 0..WAYS as u64 {
        let mark = mark_at(set, way);
        let is_free = all_ones_if_negative(u64::from(mark.tag()).wrapping_sub(1));
        let idle = u64::from(mark.idle(now)) | is_free & u64::from(Mark::FREE);
        let rank = idle << 3 | way;
        let is_higher = all_ones_if_negative(highest.wrapping_sub(rank));
        highest ^= (highest ^ rank) & is_higher;
    }
    highest & WAY
}

#[inline(always)]
fn all_ones_if_negative(number: u64) -> u64 {
    hidden((number.cast_signed() >> 63).cast_unsigned())
}

#[inline(always)]
fn mark_at(set: *const Set, way: u64) -> Mark {
    // SAFETY: one aligned word of the map.
    unsafe { ptr::read_volatile((&raw const (*set).marks).cast::<Mark>().add(way as usize)) }
}

#[inline(always)]
fn slot(set: *mut Set, way: u64) -> Option<Slot> {
    // Hidden from the compiler, which knows that there is no other: the verifier
    // wants to see it.
    let way = hidden(way) as usize;
    if way >= WAYS {
        return None;
    }
    // SAFETY: within the set.
    unsafe {
        Some(Slot {
            mark: set.byte_add(MARKS + way * size_of::<Mark>()).cast(),
            element: set.byte_add(ELEMENTS + way * size_of::<Element>()).cast(),
        })
    }
}

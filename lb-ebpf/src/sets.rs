//! The table of connections, as [`lb_common::sets`] lays it out.
//!
//! Who enters an element holds the lock of its set. Who reads does not, and looks at
//! the mark once more: it is another one if the element is.

use core::ptr;

use aya_ebpf::{
    bindings::bpf_spin_lock,
    btf_maps::Array,
    helpers::{bpf_spin_lock as lock, bpf_spin_unlock as unlock},
    macros::btf_map,
};
use lb_common::{
    Connection, Life, State, Tuple, maps,
    sets::{ASSURED, Element, MARKS, Mark, Members, Place, Secret, Set, WAYS, sets},
};

use crate::{
    atomic,
    scratch::{barrier, hidden},
    words::{copy_connection, is_same},
};

const DEFAULT_SETS: u32 = sets(maps::UNASSURED as u32);
/// `BPF_F_MMAPABLE`, for the sake of its alignment: a set is one cache line.
const ALIGNED: usize = 1 << 10;

#[btf_map]
static SETS: Array<Set, { DEFAULT_SETS as usize }, ALIGNED> = Array::new();

#[btf_map]
static CONNECTIONS: Array<Members, { DEFAULT_SETS as usize }> = Array::new();

/// How many sets there are; the agent says so before it loads the programs.
#[unsafe(no_mangle)]
static CONNECTION_SETS: u32 = DEFAULT_SETS;

#[btf_map]
static SECRET: Array<Secret, 1> = Array::new();

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

    /// Keeps the element from being the next that makes room.
    #[inline(always)]
    pub(crate) fn touch(self, mark: Mark, now: u32) {
        if mark.idle(now) != 0 {
            // If it fails, the element is another one, or another packet was faster.
            self.swap(mark, mark.seen(now));
        }
    }

    /// Whether no other element came there after `mark` was entered. From here on
    /// its mark is none that others have seen.
    #[inline(always)]
    pub(crate) fn renew(self, mark: Mark) -> bool {
        self.change(mark, Mark::renewed).is_some()
    }

    /// Removes the element that has this mark, as far as it is there; the last mark
    /// that it had.
    #[inline(always)]
    pub(crate) fn clear(self, mark: Mark) -> Option<Mark> {
        self.change(mark, Mark::cleared)
    }

    /// Removes the element that has this mark, if nothing else happened to it.
    #[inline(always)]
    pub(crate) fn clear_untouched(self, mark: Mark) -> bool {
        self.swap(mark, mark.cleared())
    }

    /// Changes the mark of the element that has, or had, this one.
    #[inline(always)]
    fn change(self, mark: Mark, to: impl Fn(Mark) -> Mark) -> Option<Mark> {
        let mut held = mark;
        for _ in 0..TRIES {
            if self.swap(held, to(held)) {
                return Some(held);
            }
            // It was seen once more, or was assured.
            held = self.mark();
            if !held.is_of(mark) {
                break;
            }
        }
        None
    }

    #[inline(always)]
    fn swap(self, old: Mark, new: Mark) -> bool {
        // SAFETY: one aligned word of the map.
        unsafe { atomic::swap(self.mark.cast(), old.packed, new.packed) }
    }

    #[inline(always)]
    fn write(self, mark: Mark) {
        // SAFETY: as above.
        unsafe { ptr::write_volatile(self.mark, mark) };
    }

    /// Whether somebody is about to remove it.
    #[inline(always)]
    pub(crate) fn is_dying(self) -> bool {
        // SAFETY: one aligned word of the map.
        let life = unsafe { ptr::read_volatile(&raw const (*self.connection()).life) };
        Life::unpack(life).state == State::Dying
    }

    #[inline(always)]
    fn service(self) -> u32 {
        // SAFETY: as above.
        unsafe { ptr::read_volatile(&raw const (*self.connection()).service) }
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
    let Place { set, tag } = place(key)?;
    let slot = slot(set, lb_tagged(set, tag))?;
    let mark = slot.mark();
    (mark.tag() == tag && slot.has(key)).then_some((slot, mark))
}

/// The set that an element with a key belongs to.
#[derive(Clone, Copy)]
pub(crate) struct Home {
    set: *mut Set,
    place: Place,
    changes: u32,
}

/// Where an element goes, unless another is faster.
#[derive(Clone, Copy)]
pub(crate) struct Seat {
    home: Home,
    slot: Slot,
}

impl Seat {
    #[inline(always)]
    pub(crate) fn slot(self) -> Slot {
        self.slot
    }

    /// Asks for the element's memory, as [`home`] for that of the set.
    #[inline(always)]
    pub(crate) fn ask(self) {
        const LINE: usize = 64;
        const LAST: usize = size_of::<Element>() - size_of::<u64>();
        for offset in (0..LAST).step_by(LINE).chain([LAST]) {
            // SAFETY: within the element.
            unsafe { ptr::read_volatile(self.slot.element.byte_add(offset).cast::<u64>()) };
        }
    }
}

/// Asks for the set's memory, which is cold where there are many: whoever needs two sets asks for
/// both, and waits no longer than for one.
#[inline(always)]
pub(crate) fn home(key: &Tuple) -> Option<Home> {
    let place = place(key)?;
    let set = SETS.get_ptr_mut(place.set)?;
    Some(Home {
        set,
        place,
        changes: changes(set),
    })
}

/// Finds where an element goes.
#[inline(always)]
pub(crate) fn seat(home: Home, now: u32) -> Option<Seat> {
    let Place { set, tag } = home.place;
    let slot = slot(set, lb_room(set, tag, now))?;
    Some(Seat { home, slot })
}

/// What became of an element that was to take a seat.
pub(crate) enum Seated {
    /// With this mark. What had the place and was about to be removed, assured, was
    /// of this service.
    Done(Mark, Option<u32>),
    /// There is another with this key.
    Taken,
    /// The set is another one by now: to be tried again.
    Late,
}

/// Enters an element; `replaces` the one that has the key, unless it is assured and
/// lives.
#[inline(always)]
pub(crate) fn sit(
    seat: Seat,
    key: &Tuple,
    connection: &Connection,
    replaces: bool,
    now: u32,
) -> Seated {
    let guard = guard(seat.home.set);
    // SAFETY: the set's lock, and no other is held.
    unsafe { lock(guard) };
    let seated = sit_locked(seat, key, connection, replaces, now);
    // SAFETY: as above.
    unsafe { unlock(guard) };
    seated
}

/// The last mark of what was there.
#[inline(always)]
pub(crate) fn remove(key: &Tuple) -> Option<Mark> {
    let (slot, mark) = find(key)?;
    slot.clear(mark)
}

/// Whether an element is assured by now.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Assured {
    Done,
    /// It was before.
    Already,
    /// Its set has as many as may be, or the element is not there.
    No,
}

/// Keeps the element from making room for others.
#[inline(always)]
pub(crate) fn assure(key: &Tuple) -> Assured {
    const DONE: u32 = Assured::Done as u32;
    const ALREADY: u32 = Assured::Already as u32;

    let Some(Place { set, tag }) = place(key) else {
        return Assured::No;
    };
    match lb_keep(set, tag) {
        DONE => Assured::Done,
        ALREADY => Assured::Already,
        _ => Assured::No,
    }
}

/// Undoes [`assure`].
#[inline(always)]
pub(crate) fn release(key: &Tuple) {
    if let Some((slot, mark)) = find(key) {
        slot.change(mark, |mark| mark.with_assured(false));
    }
}

#[inline(always)]
fn sit_locked(
    Seat { home, slot }: Seat,
    key: &Tuple,
    connection: &Connection,
    replaces: bool,
    now: u32,
) -> Seated {
    let Home {
        set,
        place: Place { tag, .. },
        changes: seen,
    } = home;
    if changes(set) != seen {
        return Seated::Late;
    }
    let before = slot.mark();
    let has_key = before.tag() == tag && slot.has(key);
    let ended = match (before.is_assured(), has_key) {
        (true, true) if replaces && slot.is_dying() => Some(slot.service()),
        (true, true) => return Seated::Taken,
        (false, true) if !replaces => return Seated::Taken,
        (true, false) => return Seated::Late,
        (false, _) => None,
    };
    if !slot.swap(before, before.cleared()) {
        return Seated::Late;
    }
    // SAFETY: all within the set and the element, which the lock keeps for us; who
    // reads meanwhile sees by the mark that there is none.
    unsafe {
        (*slot.element).key.set(key);
        copy_connection(connection, slot.connection());
    }
    barrier();
    let mark = before.next(tag, now);
    slot.write(mark);
    barrier();
    // Last: who has seen the number has seen the mark.
    // SAFETY: as above.
    unsafe { ptr::write_volatile(&raw mut (*set).changes, seen.wrapping_add(1)) };
    Seated::Done(mark, ended)
}

#[inline(always)]
fn place(key: &Tuple) -> Option<Place> {
    // SAFETY: a constant of the program by the time it runs.
    let sets = unsafe { ptr::read_volatile(&raw const CONNECTION_SETS) };
    Some(Place::of(key, SECRET.get(0)?, sets))
}

#[inline(always)]
fn changes(set: *const Set) -> u32 {
    // SAFETY: one aligned word of the map.
    unsafe { ptr::read_volatile(&raw const (*set).changes) }
}

#[inline(always)]
fn guard(set: *mut Set) -> *mut bpf_spin_lock {
    // SAFETY: within the set. The kernel's type is the same.
    unsafe { (&raw mut (*set).lock).cast() }
}

/// How often a mark is changed against others.
const TRIES: u32 = 3;

/// No element of a set.
const NONE: u32 = WAYS as u32;

/// Index of the element with this tag.
///
/// A function of its own to the verifier, which looks at it once and not at each
/// call: hence the linkage. What it says is a number like any other then, and not
/// one for each way that led to it.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn lb_tagged(set: u32, tag: u32) -> u32 {
    let Some(set) = SETS.get_ptr(set) else {
        return NONE;
    };
    (0..NONE)
        .find(|&way| mark_at(set, way).tag() == tag)
        .unwrap_or(NONE)
}

/// Index of what makes room for an element with this tag: the one that has it, or
/// none, or the unassured one that was seen last the longest ago; of several, each in
/// its turn. As above.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn lb_room(set: u32, tag: u32, now: u32) -> u32 {
    let Some(set) = SETS.get_ptr(set) else {
        return NONE;
    };
    let turn = changes(set) % NONE;
    let (mut best, mut highest) = (NONE, 0);
    for way in 0..NONE {
        let mark = mark_at(set, way);
        if mark.tag() == tag {
            return way;
        }
        let idle = match mark.tag() {
            0 => Mark::FREE,
            _ => mark.idle(now),
        };
        // The one whose turn it is has the highest number, its successors follow.
        let before = turn.wrapping_sub(way + 1) & 7;
        let rank = match mark.is_assured() {
            true => 0,
            false => (idle << 3 | before) + 1,
        };
        // Worked out before the next mark is read: the compiler would keep them all on
        // the stack.
        let rank = hidden(rank.into()) as u32;
        if rank > highest {
            (best, highest) = (way, rank);
        }
    }
    best
}

/// Assures the element with this tag, if its set has not got as many already;
/// returns an [`Assured`]. As above.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn lb_keep(set: u32, tag: u32) -> u32 {
    keep(set, tag) as u32
}

#[inline(always)]
fn keep(set: u32, tag: u32) -> Assured {
    let Some(marks) = SETS.get_ptr(set) else {
        return Assured::No;
    };
    let (mut assured, mut found) = (0, NONE);
    for way in 0..NONE {
        let mark = mark_at(marks, way);
        assured += u32::from(mark.is_assured());
        if mark.tag() == tag {
            found = way;
        }
    }
    let Some(slot) = slot(set, found) else {
        return Assured::No;
    };
    let mark = slot.mark();
    if mark.tag() != tag {
        return Assured::No;
    }
    if mark.is_assured() {
        return Assured::Already;
    }
    // Several CPUs at once may go beyond it.
    if assured >= ASSURED as u32 {
        return Assured::No;
    }
    match slot.change(mark, |mark| mark.with_assured(true)) {
        Some(before) if before.is_assured() => Assured::Already,
        Some(_) => Assured::Done,
        None => Assured::No,
    }
}

#[inline(always)]
fn mark_at(set: *const Set, way: u32) -> Mark {
    // SAFETY: one aligned word of the map.
    unsafe { ptr::read_volatile((&raw const (*set).marks).cast::<Mark>().add(way as usize)) }
}

#[inline(always)]
fn slot(set: u32, way: u32) -> Option<Slot> {
    // Hidden from the compiler, which knows that there is no other: the verifier
    // wants to see it.
    let way = hidden(way.into()) as usize;
    if way >= WAYS {
        return None;
    }
    let (set, members) = (SETS.get_ptr_mut(set)?, CONNECTIONS.get_ptr_mut(set)?);
    // SAFETY: within the set.
    unsafe {
        Some(Slot {
            mark: set.byte_add(MARKS + way * size_of::<Mark>()).cast(),
            element: members.cast::<Element>().add(way),
        })
    }
}

//! The connection tables: two elements a connection, one a direction, both in one
//! table. They begin in the sets, where what is unassured may make room for others. A
//! flood competes with that only.

use core::ptr;

use aya_ebpf::{bindings::BPF_NOEXIST, btf_maps::HashMap, macros::btf_map};
use lb_common::{Connection, Hop, Life, State, Tuple, collection, maps, sets::Mark};

use crate::{
    atomic, clock, holdings, known,
    scratch::{self, Halves, Work, barrier, lend, settled},
    sets::{self, Seat, Seated, Slot},
    words::{copy_connection, is_same},
};

/// Of assured connections those that their sets have no room for.
#[btf_map]
static ASSURED: HashMap<Tuple, Connection, { maps::ASSURED }> = HashMap::new();

const EEXIST: i32 = -17;

/// How often a change of state is tried against others.
pub(crate) const TRIES: u32 = 3;

/// Where an element is.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Table {
    /// The hash, for assured ones that their sets have no room for.
    Overflow = collection::OVERFLOW,
    /// The sets.
    Unassured = collection::SETS,
    /// The sets, where it is kept.
    Assured = 2,
}

impl Table {
    #[inline(always)]
    pub(crate) const fn from_number(number: u32) -> Self {
        match number {
            collection::OVERFLOW => Self::Overflow,
            collection::SETS => Self::Unassured,
            _ => Self::Assured,
        }
    }

    #[inline(always)]
    const fn of(mark: Mark) -> Self {
        match mark.is_assured() {
            true => Self::Assured,
            false => Self::Unassured,
        }
    }
}

/// What became of an element that was to be entered.
#[repr(u32)]
pub(crate) enum Entered {
    Done,
    /// The key is there already.
    Taken,
    /// The table is full.
    Refused,
}

/// Reads an element that is not dying; says where it is.
#[inline(always)]
pub(crate) fn find(key: &Tuple, into: &mut Connection) -> Option<Table> {
    let check = settled(key.check());
    if !known::may_hold(check) {
        return None;
    }
    if let Some((slot, mark)) = sets::find(key)
        && read_slot(slot, mark, check, into)
        && !is_dying(into)
    {
        return Some(Table::of(mark));
    }
    // What leaves the sets is here before.
    let element = ASSURED.get_ptr_mut(key)?;
    (read(element, check, into) && !is_dying(into)).then_some(Table::Overflow)
}

/// Reads the element of `halves.one_key` in this table, dying or not.
#[inline(always)]
pub(crate) fn find_in(table: Table, halves: &mut Halves) -> bool {
    let Halves { one_key, one, .. } = halves;
    let check = settled(one_key.check());
    match table {
        Table::Overflow => {
            let element = pointer(Table::Overflow, one_key);
            element.is_some_and(|element| read(element, check, one))
        }
        Table::Unassured | Table::Assured => {
            sets::find(one_key).is_some_and(|(slot, mark)| read_slot(slot, mark, check, one))
        }
    }
}

#[inline(always)]
fn read_slot(slot: Slot, mark: Mark, check: u32, into: &mut Connection) -> bool {
    read(slot.connection(), check, into) && slot.mark().is_of(mark)
}

#[inline(always)]
fn is_dying(connection: &Connection) -> bool {
    (connection.life >> 32) as u32 == State::Dying as u32
}

/// Life of the connection of which `halves.one` was found, or `None` if there
/// is nothing left of it but that. Completes the halves.
#[inline(always)]
pub(crate) fn life_of(table: Table, halves: &mut Halves) -> Option<u64> {
    if !halves.is_reply() {
        halves.complete();
        return Some(halves.one.life);
    }
    halves.complete();
    let element = partner(table, halves)?;
    Some(word(element))
}

/// Enters an unassured element if its key is free.
#[inline(always)]
pub(crate) fn enter(key: &Tuple, connection: &Connection) -> Entered {
    known::note(connection.check);
    let now = clock::now();
    match sets::home(key).and_then(|home| sets::seat(home, now)) {
        Some(mut seat) => take(&mut seat, key, connection, false, now).0,
        None => Entered::Refused,
    }
}

/// Enters an assured element where there is room without end, if its key is free.
#[inline(always)]
pub(crate) fn overflow(key: &Tuple, connection: &Connection) -> Entered {
    known::note(connection.check);
    match ASSURED.insert(key, connection, BPF_NOEXIST.into()) {
        Ok(()) => Entered::Done,
        Err(EEXIST) => Entered::Taken,
        Err(_) => Entered::Refused,
    }
}

/// Enters a new connection, of which `halves.one` is the client's direction, in
/// place of whatever unassured has its key, if the other's is free. The reply is in
/// first, so a connection that answers a lookup is whole.
#[inline(always)]
pub(crate) fn open(halves: &mut Halves) -> Entered {
    let Halves {
        one_key,
        one,
        other_key,
        other,
    } = halves;
    let now = clock::now();
    one.life = opening(now);
    one.check = one_key.check();
    known::note(other.check);
    known::note(one.check);
    // One after the other: of several at once, the compiler would keep what is not
    // there.
    let Some(reply) = sets::home(other_key) else {
        return Entered::Refused;
    };
    let Some(forward) = sets::home(one_key) else {
        return Entered::Refused;
    };
    let Some(mut reply) = sets::seat(reply, now) else {
        return Entered::Refused;
    };
    let Some(mut forward) = sets::seat(forward, now) else {
        return Entered::Refused;
    };
    reply.ask();
    forward.ask();
    let (entered, mark) = take(&mut reply, other_key, other, false, now);
    if !matches!(entered, Entered::Done) {
        return entered;
    }
    let (entered, _) = take(&mut forward, one_key, one, true, now);
    let reply = reply.slot();
    if !matches!(entered, Entered::Done) {
        reply.clear(mark);
        return entered;
    }
    // Alone, it may have been taken for what is left of another connection.
    if !reply.renew(mark) {
        sets::remove(one_key);
        return Entered::Taken;
    }
    Entered::Done
}

/// Enters an unassured element where there is a seat for it; its mark.
#[inline(always)]
fn take(
    seat: &mut Seat,
    key: &Tuple,
    connection: &Connection,
    replaces: bool,
    now: u32,
) -> (Entered, Mark) {
    for _ in 0..TRIES {
        match sets::sit(*seat, key, connection, replaces, now) {
            Seated::Done(mark, ended) => {
                if let Some(service) = ended {
                    holdings::give_back(service);
                }
                return (Entered::Done, mark);
            }
            Seated::Taken => return (Entered::Taken, Mark::default()),
            Seated::Late => {}
        }
        let Some(home) = sets::home(key) else {
            break;
        };
        let Some(another) = sets::seat(home, now) else {
            break;
        };
        *seat = another;
    }
    (Entered::Refused, Mark::default())
}

/// Notes where the packets with this key go.
#[inline(always)]
pub(crate) fn remember(key: &Tuple, hop: &Hop) {
    let element = pointer(Table::Unassured, key).or_else(|| pointer(Table::Overflow, key));
    // SAFETY: the element is memory of the map for as long as the program runs.
    // Who reads it meanwhile, or gets it for another key, sends packets to where
    // they are not taken, for a second at worst.
    unsafe {
        if let Some(element) = element
            && ptr::read_volatile(&raw const (*element).check) == key.check()
        {
            (*element).hop.set(hop);
        }
    }
}

/// Where it was.
#[inline(always)]
pub(crate) fn remove(table: Table, key: &Tuple) -> Option<Table> {
    match table {
        Table::Overflow => ASSURED.remove(key).is_ok().then_some(table),
        Table::Unassured | Table::Assured => sets::remove(key).map(Table::of),
    }
}

/// Removes the backend's half of `halves.one_key`, unless the client's is there by
/// now. Whether it is gone.
#[inline(always)]
pub(crate) fn remove_orphan(table: Table, halves: &Halves) -> bool {
    if table == Table::Overflow {
        remove(table, &halves.one_key);
        return true;
    }
    let Some((slot, mark)) = sets::find(&halves.one_key) else {
        return true;
    };
    // In this order: who enters both renews the mark of the first after the second.
    partner(table, halves).is_none() && slot.clear_untouched(mark)
}

/// Removes both halves of the connection of which `work.halves.one` was found,
/// if its life is still `life`.
#[inline(always)]
pub(crate) fn discard(table: Table, work: &mut Work, life: u64) -> bool {
    lend(work, || lb_discard(table as u32, life)) != 0
}

/// A function of its own to the verifier, which looks at it once and not at
/// each call: hence the linkage.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn lb_discard(table: u32, life: u64) -> u32 {
    scratch::get()
        .is_ok_and(|scratch| take_away(Table::from_number(table), &mut scratch.work.halves, life))
        .into()
}

/// Removes both halves, if the connection's life is still `life`.
#[inline(always)]
pub(crate) fn take_away(table: Table, halves: &mut Halves, life: u64) -> bool {
    halves.complete();
    let partner = partner(table, halves);
    let (element, has_reply) = match halves.is_reply() {
        true => (partner, true),
        false => (pointer(table, &halves.one_key), partner.is_some()),
    };
    let Some(element) = element else {
        return remove(table, &halves.one_key).is_some();
    };
    let dying = Life {
        state: State::Dying,
        seen: clock::now(),
    };
    // From here on, this program alone may remove it.
    if !swap(element, life, dying.pack()) {
        return false;
    }
    let [(forward_key, _), (reply_key, _)] = halves.directed();
    if has_reply {
        remove(table, reply_key);
    }
    let was_in = remove_dying(table, forward_key);
    if let Some(Table::Assured | Table::Overflow) = was_in {
        holdings::give_back(halves.one.service);
    }
    was_in.is_some()
}

/// Removes the element unless it has made room for the client's next connection.
#[inline(always)]
fn remove_dying(table: Table, key: &Tuple) -> Option<Table> {
    if table == Table::Overflow {
        return remove(table, key);
    }
    let (slot, mark) = sets::find(key)?;
    if !slot.is_dying() {
        return None;
    }
    slot.clear(mark).map(Table::of)
}

/// The element of `halves.other`, if it is of the same connection.
#[inline(always)]
pub(crate) fn partner(table: Table, halves: &Halves) -> Option<*mut Connection> {
    let element = pointer(table, &halves.other_key)?;
    is_partner(element, halves).then_some(element)
}

#[inline(always)]
pub(crate) fn is_partner(element: *mut Connection, halves: &Halves) -> bool {
    let other = &halves.other;
    // SAFETY: the element is memory of the map for as long as the program
    // runs. Its content may change.
    unsafe {
        ptr::read_volatile(&raw const (*element).check) == other.check
            && ptr::read_volatile(&raw const (*element).backend) == other.backend
            && ptr::read_volatile(&raw const (*element).generation) == other.generation
            && ptr::read_volatile(&raw const (*element).flags) == other.flags
            && is_same(
                &raw const (*element).translated,
                &raw const other.translated,
            )
    }
}

/// Life of a connection that begins.
#[inline(always)]
pub(crate) const fn opening(now: u32) -> u64 {
    let life = Life {
        state: State::Opening,
        seen: now,
    };
    life.pack()
}

/// What a backend's half holds as its life.
#[inline(always)]
pub(crate) const fn cached(now: u32) -> u64 {
    let life = Life {
        state: State::Open,
        seen: now,
    };
    life.pack()
}

#[inline(always)]
pub(crate) fn pointer(table: Table, key: &Tuple) -> Option<*mut Connection> {
    match table {
        Table::Overflow => ASSURED.get_ptr_mut(key),
        Table::Unassured | Table::Assured => sets::find(key).map(|(slot, _)| slot.connection()),
    }
}

/// Reads the element, unless the kernel gives it to another key meanwhile.
#[inline(always)]
fn read(element: *mut Connection, check: u32, into: &mut Connection) -> bool {
    // SAFETY: the element is memory of the map for as long as the program runs;
    // its content may change, so the check is read last.
    unsafe { copy_connection(element, into) };
    barrier();
    // SAFETY: as above.
    unsafe { ptr::read_volatile(&raw const (*element).check) == check }
}

#[inline(always)]
pub(crate) fn word(element: *const Connection) -> u64 {
    // SAFETY: one aligned word of the map.
    unsafe { ptr::read_volatile(&raw const (*element).life) }
}

/// Gives the connection another life; `false` if it is not the `old` one.
#[inline(always)]
pub(crate) fn swap(element: *mut Connection, old: u64, new: u64) -> bool {
    // SAFETY: the element is memory of the map for as long as the program runs.
    unsafe { atomic::swap(&raw mut (*element).life, old, new) }
}

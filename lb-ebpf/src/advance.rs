//! What a packet means for its connection: how it moves on, and when it is assured.

use core::ptr;

use lb_common::{Connection, Life, Signal, State, Tuple, lifecycle};

use crate::{
    clock,
    connections::{
        Entered, TRIES, Table, cached, enter, is_partner, opening, overflow, pointer, remove, swap,
        word,
    },
    holdings,
    scratch::{self, Halves, Work, lend},
    sets::{self, Assured},
};

/// A packet of the connection in `work.halves.one` went by. Whatever half is
/// missing is made from the other; `false` if another connection has its key.
#[inline(always)]
pub(crate) fn heard(table: Table, work: &mut Work, signal: Signal, now: u32) -> bool {
    let heard = lend(work, || lb_heard(table as u32, signal as u32, now));
    if heard == Heard::First as u32 {
        lend(work, || lb_assure());
    }
    heard != Heard::Taken as u32
}

#[repr(u32)]
enum Heard {
    /// Another connection has the other half's key.
    Taken,
    Again,
    /// From both sides, and not assured yet.
    First,
}

/// A function of its own to the verifier, which looks at it once and not at
/// each call: hence the linkage.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn lb_heard(table: u32, signal: u32, now: u32) -> u32 {
    let heard = scratch::get().map_or(Heard::Taken, |scratch| {
        let (table, signal) = (Table::from_number(table), Signal::from_number(signal));
        advance(table, &mut scratch.work.halves, signal, now)
    });
    heard as u32
}

/// As above.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn lb_assure() -> u32 {
    if let Ok(scratch) = scratch::get() {
        assure(&mut scratch.work.halves);
    }
    0
}

#[inline(always)]
fn advance(table: Table, halves: &mut Halves, signal: Signal, now: u32) -> Heard {
    halves.complete();
    let is_reply = halves.is_reply();
    let element = match table {
        Table::Overflow | Table::Assured => pointer(table, halves.directed()[0].0),
        Table::Unassured => {
            let own = see(&halves.one_key, now);
            let other = match restore(halves, signal, now) {
                Restored::Taken => return Heard::Taken,
                Restored::There(other) => Some(other),
                Restored::Entered => pointer(table, &halves.other_key),
            };
            if is_reply { other } else { own }
        }
    };
    let Some(element) = element else {
        return Heard::Again;
    };
    let [(forward_key, _), (reply_key, _)] = halves.directed();
    let protocol = forward_key.protocol;
    let second = clock::second();
    let mut moved = None;
    for _ in 0..TRIES {
        let before = word(element);
        let old = Life::unpack(before);
        let state = lifecycle::next(old.state, protocol, signal, is_reply);
        let is_due = old.idle(now) >= second;
        if old.state == State::Dying || state == old.state && !is_due {
            break;
        }
        let life = Life { state, seen: now };
        // If it fails, another packet was faster, and may have meant something
        // else.
        if swap(element, before, life.pack()) {
            moved = Some(life);
            break;
        }
    }
    if is_reply && Life::unpack(halves.one.life).idle(now) >= second {
        refresh(table, reply_key, now);
    }
    match moved {
        Some(life) if table == Table::Unassured && life.state.is_assured() => {
            (halves.one.life, halves.other.life) = match is_reply {
                true => (cached(now), life.pack()),
                false => (life.pack(), cached(now)),
            };
            Heard::First
        }
        _ => Heard::Again,
    }
}

/// An unassured element, which is kept from being the next that makes room.
#[inline(always)]
fn see(key: &Tuple, now: u32) -> Option<*mut Connection> {
    let (slot, mark) = sets::find(key)?;
    slot.touch(mark, now);
    Some(slot.connection())
}

enum Restored {
    There(*mut Connection),
    Entered,
    /// Another connection has taken its place.
    Taken,
}

/// Enters the other half of an unassured connection if its element went to make
/// room; keeps it from being the next if not.
#[inline(always)]
fn restore(halves: &mut Halves, signal: Signal, now: u32) -> Restored {
    if let Some((slot, mark)) = sets::find(&halves.other_key)
        && is_partner(slot.connection(), halves)
    {
        slot.touch(mark, now);
        return Restored::There(slot.connection());
    }
    // It may have been assured meanwhile.
    if let Some(element) = pointer(Table::Overflow, &halves.other_key) {
        return match is_partner(element, halves) {
            true => Restored::Entered,
            false => Restored::Taken,
        };
    }
    let has_handshake = halves.one_key.protocol != lifecycle::UDP;
    halves.other.life = match (halves.is_reply(), signal) {
        // A backend that goes on has answered before.
        (true, Signal::Data | Signal::Finish) if has_handshake => answered(now),
        (true, _) => opening(now),
        (false, _) => cached(now),
    };
    if let Entered::Taken = enter(&halves.other_key, &halves.other) {
        return Restored::Taken;
    }
    // Or before it was entered, which must not hide the other.
    if pointer(Table::Overflow, &halves.other_key).is_some() {
        remove(Table::Unassured, &halves.other_key);
    }
    Restored::Entered
}

/// Notes in a backend's half that the connection was refreshed.
#[inline(always)]
fn refresh(table: Table, key: &Tuple, now: u32) {
    if let Some(element) = pointer(table, key) {
        // SAFETY: one aligned word of the map. If the element has gone to
        // another connection meanwhile, that one is refreshed a second late.
        unsafe { ptr::write_volatile(&raw mut (*element).life, cached(now)) };
    }
}

/// Has nothing evict the connection any more, if there is room for that.
#[inline(always)]
fn assure(halves: &mut Halves) {
    let service = halves.one.service;
    if !holdings::take(service) {
        return;
    }
    // The reply first, so what answers a client is whole.
    let [(forward_key, _), (reply_key, _)] = halves.directed();
    let kept = sets::assure(reply_key);
    if kept != Assured::No {
        match sets::assure(forward_key) {
            Assured::Done => return,
            // Another packet was faster.
            Assured::Already => return holdings::give_back(service),
            Assured::No if kept == Assured::Done => sets::release(reply_key),
            Assured::No => {}
        }
    }
    spill(halves);
}

/// Moves the connection to where there is room.
#[inline(always)]
fn spill(halves: &mut Halves) {
    let service = halves.one.service;
    if let Some(other) = pointer(Table::Unassured, &halves.other_key) {
        // SAFETY: as in `partner`.
        halves.other.hop.set(unsafe { &(*other).hop });
    }
    let [(forward_key, forward), (reply_key, reply)] = halves.directed();
    match overflow(reply_key, reply) {
        Entered::Done => {}
        entered => return decline(service, entered),
    }
    match overflow(forward_key, forward) {
        Entered::Done => {}
        entered => {
            remove(Table::Overflow, reply_key);
            return decline(service, entered);
        }
    }
    // As well: without it, the other is no orphan but looked for where it is now.
    remove(Table::Unassured, reply_key);
    remove(Table::Unassured, forward_key);
}

/// The connection stays where it is.
#[inline(always)]
fn decline(service: u32, why: Entered) {
    match why {
        Entered::Refused => holdings::refuse(service),
        _ => holdings::give_back(service),
    }
}

/// Life of a connection of which the backend was heard.
#[inline(always)]
const fn answered(now: u32) -> u64 {
    let life = Life {
        state: State::Answered,
        seen: now,
    };
    life.pack()
}

//! Removes connections that are over, when the agent asks.
//!
//! The agent has read elements some time ago. What it names is looked at once
//! more, and goes by compare-and-swap of its life only.

use core::ptr;

use aya_ebpf::{
    bindings::__sk_buff, btf_maps::PerCpuArray, helpers::bpf_skb_load_bytes, macros::btf_map,
    programs::TcContext,
};
use lb_common::{
    Connection, Life, State, Tuple,
    collection::{HEADER, ROOM, answer},
    lifecycle::UDP,
};

use crate::{
    clock,
    connections::{self, Table},
    scratch::{Halves, lend},
    services,
};

/// Not the scratch of the packets, which may come by while this runs.
#[btf_map]
static COLLECTION: PerCpuArray<Halves, 1> = PerCpuArray::new();

/// Answers each tuple of the frame, as [`lb_common::collection`] has it.
/// Returns the lower 32 bits of the jiffies.
#[inline(always)]
pub fn collect(context: &TcContext) -> u32 {
    let now = clock::now();
    let Some(halves) = halves() else {
        return now;
    };
    // SAFETY: the kernel passes a context for as long as the program runs.
    let table = unsafe { (*context.skb.skb).mark };
    for index in 0..ROOM {
        let offset = HEADER + index * size_of::<Tuple>();
        if !load(context.skb.skb, offset, &mut halves.one_key) {
            break;
        }
        let answer = lend(halves, || lb_end(table)) as u8;
        let offset = offset + core::mem::offset_of!(Tuple, reserved);
        if context.store(offset, &answer, 0).is_err() {
            break;
        }
    }
    now
}

#[inline(always)]
fn load(skb: *mut __sk_buff, offset: usize, into: &mut Tuple) -> bool {
    // SAFETY: the tuple takes that many bytes, whatever they are.
    let result = unsafe {
        bpf_skb_load_bytes(
            skb.cast(),
            offset as u32,
            ptr::from_mut(into).cast(),
            size_of::<Tuple>() as u32,
        )
    };
    result == 0
}

/// A function of its own to the verifier, which looks at it once and not at
/// each tuple: hence the linkage.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn lb_end(table: u32) -> u32 {
    let table = Table::from_number(table);
    halves()
        .map_or(answer::STAYS, |halves| end(table, halves))
        .into()
}

#[inline(always)]
fn halves() -> Option<&'static mut Halves> {
    // SAFETY: the element belongs to this CPU, and the agent runs this program
    // once at a time.
    COLLECTION
        .get_ptr_mut(0)
        .map(|halves| unsafe { &mut *halves })
}

/// Removes the connection of `halves.one_key` if it is over; what became of it.
#[inline(always)]
fn end(table: Table, halves: &mut Halves) -> u8 {
    if !connections::find_in(table, halves) {
        return answer::STAYS;
    }
    let Some(word) = connections::life_of(table, halves) else {
        return end_half(table, halves);
    };
    let life = Life::unpack(word);
    if halves.is_reply() || !is_over(halves, life) || !connections::take_away(table, halves, word) {
        return answer::STAYS;
    }
    answer::removed(life.state)
}

/// A backend's half without the client's. The unassured one may still restore
/// the other, for as long as the backend has to answer.
#[inline(always)]
fn end_half(table: Table, halves: &Halves) -> u8 {
    let life = Life {
        state: State::Opening,
        ..Life::unpack(halves.one.life)
    };
    let now = clock::now();
    let is_over = match table {
        Table::Overflow => life.idle(now) > clock::second(),
        Table::Unassured | Table::Assured => clock::is_expired(halves.one_key.protocol, life, now),
    };
    if !is_over || !connections::remove_orphan(table, halves) {
        return answer::STAYS;
    }
    answer::removed(State::Dying)
}

#[inline(always)]
fn is_over(halves: &Halves, life: Life) -> bool {
    let (key, connection) = (&halves.one_key, &halves.one);
    let now = clock::now();
    // Who has made it dying removes it, and at once: the agent has seen it in two
    // walks.
    if life.state == State::Dying || clock::is_expired(key.protocol, life, now) {
        return true;
    }
    let has_backend = connection.flags & Connection::DIRECT == 0;
    if key.protocol != UDP || !has_backend {
        return false;
    }
    // A Service without any backend keeps those of the retired ones, but no
    // longer than if they did not answer.
    let unanswered = Life {
        state: State::Opening,
        ..life
    };
    !services::is_current(connection.backend, connection.generation)
        && clock::is_expired(key.protocol, unanswered, now)
}

//! Keys that the connection tables may hold.

use core::ptr;

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use lb_common::known::{ASKED, ELEMENTS, Mark, index};

use crate::scratch::hidden;

/// `BPF_F_MMAPABLE`: the agent changes single marks, too.
const MAPPABLE: usize = 1 << 10;

#[btf_map]
static KNOWN: Array<u64, { ELEMENTS as usize }, MAPPABLE> = Array::new();

/// Whether the tables may hold a key of this [`lb_common::Tuple::check`]; any may
/// be there where there is nothing to read.
#[inline(always)]
pub(crate) fn may_hold(check: u32) -> bool {
    // SAFETY: one aligned word of the map.
    let asked = KNOWN
        .get_ptr(ASKED)
        .map_or(0, |asked| unsafe { ptr::read_volatile(asked) });
    // SAFETY: one byte of the map.
    place(asked as u32 & 1, Mark::of(check))
        .is_none_or(|mark| unsafe { ptr::read_volatile(mark) != 0 })
}

/// To be said before an element with such a key is entered.
#[inline(always)]
pub(crate) fn note(check: u32) {
    let mark = Mark::of(check);
    for set in [0, 1] {
        if let Some(mark) = place(set, mark) {
            // SAFETY: one byte of the map.
            unsafe { ptr::write_volatile(mark, u8::MAX) };
        }
    }
}

#[inline(always)]
fn place(set: u32, mark: Mark) -> Option<*mut u8> {
    let word = KNOWN.get_ptr_mut(index(set, mark.word))?;
    let byte = hidden(mark.byte.into()) as usize & 7;
    // SAFETY: within the word.
    Some(unsafe { word.cast::<u8>().add(byte) })
}

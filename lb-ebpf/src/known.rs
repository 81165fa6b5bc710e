//! Keys that the connection tables may hold.

use core::ptr;

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use lb_common::known::{ASKED, ELEMENTS, Mark};

use crate::atomic;

/// `BPF_F_MMAPABLE`: the agent changes single marks, too.
const MAPPABLE: usize = 1 << 10;

#[btf_map]
static KNOWN: Array<u64, { ELEMENTS as usize }, MAPPABLE> = Array::new();

/// Whether the tables may hold a key of this [`lb_common::Tuple::check`]; any may
/// be there where there is nothing to read.
#[inline(always)]
pub(crate) fn may_hold(check: u32) -> bool {
    let mark = Mark::of(check);
    let (Some(asked), Some(word)) = (KNOWN.get_ptr(ASKED), KNOWN.get_ptr(mark.word)) else {
        return true;
    };
    // SAFETY: aligned words of the map.
    let (asked, word) = unsafe { (ptr::read_volatile(asked), ptr::read_volatile(word)) };
    word & mark.in_set(asked as u32 & 1) != 0
}

/// To be said before an element with such a key is entered.
#[inline(always)]
pub(crate) fn note(check: u32) {
    let mark = Mark::of(check);
    let both = mark.in_both();
    if let Some(word) = KNOWN.get_ptr_mut(mark.word) {
        // SAFETY: an aligned word of the map.
        unsafe {
            if ptr::read_volatile(word) & both != both {
                atomic::set(word, both);
            }
        }
    }
}

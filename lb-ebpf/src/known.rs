//! Keys that the connection tables may hold.

use core::ptr;

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use lb_common::known::{ASKED, ELEMENTS, index, place};

use crate::atomic;

/// `BPF_F_MMAPABLE`: the agent changes single bits, too.
const MAPPABLE: usize = 1 << 10;

#[btf_map]
static KNOWN: Array<u64, { ELEMENTS as usize }, MAPPABLE> = Array::new();

/// Whether the tables may hold a key of this [`lb_common::Tuple::check`].
#[inline(always)]
pub(crate) fn may_hold(check: u32) -> bool {
    let (word, bit) = place(check);
    let set = read(ASKED) as u32 & 1;
    read(index(set, word)) & bit != 0
}

/// To be said before an element with such a key is entered.
#[inline(always)]
pub(crate) fn note(check: u32) {
    let (word, bit) = place(check);
    for set in [0, 1] {
        if let Some(element) = KNOWN.get_ptr_mut(index(set, word)) {
            // SAFETY: one aligned word of the map.
            unsafe {
                if ptr::read_volatile(element) & bit == 0 {
                    atomic::set(element, bit);
                }
            }
        }
    }
}

/// All ones where there is nothing to read: any key may be there.
#[inline(always)]
fn read(index: u32) -> u64 {
    // SAFETY: one aligned word of the map.
    KNOWN
        .get_ptr(index)
        .map_or(u64::MAX, |element| unsafe { ptr::read_volatile(element) })
}

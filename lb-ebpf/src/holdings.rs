//! How many assured connections each Service has, and may have.

use core::arch::asm;

use aya_ebpf::{bindings::BPF_NOEXIST, btf_maps::HashMap, macros::btf_map};
use lb_common::{Holdings, maps};

use crate::{interfaces::NO_PREALLOC, networks};

#[btf_map]
static HOLDINGS: HashMap<u32, Holdings, { maps::HOLDINGS }, NO_PREALLOC> = HashMap::new();

/// Takes one connection's place; `false` if the Service has all that it may.
#[inline(always)]
pub(crate) fn take(service: u32) -> bool {
    if HOLDINGS.get_ptr_mut(service).is_none() {
        let _ = HOLDINGS.insert(service, Holdings::default(), BPF_NOEXIST.into());
    }
    let Some(holdings) = HOLDINGS.get_ptr_mut(service) else {
        // Not counted for want of room, nor refused.
        return true;
    };
    // SAFETY: the element is memory of the map for as long as the program runs.
    let (connections, refused) = unsafe {
        (
            &raw mut (*holdings).connections,
            &raw mut (*holdings).refused,
        )
    };
    let quota = networks::settings().map_or(u32::MAX, |settings| settings.connection_quota);
    if add(connections, 1) < quota.into() {
        return true;
    }
    add(connections, u64::MAX);
    add(refused, 1);
    false
}

#[inline(always)]
pub(crate) fn give_back(service: u32) {
    if let Some(holdings) = HOLDINGS.get_ptr_mut(service) {
        // SAFETY: as above.
        add(unsafe { &raw mut (*holdings).connections }, u64::MAX);
    }
}

/// Returns what was there before.
#[inline(always)]
fn add(word: *mut u64, change: u64) -> u64 {
    let before: u64;
    // SAFETY: one aligned word of the map. The target has the instruction, but
    // the compiler no name for it.
    unsafe {
        asm!(
            "{change} = atomic_fetch_add((u64 *)({word} + 0), {change})",
            word = in(reg) word,
            change = inout(reg) change => before,
        );
    }
    before
}

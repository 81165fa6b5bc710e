//! How many assured connections each Service has, and may have.

use aya_ebpf::{bindings::BPF_NOEXIST, btf_maps::HashMap, macros::btf_map};
use lb_common::{Holdings, maps};

use crate::{atomic, interfaces::NO_PREALLOC, networks};

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
    let quota = networks::settings().map_or(u32::MAX, |settings| settings.connection_quota);
    // SAFETY: the element is memory of the map for as long as the program runs.
    unsafe {
        let connections = &raw mut (*holdings).connections;
        // The agent may have counted too few, so that it falls below zero.
        if atomic::add(connections, 1).cast_signed() < quota.into() {
            return true;
        }
        atomic::add(connections, u64::MAX);
        atomic::add(&raw mut (*holdings).refused, 1);
    }
    false
}

/// Gives back a place that the table had no room for.
#[inline(always)]
pub(crate) fn refuse(service: u32) {
    give_back(service);
    if let Some(holdings) = HOLDINGS.get_ptr_mut(service) {
        // SAFETY: as above.
        unsafe { atomic::add(&raw mut (*holdings).refused, 1) };
    }
}

#[inline(always)]
pub(crate) fn give_back(service: u32) {
    if let Some(holdings) = HOLDINGS.get_ptr_mut(service) {
        // SAFETY: as above.
        unsafe { atomic::add(&raw mut (*holdings).connections, u64::MAX) };
    }
}

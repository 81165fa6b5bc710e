//! Clients that keep their backend.

use core::ptr;

use aya_ebpf::{
    bindings::BPF_ANY, btf_maps::LruHashMap, helpers::bpf_ktime_get_coarse_ns, macros::btf_map,
};
use lb_common::{Affinity, ClientKey, Frontend, Slice, Tuple, maps};

use crate::{
    packet::Step,
    services::{self, Choice},
};

#[btf_map]
static AFFINITY: LruHashMap<ClientKey, Affinity, { maps::AFFINITY }> = LruHashMap::new();

const NANOSECONDS: u64 = 1_000_000_000;

/// The backend that the client had last, if it still may; else a new one.
#[inline(always)]
pub(crate) fn select(key: &Tuple, frontend: &Frontend, set: Slice) -> Step<Choice> {
    if frontend.affinity_seconds == 0 {
        return services::select(set);
    }
    let client = ClientKey {
        client: key.source,
        service: frontend.service,
    };
    // SAFETY: the helper has no precondition.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    let timeout = u64::from(frontend.affinity_seconds) * NANOSECONDS;
    if let Some(choice) = recall(&client, now, timeout, set) {
        return Ok(choice);
    }
    let choice = services::select(set)?;
    let affinity = Affinity {
        last_used: now,
        backend: choice.id,
        generation: choice.generation,
    };
    // Without an entry the next connection chooses anew.
    let _ = AFFINITY.insert(client, affinity, BPF_ANY.into());
    Ok(choice)
}

/// Renews the memory of a client that is found.
#[inline(always)]
fn recall(client: &ClientKey, now: u64, timeout: u64, set: Slice) -> Option<Choice> {
    let affinity = AFFINITY.get_ptr_mut(client)?;
    // SAFETY: the element is memory of the map for as long as the program
    // runs. Another client may get it meanwhile: what is read then is no
    // backend of this set, or one as good as any.
    let (last_used, id, generation) = unsafe {
        (
            ptr::read_volatile(&raw const (*affinity).last_used),
            ptr::read_volatile(&raw const (*affinity).backend),
            ptr::read_volatile(&raw const (*affinity).generation),
        )
    };
    // Another CPU's clock may be a tick ahead.
    if now.saturating_sub(last_used) >= timeout || !services::is_member(set, id) {
        return None;
    }
    let choice = services::take(id).filter(|choice| choice.generation == generation)?;
    // SAFETY: as above; one aligned word.
    unsafe { ptr::write_volatile(&raw mut (*affinity).last_used, now) };
    Some(choice)
}

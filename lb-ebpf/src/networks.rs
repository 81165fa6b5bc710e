//! Sets of networks, and what goes for all Services.

use core::ptr;

use aya_ebpf::{
    btf_maps::{Array, LpmTrie, lpm_trie::Key},
    macros::btf_map,
};
use lb_common::{Address, NetworkKey, Settings, maps};

use crate::family::Family;

#[btf_map]
static NETWORKS: LpmTrie<NetworkKey, u32, { maps::NETWORKS }> = LpmTrie::new();

#[btf_map]
static SETTINGS: Array<Settings, 1> = Array::new();

/// Whether a network of the set holds the address.
#[inline(always)]
pub(crate) fn contains(set: u32, address: &Address) -> bool {
    let data = NetworkKey {
        set,
        address: *address,
    };
    NETWORKS.get(&Key::new(NetworkKey::WHOLE, data)).is_some()
}

/// What the agent said last. It may change while it is read: a torn value is
/// as good as the old one.
#[inline(always)]
pub(crate) fn settings() -> Option<&'static Settings> {
    SETTINGS.get(0)
}

/// Whether the address may be a clusterIP, as far as a mask can tell.
#[inline(always)]
pub(crate) fn may_be_service<F: Family>(address: &Address) -> bool {
    settings().is_some_and(|settings| {
        address.is_within(&settings.covers[F::INDEX], &settings.masks[F::INDEX])
    })
}

/// Whether a new connection may go past the node's stack.
#[inline(always)]
pub(crate) fn takes_shortcuts() -> bool {
    settings().is_some_and(|settings| {
        // SAFETY: one aligned word of the map.
        unsafe { ptr::read_volatile(&raw const settings.shortcut) != 0 }
    })
}

/// [`lb_common::PodDetection`], as a number.
#[inline(always)]
pub(crate) fn pod_detection() -> u32 {
    settings().map_or(0, |settings| {
        // SAFETY: one aligned word of the map.
        unsafe { ptr::read_volatile(&raw const settings.pods) }
    })
}

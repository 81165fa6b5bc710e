//! Interfaces and addresses of this node.

use aya_ebpf::{btf_maps::HashMap, macros::btf_map};
use lb_common::{Address, Interface, InterfaceKind, maps};

/// Elements are allocated as they are needed.
pub(crate) const NO_PREALLOC: usize = 1;

#[btf_map]
static INTERFACES: HashMap<u32, Interface, { maps::INTERFACES }, NO_PREALLOC> = HashMap::new();

/// Interface index that owns an address of this node.
#[btf_map]
static LOCAL_ADDRESSES: HashMap<Address, u32, { maps::LOCAL_ADDRESSES }, NO_PREALLOC> =
    HashMap::new();

/// An interface that programs are attached to.
#[inline(always)]
pub(crate) fn interface(index: u32) -> Option<&'static Interface> {
    // SAFETY: written by the agent only, by whole-element replacement.
    unsafe { INTERFACES.get(index) }
}

#[inline(always)]
pub(crate) fn is_kind(index: u32, kind: InterfaceKind) -> bool {
    interface(index).is_some_and(|interface| interface.kind == kind as u32)
}

#[inline(always)]
pub(crate) fn owner(address: &Address) -> Option<u32> {
    // SAFETY: as above; the value is one word.
    unsafe { LOCAL_ADDRESSES.get(address) }.copied()
}

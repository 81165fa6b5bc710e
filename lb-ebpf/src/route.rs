//! Route lookups.

use core::ptr;

use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_BLACKHOLE, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH,
        BPF_FIB_LKUP_RET_PROHIBIT, BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LKUP_RET_UNREACHABLE,
    },
    helpers::bpf_fib_lookup,
};
use lb_common::{Hook, Tuple, Verdict};

use crate::{
    family::Family,
    headers::{ETHERNET, Headers},
    packet::{Packet, Step},
};

pub(crate) const LOOPBACK: u32 = 1;

/// `struct bpf_fib_lookup` of the kernel, its unions resolved the way this
/// crate uses them: question before the call, answer after it.
#[repr(C)]
#[derive(Default)]
pub struct Route {
    /// Family of `destination`: an IPv4 route may have an IPv6 next hop.
    pub(crate) family: u8,
    protocol: u8,
    source_port: u16,
    destination_port: u16,
    length: u16,
    /// In: where the packet came in. Out: where it leaves.
    pub(crate) interface: u32,
    flow: u32,
    pub(crate) source: [u32; 4],
    /// Out: the next hop.
    pub(crate) destination: [u32; 4],
    vlan: u32,
    pub(crate) source_mac: [u16; 3],
    pub(crate) destination_mac: [u16; 3],
}

const _: () = assert!(size_of::<Route>() == 64);

pub(crate) enum Answer {
    /// The link-layer addresses are filled in.
    Resolved,
    /// The next hop's link-layer address is not known yet.
    Unresolved,
    /// To this node itself, or nowhere that forwarding knows of.
    NotForwarded,
    /// The routing table says no.
    Prohibited,
}

/// How packets of `tuple` that came in by `interface` leave.
#[inline(always)]
pub(crate) fn lookup<F: Family>(
    context: *mut core::ffi::c_void,
    interface: u32,
    tuple: &Tuple,
    route: &mut Route,
) -> Answer {
    *route = Route {
        family: F::NUMBER,
        protocol: tuple.protocol,
        interface,
        ..Route::default()
    };
    F::ask(route, &tuple.source, &tuple.destination);
    // SAFETY: `Route` has the size and layout of `struct bpf_fib_lookup`.
    let answer = unsafe {
        bpf_fib_lookup(
            context,
            ptr::from_mut(route).cast(),
            size_of::<Route>() as i32,
            0,
        )
    };
    match answer as u32 {
        BPF_FIB_LKUP_RET_SUCCESS => Answer::Resolved,
        // TC asks for the packet at hand, which is longer than that path takes.
        BPF_FIB_LKUP_RET_NO_NEIGH | BPF_FIB_LKUP_RET_FRAG_NEEDED => Answer::Unresolved,
        BPF_FIB_LKUP_RET_BLACKHOLE | BPF_FIB_LKUP_RET_UNREACHABLE | BPF_FIB_LKUP_RET_PROHIBIT => {
            Answer::Prohibited
        }
        _ => Answer::NotForwarded,
    }
}

/// XDP sends plain frames to known neighbours; the rest is for TC.
#[inline(always)]
pub(crate) fn sendable<P: Packet>(
    packet: &P,
    headers: &Headers<'_>,
    answer: &Answer,
    route: &Route,
) -> Step<()> {
    let plain = headers.shape.network as usize == ETHERNET;
    let resolved = matches!(answer, Answer::Resolved);
    if matches!(P::HOOK, Hook::Xdp) && !(plain && resolved && packet.can_transmit(route.interface))
    {
        return Err(Verdict::Deferred);
    }
    Ok(())
}

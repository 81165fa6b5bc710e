//! Route lookups.

use core::ptr;

use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_BLACKHOLE, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH,
        BPF_FIB_LKUP_RET_PROHIBIT, BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LKUP_RET_UNREACHABLE,
    },
    helpers::bpf_fib_lookup,
};
use lb_common::{Hook, Interface, Tuple, Verdict};

use crate::{
    family::Family,
    headers::{ETHERNET, Headers, Shape, TCP, UDP},
    packet::{Packet, Step, at},
    words::{fill, put},
};

pub(crate) const LOOPBACK: u32 = 1;

/// Length of a hop-by-hop header with the jumbo payload option, in bytes.
const JUMBO: u32 = 8;

/// `struct bpf_fib_lookup` of the kernel, its unions resolved the way this
/// crate uses them: question before the call, answer after it.
#[repr(C)]
pub struct Route {
    /// Family of `destination`: an IPv4 route may have an IPv6 next hop.
    pub(crate) family: u8,
    protocol: u8,
    source_port: u16,
    destination_port: u16,
    /// In: length of the IP packet, or 0. Out: the path's MTU.
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

impl Route {
    /// Becomes a question without addresses.
    #[inline(always)]
    fn ask(&mut self, family: u8, protocol: u8, length: u16, interface: u32) {
        put(&mut self.family, family);
        put(&mut self.protocol, protocol);
        put(&mut self.source_port, 0);
        put(&mut self.destination_port, 0);
        put(&mut self.length, length);
        put(&mut self.interface, interface);
        put(&mut self.flow, 0);
        fill(&mut self.source, 0);
        fill(&mut self.destination, 0);
        put(&mut self.vlan, 0);
        fill(&mut self.source_mac, 0);
        fill(&mut self.destination_mac, 0);
    }

    /// How long an IP packet may be, if one was [`Answer::TooBig`].
    #[inline(always)]
    pub(crate) const fn mtu(&self) -> u32 {
        self.length as u32
    }
}

pub(crate) enum Answer {
    /// The link-layer addresses are filled in.
    Resolved,
    /// The next hop's link-layer address is not known yet.
    Unresolved,
    /// The path takes no IP packet of this length.
    TooBig,
    /// To this node itself, or nowhere that forwarding knows of.
    NotForwarded,
    /// The routing table says no.
    Prohibited,
}

/// How packets of `tuple` that came in by `interface` leave; `length` is that
/// of the IP packet in bytes, or 0 for any.
#[inline(always)]
pub(crate) fn lookup<F: Family>(
    context: *mut core::ffi::c_void,
    interface: u32,
    tuple: &Tuple,
    length: u16,
    route: &mut Route,
) -> Answer {
    route.ask(F::NUMBER, tuple.protocol, length, interface);
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
        BPF_FIB_LKUP_RET_FRAG_NEEDED if length != 0 => Answer::TooBig,
        // TC asks for the packet at hand, which is longer than that path takes.
        BPF_FIB_LKUP_RET_NO_NEIGH | BPF_FIB_LKUP_RET_FRAG_NEEDED => Answer::Unresolved,
        BPF_FIB_LKUP_RET_BLACKHOLE | BPF_FIB_LKUP_RET_UNREACHABLE | BPF_FIB_LKUP_RET_PROHIBIT => {
            Answer::Prohibited
        }
        _ => Answer::NotForwarded,
    }
}

/// Length in bytes of the IP packet, or of those that it will be cut into; 0 if
/// they have many.
#[inline(always)]
pub(crate) fn length<P: Packet, F: Family>(packet: &P, headers: &Headers<'_>) -> Step<u16> {
    let Shape {
        network, transport, ..
    } = headers.shape.checked();
    let segment = packet.segment();
    if segment == 0 {
        let length = F::length(packet, network as usize)?;
        return Ok(length.min(u16::MAX.into()) as u16);
    }
    let header = match headers.tuple.protocol {
        TCP => {
            // SAFETY: `at` has checked the bounds.
            let [.., offset] = unsafe { *at::<[u8; 13]>(packet, transport as usize)? };
            u32::from(offset >> 4) * 4
        }
        UDP => 8,
        _ => return Ok(0),
    };
    // Beyond 64 KiB, one header says how long it is, and none of the segments
    // has it (RFC 2675).
    let jumbo = match F::length(packet, network as usize)? == F::HEADER {
        true => JUMBO,
        false => 0,
    };
    Ok((transport - network + header + segment).saturating_sub(jumbo) as u16)
}

/// Whether the packet is short enough for any path.
#[inline(always)]
pub(crate) fn fits_any<P: Packet, F: Family>(packet: &P, headers: &Headers<'_>) -> Step<bool> {
    /// What any host takes (RFC 791, section 3.1).
    const LEAST: u16 = 576;

    Ok(length::<P, F>(packet, headers)? <= LEAST)
}

/// XDP sends plain frames to known neighbours; the rest is for TC. The route leads to
/// the interface `leaving`.
#[inline(always)]
pub(crate) fn sendable<P: Packet>(
    packet: &P,
    headers: &Headers<'_>,
    answer: &Answer,
    route: &Route,
    leaving: impl FnOnce() -> Option<&'static Interface>,
) -> Step<()> {
    let plain = headers.shape.network as usize == ETHERNET;
    let resolved = matches!(answer, Answer::Resolved);
    let may_leave = || leaving().is_some_and(|it| packet.can_transmit(route.interface, it));
    if matches!(P::HOOK, Hook::Xdp) && !(plain && resolved && may_leave()) {
        return Err(Verdict::Deferred);
    }
    Ok(())
}

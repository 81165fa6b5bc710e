//! Packets in the stack, at an interface's ingress or egress.

use core::{marker::PhantomData, ptr};

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        __sk_buff, BPF_F_INGRESS, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM,
        TC_ACT_REDIRECT, TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_redir_neigh,
    },
    helpers::{
        bpf_clone_redirect, bpf_csum_update, bpf_l4_csum_replace, bpf_redirect, bpf_redirect_neigh,
        bpf_redirect_peer, bpf_skb_change_tail, bpf_skb_change_type, bpf_skb_load_bytes,
        bpf_skb_pull_data, bpf_skb_store_bytes, bpf_skb_vlan_pop,
    },
    programs::TcContext,
};
use lb_common::{Hook, Hop, Interface, InterfaceKind, Tuple, Verdict, checksum::Delta};

use crate::{
    counters,
    family::Family,
    headers::TAGS,
    packet::{Packet, Step, bounded, swap_macs, write_macs},
    route::{LOOPBACK, Route},
    sockets,
    xdp::{TCP_CHECKSUM, UDP_CHECKSUM},
};

pub struct Ingress;
pub struct Egress;

pub trait Direction {
    const HOOK: Hook;
}

impl Direction for Ingress {
    const HOOK: Hook = Hook::TcIngress;
}

impl Direction for Egress {
    const HOOK: Hook = Hook::TcEgress;
}

pub struct Tc<D> {
    context: TcContext,
    direction: PhantomData<D>,
}

/// Beside a label, says that it is ours: the kernel clears the mark of packets
/// that come from another network namespace, and keeps their `tc_index`.
const PROOF: u32 = 0x4c62_0f1e;

/// What `tc_index` says to the next hook, which clears it.
const TRANSLATED: u32 = 0x4c01;
const DELIVER: u32 = 0x4c02;
const RESEND: u32 = 0x4c03;
const BACK: u32 = 0x4c04;

/// Ethernet, two VLAN tags, the longest IPv4 header and a TCP header.
const LONGEST_HEADERS: u32 = 14 + 8 + 60 + 20;

impl<D: Direction> Tc<D> {
    #[inline(always)]
    #[must_use]
    pub fn new(context: TcContext) -> Self {
        let packet = Self::again(context);
        packet.reveal(LONGEST_HEADERS);
        packet
    }

    /// A packet whose headers are readable already.
    #[inline(always)]
    pub(crate) const fn again(context: TcContext) -> Self {
        Self {
            context,
            direction: PhantomData,
        }
    }

    #[inline(always)]
    fn skb(&self) -> *mut __sk_buff {
        self.context.skb.skb
    }

    #[inline(always)]
    fn label(&self, label: u32) {
        let proof = if label == 0 { 0 } else { PROOF };
        // SAFETY: the context is the program's own, and the fields writable.
        unsafe {
            ptr::write_volatile(&raw mut (*self.skb()).tc_index, label);
            ptr::write_volatile(&raw mut (*self.skb()).mark, proof);
        }
    }

    /// 0 if there is no label, or if it is not ours.
    #[inline(always)]
    fn labelled(&self) -> u32 {
        // SAFETY: the context is the program's own.
        unsafe {
            match ptr::read_volatile(&raw const (*self.skb()).mark) {
                PROOF => ptr::read_volatile(&raw const (*self.skb()).tc_index),
                _ => 0,
            }
        }
    }

    /// Takes off the tags that the packet came with: they are no part of the frame
    /// that programs see, and would go out with it.
    #[inline(always)]
    fn untag(&self) -> Step<()> {
        for _ in 0..TAGS {
            // SAFETY: the context is the program's own.
            unsafe {
                if (*self.skb()).vlan_present == 0 {
                    break;
                }
                if bpf_skb_vlan_pop(self.skb()) != 0 {
                    return Err(Verdict::Refused);
                }
            }
        }
        Ok(())
    }

    /// Has the next stack take the packet for its own: what comes in at a port of
    /// a bridge is addressed to the bridge.
    #[inline(always)]
    fn be_for_host(&self) -> Step<()> {
        const PACKET_HOST: u32 = 0;
        // SAFETY: the context is the program's own.
        let result = unsafe {
            match (*self.skb()).pkt_type {
                PACKET_HOST => 0,
                _ => bpf_skb_change_type(self.skb(), PACKET_HOST),
            }
        };
        match result {
            0 => Ok(()),
            _ => Err(Verdict::Refused),
        }
    }

    #[inline(always)]
    fn neighbour(&self, interface: u32, next_hop: *mut bpf_redir_neigh, length: i32) -> Step<i32> {
        // SAFETY: `next_hop` is null with length 0, or a whole structure.
        match unsafe { bpf_redirect_neigh(interface, next_hop, length, 0) } as i32 {
            TC_ACT_REDIRECT => Ok(TC_ACT_REDIRECT),
            _ => Err(Verdict::Refused),
        }
    }
}

impl Tc<Ingress> {
    /// Whether an egress hook has translated the packet and sent it here to
    /// be rid of the route it carried.
    #[inline(always)]
    #[must_use]
    pub fn is_resent(&self) -> bool {
        let resent = self.labelled() == RESEND;
        if resent {
            self.label(0);
        }
        resent
    }
}

impl Tc<Egress> {
    /// What to do with a packet that another hook has translated and sent
    /// here; `None` if it has not.
    #[inline(always)]
    #[must_use]
    pub fn passing(&self) -> Option<i32> {
        let label = self.labelled();
        if label != TRANSLATED && label != DELIVER {
            return None;
        }
        counters::count(Hook::TcEgress, Verdict::Passing as u32);
        if label == DELIVER && self.interface() != LOOPBACK {
            // The packet carries its route to a local socket by now; the
            // loopback device keeps it, so input routing is not asked.
            // SAFETY: the helper has no precondition.
            return Some(unsafe { bpf_redirect(LOOPBACK, 0) } as i32);
        }
        self.label(0);
        Some(TC_ACT_UNSPEC)
    }
}

impl<D: Direction> Packet for Tc<D> {
    const HOOK: Hook = D::HOOK;
    /// Leaves the packet to the next program, as if this one were not there.
    const PASS: i32 = TC_ACT_UNSPEC;
    const DROP: i32 = TC_ACT_SHOT;

    #[inline(always)]
    fn context(&self) -> *mut core::ffi::c_void {
        self.context.as_ptr()
    }

    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        (self.context.data(), self.context.data_end())
    }

    #[inline(always)]
    fn interface(&self) -> u32 {
        // SAFETY: the context is the program's own.
        unsafe { (*self.skb()).ifindex }
    }

    #[inline(always)]
    fn origin(&self) -> u32 {
        // SAFETY: the context is the program's own.
        unsafe { (*self.skb()).ingress_ifindex }
    }

    #[inline(always)]
    fn is_for_another_machine(&self, interface: &Interface) -> bool {
        const PACKET_OTHERHOST: u32 = 3;
        // What comes in at a port of a bridge is addressed to the bridge.
        // SAFETY: the context is the program's own.
        let kind = unsafe { (*self.skb()).pkt_type };
        interface.kind == InterfaceKind::Uplink as u32 && kind == PACKET_OTHERHOST
    }

    #[inline(always)]
    fn fix_transport_checksum<F: Family>(
        &self,
        offset: usize,
        udp: bool,
        addresses: Delta,
        ports: Delta,
    ) -> Step<()> {
        let (field, zero) = if udp {
            (UDP_CHECKSUM, u64::from(BPF_F_MARK_MANGLED_0))
        } else {
            (TCP_CHECKSUM, 0)
        };
        let offset = (offset + field) as u32;
        let pseudo = u64::from(BPF_F_PSEUDO_HDR) | zero;
        let (addresses, ports) = (u64::from(addresses.wsum()), u64::from(ports.wsum()));
        // SAFETY: the context is the program's own; a size of 0 in the flags
        // makes the helper take a difference instead of two values.
        let result = unsafe {
            bpf_l4_csum_replace(self.skb(), offset, 0, ports, zero)
                | bpf_l4_csum_replace(self.skb(), offset, 0, addresses, pseudo)
        };
        if result != 0 {
            return Err(Verdict::Refused);
        }
        if !F::HAS_CHECKSUM {
            // The helper moved the sum over the whole packet, if the NIC made
            // one, by what IPv4 makes up for in its own checksum. Refused if
            // there is no such sum.
            // SAFETY: the context is the program's own.
            unsafe { bpf_csum_update(self.skb(), addresses as u32) };
        }
        Ok(())
    }

    /// The sum over the body is the device's to add if the packet leaves that
    /// to it (`CHECKSUM_PARTIAL`), which no program can ask. The helper can: for
    /// such a packet it does not apply what changed outside the pseudo header.
    #[inline(always)]
    fn complete_checksum(&self, offset: usize, pseudo: Delta, body: Delta) -> Step<()> {
        // The field is taken for a checksum, the complement of a sum.
        let change = body.and(pseudo).and(pseudo).wsum();
        // SAFETY: the context is the program's own; see above for the flags.
        match unsafe { bpf_l4_csum_replace(self.skb(), offset as u32, 0, change.into(), 0) } {
            0 => Ok(()),
            _ => Err(Verdict::Refused),
        }
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        self.context.len()
    }

    #[inline(always)]
    fn segment(&self) -> u32 {
        // SAFETY: the context is the program's own.
        unsafe { (*self.skb()).gso_size }
    }

    #[inline(always)]
    fn amend_sum(&self, change: Delta) {
        // SAFETY: the context is the program's own. Refused if there is no sum.
        unsafe { bpf_csum_update(self.skb(), change.wsum()) };
    }

    #[inline(always)]
    fn resize(&self, length: u32) -> Step<()> {
        // SAFETY: the context is the program's own.
        match unsafe { bpf_skb_change_tail(self.skb(), length, 0) } {
            0 => Ok(()),
            _ => Err(Verdict::Refused),
        }
    }

    #[inline(always)]
    fn load(&self, offset: usize, to: *mut u8, length: u32, limit: u32) -> Step<()> {
        let length = bounded(length, limit)?;
        // SAFETY: the caller's buffer holds `limit` bytes.
        match unsafe { bpf_skb_load_bytes(self.context(), offset as u32, to.cast(), length) } {
            0 => Ok(()),
            _ => Err(Verdict::Malformed),
        }
    }

    #[inline(always)]
    fn store(&self, offset: usize, from: *const u8, length: u32, limit: u32) -> Step<()> {
        let length = bounded(length, limit)?;
        let flags = u64::from(BPF_F_RECOMPUTE_CSUM);
        // SAFETY: the caller's buffer holds `limit` bytes.
        let result =
            unsafe { bpf_skb_store_bytes(self.skb(), offset as u32, from.cast(), length, flags) };
        match result {
            0 => Ok(()),
            _ => Err(Verdict::Refused),
        }
    }

    /// The kernel may have left what lies further back in pages of its own.
    #[inline(always)]
    fn reveal(&self, length: u32) {
        let linear = (self.context.data_end() - self.context.data()) as u32;
        let wanted = self.context.len().min(length);
        if linear < wanted {
            // SAFETY: the context is the program's own. On failure the packet
            // stays as it is and fails the bounds checks.
            unsafe { bpf_skb_pull_data(self.skb(), wanted) };
        }
    }

    #[inline(always)]
    fn repeat(&self) -> Step<()> {
        let flags = match D::HOOK {
            Hook::TcEgress => 0,
            Hook::Xdp | Hook::TcIngress => BPF_F_INGRESS.into(),
        };
        // SAFETY: the context is the program's own.
        let result = unsafe { bpf_clone_redirect(self.skb(), self.interface(), flags) };
        // More than 0 says what became of a packet that was sent.
        if result < 0 {
            return Err(Verdict::Refused);
        }
        Ok(())
    }

    #[inline(always)]
    fn put_back(&self) -> Step<()> {
        // SAFETY: the context is the program's own.
        let (mark, index) = unsafe { ((*self.skb()).mark, (*self.skb()).tc_index) };
        self.label(BACK);
        let result = self.repeat();
        if result.is_err() {
            // It goes on as it came.
            // SAFETY: as above, and the fields are writable.
            unsafe {
                ptr::write_volatile(&raw mut (*self.skb()).tc_index, index);
                ptr::write_volatile(&raw mut (*self.skb()).mark, mark);
            }
        }
        result
    }

    #[inline(always)]
    fn is_back(&self) -> bool {
        let is_back = self.labelled() == BACK;
        if is_back {
            self.label(0);
        }
        is_back
    }

    #[inline(always)]
    fn has_socket(&self, reply: &Tuple) -> bool {
        sockets::exist(self.context(), reply)
    }

    #[inline(always)]
    fn can_transmit(&self, _index: u32, _interface: &Interface) -> bool {
        true
    }

    #[inline(always)]
    fn transmit(&self, route: &Route) -> Step<i32> {
        self.untag()?;
        self.label(TRANSLATED);
        let mut next_hop = [
            u32::from(route.family),
            route.destination[0],
            route.destination[1],
            route.destination[2],
            route.destination[3],
        ];
        const { assert!(size_of::<[u32; 5]>() == size_of::<bpf_redir_neigh>()) };
        self.neighbour(
            route.interface,
            next_hop.as_mut_ptr().cast(),
            size_of::<bpf_redir_neigh>() as i32,
        )
    }

    #[inline(always)]
    fn go_on(&self, hop: &Hop) -> Step<i32> {
        self.untag()?;
        write_macs(self, hop.destination_mac, hop.source_mac)?;
        if matches!(D::HOOK, Hook::TcIngress) && hop.flags & Hop::PEER != 0 {
            self.be_for_host()?;
            // SAFETY: the helper has no precondition.
            return Ok(unsafe { bpf_redirect_peer(hop.interface, 0) } as i32);
        }
        self.label(TRANSLATED);
        // SAFETY: the helper has no precondition.
        Ok(unsafe { bpf_redirect(hop.interface, 0) } as i32)
    }

    #[inline(always)]
    fn bounce(&self) -> Step<i32> {
        let is_leaving = matches!(D::HOOK, Hook::TcEgress);
        if is_leaving && self.interface() == LOOPBACK {
            // It comes back by itself, with its route to a local socket.
            return Ok(Self::PASS);
        }
        swap_macs(self)?;
        let flags = if is_leaving {
            BPF_F_INGRESS.into()
        } else {
            self.label(TRANSLATED);
            0
        };
        // SAFETY: the helper has no precondition.
        Ok(unsafe { bpf_redirect(self.interface(), flags) } as i32)
    }

    #[inline(always)]
    fn resend(&self, interface: u32) -> Step<i32> {
        self.label(RESEND);
        // SAFETY: the helper has no precondition.
        Ok(unsafe { bpf_redirect(interface, BPF_F_INGRESS.into()) } as i32)
    }

    #[inline(always)]
    fn deliver(&self, interface: u32) -> Step<i32> {
        self.be_for_host()?;
        self.label(DELIVER);
        self.neighbour(interface, ptr::null_mut(), 0)
    }
}

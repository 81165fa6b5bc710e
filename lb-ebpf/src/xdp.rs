//! Packets at a driver's receive side.

use aya_ebpf::{
    EbpfContext as _,
    bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_REDIRECT, XDP_TX},
    helpers::{
        bpf_redirect, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len, bpf_xdp_load_bytes,
        bpf_xdp_store_bytes,
    },
    programs::XdpContext,
};
use lb_common::{Hook, Hop, Interface, InterfaceKind, Tuple, Verdict, checksum::Delta};

use crate::{
    family::Family,
    interfaces,
    packet::{Packet, Step, at, bounded, swap_macs, write_macs},
    route::Route,
    sockets,
};

pub struct Xdp(XdpContext);

impl Xdp {
    #[inline(always)]
    #[must_use]
    pub const fn new(context: XdpContext) -> Self {
        Self(context)
    }

    #[inline(always)]
    fn leave(&self, by: u32) -> Step<i32> {
        let by_redirect = interfaces::interface(by)
            .is_none_or(|interface| interface.flags & Interface::REDIRECT != 0);
        self.send(by, by_redirect)
    }

    #[inline(always)]
    fn send(&self, by: u32, by_redirect: bool) -> Step<i32> {
        if by == self.interface() && !by_redirect {
            return Ok(XDP_TX.cast_signed());
        }
        // SAFETY: the helper has no precondition.
        match unsafe { bpf_redirect(by, 0) } as u32 {
            XDP_REDIRECT => Ok(XDP_REDIRECT.cast_signed()),
            _ => Err(Verdict::Refused),
        }
    }
}

/// The shortest Ethernet frame, without its check sequence.
const SHORTEST: u32 = 60;

/// Offset of the checksum in a header, in bytes.
pub(crate) const TCP_CHECKSUM: usize = 16;
pub(crate) const UDP_CHECKSUM: usize = 6;

impl Packet for Xdp {
    const HOOK: Hook = Hook::Xdp;
    const PASS: i32 = XDP_PASS.cast_signed();
    const DROP: i32 = XDP_DROP.cast_signed();

    #[inline(always)]
    fn context(&self) -> *mut core::ffi::c_void {
        self.0.as_ptr()
    }

    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        (self.0.data(), self.0.data_end())
    }

    #[inline(always)]
    fn interface(&self) -> u32 {
        self.0.ingress_ifindex() as u32
    }

    #[inline(always)]
    fn origin(&self) -> u32 {
        self.interface()
    }

    #[inline(always)]
    fn is_for_another_machine(&self, interface: &Interface) -> bool {
        let [a, b, c, _] = interface.mac;
        // SAFETY: `at` has checked the bounds.
        let destination = at::<[u16; 3]>(self, 0).map(|macs| unsafe { *macs });
        a | b | c != 0 && destination.is_ok_and(|destination| destination != [a, b, c])
    }

    #[inline(always)]
    fn fix_transport_checksum<F: Family>(
        &self,
        offset: usize,
        udp: bool,
        addresses: Delta,
        ports: Delta,
    ) -> Step<()> {
        let field = if udp { UDP_CHECKSUM } else { TCP_CHECKSUM };
        // SAFETY: `at` has checked the bounds.
        let checksum = unsafe { &mut *at::<u16>(self, offset + field)? };
        if udp && *checksum == 0 {
            return Ok(());
        }
        let sum = addresses.and(ports).apply(*checksum);
        // RFC 768: a computed zero is sent as all ones.
        *checksum = if udp && sum == 0 { 0xffff } else { sum };
        Ok(())
    }

    #[inline(always)]
    fn complete_checksum(&self, offset: usize, pseudo: Delta, body: Delta) -> Step<()> {
        // SAFETY: `at` has checked the bounds.
        unsafe { *at::<u16>(self, offset)? = !pseudo.and(body).fold() };
        Ok(())
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: the context is the program's own.
        unsafe { bpf_xdp_get_buff_len(self.0.ctx) as u32 }
    }

    #[inline(always)]
    fn segment(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn amend_sum(&self, _change: Delta) {}

    #[inline(always)]
    fn resize(&self, length: u32) -> Step<()> {
        let now = self.length();
        // Not every driver pads what XDP sends.
        let length = length.max(now.min(SHORTEST));
        // SAFETY: the context is the program's own.
        match unsafe { bpf_xdp_adjust_tail(self.0.ctx, length.wrapping_sub(now) as i32) } {
            0 => Ok(()),
            // The driver has left no room behind the frame.
            _ => Err(Verdict::Deferred),
        }
    }

    #[inline(always)]
    fn load(&self, offset: usize, to: *mut u8, length: u32, limit: u32) -> Step<()> {
        let length = bounded(length, limit)?;
        // SAFETY: the caller's buffer holds `limit` bytes.
        match unsafe { bpf_xdp_load_bytes(self.0.ctx, offset as u32, to.cast(), length) } {
            0 => Ok(()),
            _ => Err(Verdict::Malformed),
        }
    }

    #[inline(always)]
    fn store(&self, offset: usize, from: *const u8, length: u32, limit: u32) -> Step<()> {
        let length = bounded(length, limit)?;
        let from = from.cast_mut().cast();
        // SAFETY: the caller's buffer holds `limit` bytes; they are only read.
        match unsafe { bpf_xdp_store_bytes(self.0.ctx, offset as u32, from, length) } {
            0 => Ok(()),
            _ => Err(Verdict::Refused),
        }
    }

    #[inline(always)]
    fn reveal(&self, _length: u32) {}

    #[inline(always)]
    fn repeat(&self) -> Step<()> {
        Err(Verdict::Deferred)
    }

    #[inline(always)]
    fn put_back(&self) -> Step<()> {
        Err(Verdict::Deferred)
    }

    #[inline(always)]
    fn is_back(&self) -> bool {
        false
    }

    #[inline(always)]
    fn has_socket(&self, reply: &Tuple) -> bool {
        sockets::exist(self.context(), reply)
    }

    #[inline(always)]
    fn can_transmit(&self, index: u32, interface: &Interface) -> bool {
        // Another driver may take frames only while it runs XDP itself.
        interface.kind == InterfaceKind::Uplink as u32
            && (index == self.interface() || interface.flags & Interface::XDP != 0)
    }

    #[inline(always)]
    fn transmit(&self, route: &Route) -> Step<i32> {
        self.leave(route.interface)
    }

    #[inline(always)]
    fn go_on(&self, hop: &Hop) -> Step<i32> {
        write_macs(self, hop.destination_mac, hop.source_mac)?;
        self.send(hop.interface, hop.flags & Hop::REDIRECT != 0)
    }

    #[inline(always)]
    fn bounce(&self) -> Step<i32> {
        swap_macs(self)?;
        self.leave(self.interface())
    }

    #[inline(always)]
    fn resend(&self, _interface: u32) -> Step<i32> {
        Err(Verdict::Deferred)
    }

    #[inline(always)]
    fn deliver(&self, _interface: u32) -> Step<i32> {
        Err(Verdict::Deferred)
    }
}

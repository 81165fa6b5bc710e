//! Packets at a driver's receive side.

use aya_ebpf::{
    EbpfContext as _,
    bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_REDIRECT, XDP_TX},
    helpers::bpf_redirect,
    programs::XdpContext,
};
use lb_common::{Hook, Interface, InterfaceKind, Verdict, checksum::Delta};

use crate::{
    family::Family,
    interfaces,
    packet::{Packet, Step, at},
    route::Route,
};

pub struct Xdp(XdpContext);

impl Xdp {
    #[inline(always)]
    #[must_use]
    pub const fn new(context: XdpContext) -> Self {
        Self(context)
    }
}

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
    fn can_transmit(&self, interface: u32) -> bool {
        // Another driver may take frames only while it runs XDP itself.
        interfaces::interface(interface).is_some_and(|leaving| {
            leaving.kind == InterfaceKind::Uplink as u32
                && (interface == self.interface() || leaving.flags & Interface::XDP != 0)
        })
    }

    #[inline(always)]
    fn transmit(&self, route: &Route) -> Step<i32> {
        // SAFETY: `at` has checked the bounds.
        let macs = unsafe { &mut *at::<[[u16; 3]; 2]>(self, 0)? };
        macs[0] = route.destination_mac;
        macs[1] = route.source_mac;
        let by_redirect = interfaces::interface(route.interface)
            .is_none_or(|interface| interface.flags & Interface::REDIRECT != 0);
        if route.interface == self.interface() && !by_redirect {
            return Ok(XDP_TX.cast_signed());
        }
        // SAFETY: the helper has no precondition.
        match unsafe { bpf_redirect(route.interface, 0) } as u32 {
            XDP_REDIRECT => Ok(XDP_REDIRECT.cast_signed()),
            _ => Err(Verdict::Refused),
        }
    }

    #[inline(always)]
    fn bounce(&self, _interface: u32) -> Step<i32> {
        Err(Verdict::Deferred)
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

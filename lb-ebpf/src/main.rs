//! The programs' entry points.

#![no_std]
#![no_main]

use aya_ebpf::{
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use lb_ebpf::{Egress, Ingress, Tc, Xdp, collect, run, run_resent};

#[xdp(frags)]
#[inline(always)]
fn lb_xdp(context: XdpContext) -> u32 {
    run(&Xdp::new(context)).cast_unsigned()
}

#[classifier]
#[inline(always)]
fn lb_ingress(context: TcContext) -> i32 {
    let packet = Tc::<Ingress>::new(context);
    if packet.is_resent() {
        return run_resent(&packet);
    }
    run(&packet)
}

#[classifier]
#[inline(always)]
fn lb_egress(context: TcContext) -> i32 {
    let packet = Tc::<Egress>::new(context);
    match packet.passing() {
        Some(action) => action,
        None => run(&packet),
    }
}

/// Attached nowhere: the agent runs it by itself.
#[classifier]
fn lb_collect(context: TcContext) -> i32 {
    collect(&context).cast_signed()
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The helpers `bpf_redirect_neigh`, `bpf_skb_pull_data` and others are for
/// GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

//! Programs of the benchmark, an object of their own.

#![no_std]
#![no_main]

mod floor;
mod replay;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, xdp_action::XDP_ABORTED, xdp_action::XDP_DROP},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};

/// What a test run costs by itself.
#[xdp(frags)]
fn empty(_context: XdpContext) -> u32 {
    XDP_DROP
}

#[xdp(frags)]
fn floor(context: XdpContext) -> u32 {
    floor::floor(&context)
}

#[xdp(frags)]
fn replay_xdp(context: XdpContext) -> u32 {
    replay::xdp(&context);
    XDP_ABORTED
}

#[classifier]
fn replay_tc(context: TcContext) -> i32 {
    replay::tc(&context);
    TC_ACT_SHOT
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

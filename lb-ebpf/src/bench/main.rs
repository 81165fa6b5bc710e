//! Programs of the benchmark: what sends frames, what ends them, what the
//! product is measured by, and what does nothing at all.

#![no_std]
#![no_main]

mod floor;
mod generate;
mod replay;
mod sink;

use aya_ebpf::{
    bindings::{
        TC_ACT_SHOT,
        xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS},
    },
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};

/// Run in live-frames mode: makes each frame anew and sends it out of an
/// interface, whose peer then receives it.
#[xdp]
fn generate(context: XdpContext) -> u32 {
    generate::send(&context).unwrap_or(XDP_ABORTED)
}

/// Counts and drops the frames of `generate`, whatever became of their headers.
#[xdp(frags)]
fn sink(context: XdpContext) -> u32 {
    match sink::count(&context) {
        Some(()) => XDP_DROP,
        None => XDP_PASS,
    }
}

/// A veth takes redirected frames where a program is, any program; and what a
/// test run costs by itself.
#[xdp(frags)]
fn empty(_: XdpContext) -> u32 {
    XDP_PASS
}

#[xdp(frags)]
fn floor(context: XdpContext) -> u32 {
    floor::floor(&context)
}

/// The same, but frames leave as the product has them leave by a veth.
#[xdp(frags)]
fn floor_redirect(context: XdpContext) -> u32 {
    floor::redirect(&context)
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

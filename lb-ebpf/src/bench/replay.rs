//! Has a program meet one frame again and again, as it came the first time: a
//! test run hands it back as the program has left it.

use core::ptr;

use aya_ebpf::{
    btf_maps::{Array, PerCpuArray, ProgramArray},
    macros::btf_map,
    programs::{TcContext, XdpContext},
};

/// How a frame begins, and what differs from one to the next.
#[repr(C)]
pub(crate) struct Template {
    head: [u64; HEAD / size_of::<u64>()],
    /// Number of flows, a power of 2; only IPv4 has more than one.
    flows: u32,
    /// Which end of the flow the numbers are for: 0 the source, 1 the destination.
    end: u32,
}

/// Bytes of a frame that are written anew: as long as the longest headers.
const HEAD: usize = 80;

#[btf_map]
static TEMPLATE: Array<Template, 1> = Array::new();

#[btf_map]
static SENT: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Programs of one kind only can be in one.
#[btf_map]
static XDP_PROGRAM: ProgramArray<1> = ProgramArray::new();

#[btf_map]
static TC_PROGRAM: ProgramArray<1> = ProgramArray::new();

/// Offsets in a frame with an IPv4 header without options.
const ADDRESSES: [usize; 2] = [26, 30];
const PORTS: [usize; 2] = [34, 36];
/// The lowest bits of a flow's number are in its port, above those that are
/// reserved.
const PORT_BITS: u32 = 15;
const FIRST_PORT: u16 = 16_384;

/// Writes the next frame and runs the program on it.
#[inline(always)]
pub(crate) fn xdp(context: &XdpContext) {
    write(context.data(), context.data_end());
    // SAFETY: whatever program is there takes this context, or the kernel would
    // not have let it in. Nothing here needs to be dropped.
    unsafe { XDP_PROGRAM.tail_call(context, 0) };
}

/// As [`xdp`].
#[inline(always)]
pub(crate) fn tc(context: &TcContext) {
    write(context.data(), context.data_end());
    let skb = context.skb.skb;
    // SAFETY: the context is the program's own, and the fields writable.
    unsafe {
        ptr::write_volatile(&raw mut (*skb).mark, 0);
        ptr::write_volatile(&raw mut (*skb).tc_index, 0);
    }
    // SAFETY: as for XDP.
    unsafe { TC_PROGRAM.tail_call(context, 0) };
}

#[inline(always)]
fn write(start: usize, end: usize) {
    let (Some(template), Some(sent)) = (TEMPLATE.get(0), SENT.get_ptr_mut(0)) else {
        return;
    };
    if start + HEAD > end {
        return;
    }
    // SAFETY: the bounds are checked, and the counter belongs to this CPU.
    unsafe {
        ptr::write_unaligned(start as *mut _, template.head);
        if template.flows > 1 {
            let number = *sent & u64::from(template.flows - 1);
            *sent += 1;
            match template.end {
                0 => write_end(start, ADDRESSES[0], PORTS[0], number as u32),
                _ => write_end(start, ADDRESSES[1], PORTS[1], number as u32),
            }
        }
    }
}

/// # Safety
/// There is a frame of [`HEAD`] bytes at `start`.
#[inline(always)]
unsafe fn write_end(start: usize, address: usize, port: usize, number: u32) {
    let low = number & ((1 << PORT_BITS) - 1);
    // The lower half of the address, which has no carry to take.
    let high = (number >> PORT_BITS) as u16;
    // SAFETY: what the caller says.
    unsafe {
        let half = (start + address + 2) as *mut u16;
        ptr::write_unaligned(
            half,
            (u16::from_be(ptr::read_unaligned(half)) + high).to_be(),
        );
        let port = (start + port) as *mut u16;
        ptr::write_unaligned(port, (FIRST_PORT + low as u16).to_be());
    }
}

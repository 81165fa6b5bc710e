//! Working memory that does not fit on the 512 bytes of stack.

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
use lb_common::{Connection, Tuple, Verdict};

use crate::{packet::Step, route::Route};

/// A connection in the making, and the way of the packet at hand.
#[repr(C)]
pub(crate) struct Scratch {
    pub(crate) forward: Connection,
    pub(crate) reply: Connection,
    pub(crate) reply_key: Tuple,
    pub(crate) route: Route,
    /// Whether the link-layer addresses of `route` are known.
    pub(crate) resolved: bool,
}

#[btf_map]
static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// This CPU's scratch. Its content is what the last packet left there.
#[inline(always)]
pub(crate) fn get() -> Step<&'static mut Scratch> {
    let scratch = SCRATCH.get_ptr_mut(0).ok_or(Verdict::Refused)?;
    // SAFETY: the element belongs to this CPU, programs of these hooks do not
    // interrupt each other, and the pipeline takes it once a packet.
    Ok(unsafe { &mut *scratch })
}

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
    pub(crate) answer: Answer,
}

/// A packet in the making, from its network header on.
#[repr(C)]
pub struct Answer([u32; Self::ROOM / 4]);

impl Answer {
    /// In bytes: the least that every IPv6 link takes (RFC 8200, section 5).
    pub(crate) const SIZE: usize = 1280;
    /// What the checksum helper takes at once, and how often it is asked.
    pub(crate) const CHUNK: u32 = 512;
    pub(crate) const CHUNKS: u32 = (Self::SIZE as u32).div_ceil(Self::CHUNK);
    /// The verifier takes every chunk for a whole one, after the longest header.
    const ROOM: usize = 40 + (Self::CHUNK * Self::CHUNKS) as usize;

    #[inline(always)]
    pub(crate) const fn at<T>(&mut self, offset: usize) -> *mut T {
        self.0.as_mut_ptr().wrapping_byte_add(offset).cast()
    }

    #[inline(always)]
    pub(crate) const fn at_const<T>(&self, offset: usize) -> *const T {
        self.0.as_ptr().wrapping_byte_add(offset).cast()
    }
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

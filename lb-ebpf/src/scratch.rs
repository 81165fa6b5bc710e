//! Working memory that does not fit on the 512 bytes of stack.

use core::arch::asm;

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
use lb_common::{Connection, FragmentKey, Hop, Tuple, Verdict};

use crate::{
    connections::Table,
    headers::{Headers, Shape},
    hop,
    packet::Step,
    route::Route,
};

/// The packet at hand, and what is made of it.
#[repr(C)]
pub(crate) struct Scratch {
    pub(crate) tuple: Tuple,
    pub(crate) shape: Shape,
    pub(crate) work: Work,
    /// What this packet is a part of.
    pub(crate) whole: FragmentKey,
    pub(crate) error: Error,
    pub(crate) answer: Answer,
}

impl Scratch {
    /// The packet's headers, and what is made of it.
    #[inline(always)]
    pub(crate) fn split(&mut self) -> (Headers<'_>, &mut Work) {
        let headers = Headers {
            tuple: &self.tuple,
            shape: self.shape.checked(),
        };
        (headers, &mut self.work)
    }
}

/// An ICMP error about a packet of a connection.
#[repr(C)]
pub(crate) struct Error {
    /// The packet that is quoted, and what it was for its sender.
    pub(crate) quoted: Tuple,
    pub(crate) restored: Tuple,
    /// The error itself, translated.
    pub(crate) translated: Tuple,
}

/// The packet's connection and way.
#[repr(C)]
pub(crate) struct Work {
    pub(crate) halves: Halves,
    /// A connection that has the ports which this one wants.
    pub(crate) rival: Halves,
    pub(crate) route: Route,
    /// Whether the link-layer addresses of `route` are known.
    pub(crate) resolved: bool,
    /// The way of what the backend answers, if it was asked for.
    pub(crate) back: Route,
    /// What connections remember of both.
    pub(crate) hop: Hop,
    pub(crate) hop_back: Hop,
    /// Where `halves.one` was found, if it was.
    pub(crate) found: Option<Table>,
}

/// The packet's own direction of a connection, and the other one.
#[repr(C)]
pub(crate) struct Halves {
    pub(crate) one_key: Tuple,
    pub(crate) one: Connection,
    pub(crate) other_key: Tuple,
    pub(crate) other: Connection,
}

impl Halves {
    /// Makes the other half from the one.
    #[inline(always)]
    pub(crate) fn complete(&mut self) {
        let Self {
            one_key,
            one,
            other_key,
            other,
        } = self;
        one.mirror_to(one_key, other_key, other);
        hop::clear(&mut other.hop);
        barrier();
    }

    #[inline(always)]
    pub(crate) const fn is_reply(&self) -> bool {
        self.one.flags & Connection::REPLY != 0
    }

    /// Key and value of the client's direction, then of the backend's.
    #[inline(always)]
    pub(crate) const fn directed(&self) -> [(&Tuple, &Connection); 2] {
        let halves = [(&self.one_key, &self.one), (&self.other_key, &self.other)];
        match self.is_reply() {
            true => [halves[1], halves[0]],
            false => halves,
        }
    }
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

/// Has the compiler read again what it needs, where it would keep it on a stack
/// that is too small for it.
#[inline(always)]
pub(crate) fn barrier() {
    // SAFETY: does nothing. Without an instruction, two lines would claim the
    // next one, which the verifier does not take.
    unsafe { asm!("{0} = 0", out(reg) _, options(nostack, preserves_flags)) };
}

/// The sum itself, worked out before anything else is read from memory: what
/// the compiler reads ahead, it keeps on the stack.
#[inline(always)]
pub(crate) fn settled(sum: u32) -> u32 {
    let mut sum = u64::from(sum);
    // SAFETY: does nothing.
    unsafe { asm!("{0} = {0}", inout(reg) sum, options(nostack, preserves_flags)) };
    sum as u32
}

/// The number itself, of which the compiler knows nothing any more.
#[inline(always)]
pub(crate) fn hidden(number: u64) -> u64 {
    let mut number = number;
    // SAFETY: does nothing.
    unsafe { asm!("{0} = {0}", inout(reg) number, options(nostack, preserves_flags, nomem)) };
    number
}

/// Runs a subprogram that works on a part of the scratch that the caller holds
/// a reference to, and which the compiler would take for the caller's alone.
/// It cannot be passed: the verifier of Linux 6.1 takes no key or value of a map
/// from memory that a function was given.
#[inline(always)]
pub(crate) fn lend<T, R>(part: &mut T, subprogram: impl FnOnce() -> R) -> R {
    share(part);
    let result = subprogram();
    share(part);
    result
}

/// Tells the compiler that others know of the memory, and may have written it.
#[inline(always)]
fn share<T>(part: &mut T) {
    // SAFETY: copies a register.
    unsafe {
        asm!(
            "{copy} = {part}",
            part = in(reg) core::ptr::from_mut(part),
            copy = out(reg) _,
            options(nostack, preserves_flags)
        );
    }
}

//! Access to a packet, the same for XDP and TC.

use core::hint;

use lb_common::{Hook, Hop, Interface, Tuple, Verdict, checksum::Delta};

use crate::{family::Family, route::Route, words::copy};

/// A step of the pipeline: go on, or leave with a verdict.
pub(crate) type Step<T> = Result<T, Verdict>;

/// The verdict, and what the program returns, in one word.
#[derive(Clone, Copy)]
pub struct Outcome(u64);

impl Outcome {
    #[inline(always)]
    pub(crate) fn new(verdict: Verdict, action: i32) -> Self {
        Self((verdict as u64) << 32 | u64::from(action.cast_unsigned()))
    }

    #[inline(always)]
    pub(crate) const fn from_word(word: u64) -> Self {
        Self(word)
    }

    #[inline(always)]
    pub(crate) const fn word(self) -> u64 {
        self.0
    }

    /// [`Verdict`], as a number.
    #[inline(always)]
    pub(crate) const fn verdict(self) -> u32 {
        (self.0 >> 32) as u32
    }

    #[inline(always)]
    pub(crate) const fn action(self) -> i32 {
        (self.0 as u32).cast_signed()
    }
}

pub trait Packet {
    const HOOK: Hook;
    /// The program's return value that leaves the packet to the kernel.
    const PASS: i32;
    const DROP: i32;

    /// What helpers take as their first argument.
    fn context(&self) -> *mut core::ffi::c_void;

    /// Addresses of the first byte and of the byte after the last one that
    /// can be read.
    fn bounds(&self) -> (usize, usize);

    /// Interface index the program runs for.
    fn interface(&self) -> u32;

    /// Interface index the packet came in by; 0 if this node sent it.
    fn origin(&self) -> u32;

    /// Whether the frame, which came in by `interface`, is addressed to another
    /// machine: switches flood, and interfaces listen to all.
    fn is_for_another_machine(&self, interface: &Interface) -> bool;

    /// Corrects a TCP or UDP checksum. `addresses` is what changed in the
    /// pseudo header, `ports` what changed in the header itself.
    fn fix_transport_checksum<F: Family>(
        &self,
        offset: usize,
        udp: bool,
        addresses: Delta,
        ports: Delta,
    ) -> Step<()>;

    /// Writes a checksum of which the field at `offset` holds the folded sum of
    /// the pseudo header, for a segment that sums up to `body` without it.
    fn complete_checksum(&self, offset: usize, pseudo: Delta, body: Delta) -> Step<()>;

    /// Bytes of the whole frame, whether they can be read directly or not.
    fn length(&self) -> u32;

    /// How many bytes of data each of the packets has that it will be cut into
    /// later (GSO), so that its headers say nothing of its length; else 0.
    fn segment(&self) -> u32;

    /// Corrects the sum over the whole packet, if the NIC made one, for a change of
    /// a word that no checksum in the packet makes up for.
    fn amend_sum(&self, change: Delta);

    /// Makes the frame this long, from its end.
    fn resize(&self, length: u32) -> Step<()>;

    /// Copies `length` bytes, at least 4 and at most `limit`, out of the frame.
    fn load(&self, offset: usize, to: *mut u8, length: u32, limit: u32) -> Step<()>;

    /// Copies `length` bytes, at least 4 and at most `limit`, into the frame.
    fn store(&self, offset: usize, from: *const u8, length: u32, limit: u32) -> Step<()>;

    /// Makes this many bytes readable directly, as far as the frame goes.
    fn reveal(&self, length: u32);

    /// Puts a copy of the packet as it is now into this hook again: at ingress,
    /// after the packets that have arrived; at egress, at once.
    fn repeat(&self) -> Step<()>;

    /// As [`Self::repeat`], known by [`Self::is_back`] when it comes.
    fn put_back(&self) -> Step<()>;

    /// Whether [`Self::put_back`] has brought the packet here. Asked again, it is
    /// not known any more.
    fn is_back(&self) -> bool;

    /// Whether a socket of this node, other than one that listens, gets what is
    /// addressed like `reply`.
    fn has_socket(&self, reply: &Tuple) -> bool;

    /// Whether this hook can send out of the interface by itself.
    fn can_transmit(&self, index: u32, interface: &Interface) -> bool;

    /// Sends the packet out along `route`, past the stack.
    fn transmit(&self, route: &Route) -> Step<i32>;

    /// Sends the packet where the connection remembers that it goes.
    fn go_on(&self, hop: &Hop) -> Step<i32>;

    /// Sends the packet back to where it came from: out of the interface that
    /// it arrived by, or to the node that was sending it.
    fn bounce(&self) -> Step<i32>;

    /// Hands a packet that is leaving to the ingress hook of `interface`,
    /// which sends it where its destination says.
    ///
    /// A packet that this node sends carries the route to the frontend. If it
    /// has to wait for a neighbour, the kernel asks that route again for the
    /// link-layer address, and the packet goes to the wrong machine; and to
    /// give it another route leaks the first. Arriving packets carry none.
    fn resend(&self, interface: u32) -> Step<i32>;

    /// Delivers the packet to a socket of this node; `interface` owns the
    /// destination address.
    fn deliver(&self, interface: u32) -> Step<i32>;
}

/// A pointer to a `T` at `offset` bytes into the packet.
#[inline(always)]
pub(crate) fn at<T>(packet: &impl Packet, offset: usize) -> Step<*mut T> {
    let (start, end) = packet.bounds();
    if start + offset + size_of::<T>() > end {
        return Err(Verdict::Malformed);
    }
    Ok((start + offset) as *mut T)
}

/// Where the IP packet at `offset` ends, by what its header says.
#[inline(always)]
pub(crate) fn end<P: Packet, F: Family>(packet: &P, offset: usize) -> Step<usize> {
    let length = packet.length() as usize;
    if packet.segment() != 0 {
        return Ok(length);
    }
    let end = offset + F::length(packet, offset)?;
    if end > length {
        return Err(Verdict::Malformed);
    }
    Ok(end)
}

/// Writes the link-layer addresses.
#[inline(always)]
pub(crate) fn write_macs(
    packet: &impl Packet,
    destination: [u16; 3],
    source: [u16; 3],
) -> Step<()> {
    // SAFETY: `at` has checked the bounds.
    let macs = unsafe { &mut *at::<[[u16; 3]; 2]>(packet, 0)? };
    let [to, from] = macs;
    copy(&destination, to);
    copy(&source, from);
    Ok(())
}

/// Bytes that are copied at least.
const LEAST: u32 = 4;

/// Swaps the link-layer addresses.
#[inline(always)]
pub(crate) fn swap_macs(packet: &impl Packet) -> Step<()> {
    // SAFETY: `at` has checked the bounds.
    let macs = unsafe { &mut *at::<[[u16; 3]; 2]>(packet, 0)? };
    *macs = [macs[1], macs[0]];
    Ok(())
}

/// `length` itself, in a form whose bounds the verifier can follow: that of
/// Linux 6.1 learns nothing from a comparison with zero.
#[inline(always)]
pub(crate) fn bounded(length: u32, limit: u32) -> Step<u32> {
    let length = hint::black_box(length);
    if length < LEAST || length > limit {
        return Err(Verdict::Malformed);
    }
    Ok(length)
}

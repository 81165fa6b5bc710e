//! How often a sender is told what became of its packets.

use aya_ebpf::{btf_maps::PerCpuArray, helpers::bpf_ktime_get_coarse_ns, macros::btf_map};
use lb_common::Address;

/// The earliest time at which a client of this bucket has used up what it may
/// ask for, in nanoseconds.
#[btf_map]
static REFUSALS: PerCpuArray<u64, { BUCKETS as usize }> = PerCpuArray::new();

/// Clients share these by a hash of their address.
const BUCKETS: u32 = 256;
/// One answer a millisecond for each bucket and CPU, 100 at once.
const INTERVAL: u64 = 1_000_000;
const BURST: u64 = 100 * INTERVAL;

/// Whether the client may have one more answer now.
#[inline(always)]
pub(crate) fn is_due(client: &Address) -> bool {
    let [a, b, c, d] = client.words;
    let hash = (a ^ b ^ c ^ d).wrapping_mul(0x9e37_79b1) >> (32 - BUCKETS.ilog2());
    let Some(bucket) = REFUSALS.get_ptr_mut(hash) else {
        return false;
    };
    // SAFETY: the helper has no precondition.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    // SAFETY: the element belongs to this CPU, and programs of these hooks do
    // not interrupt each other.
    let used_until = unsafe { &mut *bucket };
    if *used_until > now + BURST {
        return false;
    }
    *used_until = now.max(*used_until) + INTERVAL;
    true
}

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
use lb_common::{Hook, Verdict, verdict};

#[btf_map]
static COUNTERS: PerCpuArray<u64, { verdict::COUNTERS as usize }> = PerCpuArray::new();

#[inline(always)]
pub(crate) fn count(hook: Hook, verdict: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(Verdict::counter_of(verdict, hook)) {
        // SAFETY: the element belongs to this CPU.
        unsafe { *counter += 1 };
    }
}

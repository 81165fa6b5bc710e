//! Time, and how long connections last.

use core::hint;

use aya_ebpf::helpers::bpf_jiffies64;
use lb_common::{Life, lifecycle};

use crate::networks;

/// The lower 32 bits of the kernel's jiffies.
#[inline(always)]
pub(crate) fn now() -> u32 {
    // SAFETY: the helper has no precondition.
    unsafe { bpf_jiffies64() as u32 }
}

/// Jiffies in a second.
#[inline(always)]
pub(crate) fn second() -> u32 {
    networks::settings().map_or(1, |settings| settings.second)
}

/// Whether a connection has been idle for longer than its state allows.
#[inline(always)]
pub(crate) fn is_expired(protocol: u8, life: Life, now: u32) -> bool {
    networks::settings().is_some_and(|settings| {
        // Hidden from the compiler, which knows that it is in bounds: the
        // verifier does not.
        let index = hint::black_box(lifecycle::timeout_index(protocol, life.state));
        settings
            .timeouts
            .get(index)
            .is_some_and(|&timeout| life.idle(now) > timeout)
    })
}

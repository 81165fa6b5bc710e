//! Atomic operations. The target has the instructions, but the compiler no name
//! for them.

use core::arch::asm;

/// Writes `new` over `old`; `false` if something else is there.
///
/// # Safety
/// `word` is an aligned word of a map.
#[inline(always)]
pub(crate) unsafe fn swap(word: *mut u64, old: u64, new: u64) -> bool {
    let found: u64;
    // SAFETY: what the caller says.
    unsafe {
        asm!(
            "r0 = cmpxchg_64({word} + 0, r0, {new})",
            word = in(reg) word,
            new = in(reg) new,
            inout("r0") old => found,
        );
    }
    found == old
}

/// Sets these bits.
///
/// # Safety
/// `word` is an aligned word of a map.
#[inline(always)]
pub(crate) unsafe fn set(word: *mut u64, bits: u64) {
    // SAFETY: what the caller says.
    unsafe {
        asm!(
            "lock *(u64 *)({word} + 0) |= {bits}",
            word = in(reg) word,
            bits = in(reg) bits,
        );
    }
}

/// Returns what was there before.
///
/// # Safety
/// `word` is an aligned word of a map.
#[inline(always)]
pub(crate) unsafe fn add(word: *mut u64, change: u64) -> u64 {
    let before: u64;
    // SAFETY: what the caller says.
    unsafe {
        asm!(
            "{change} = atomic_fetch_add((u64 *)({word} + 0), {change})",
            word = in(reg) word,
            change = inout(reg) change => before,
        );
    }
    before
}

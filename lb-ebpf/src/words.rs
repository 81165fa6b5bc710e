//! Writes word by word. Several that follow each other the compiler would leave to
//! a function that goes byte by byte.

use core::ptr;

use lb_common::Connection;

/// `T` is a number.
#[inline(always)]
pub(crate) fn put<T: Copy>(to: &mut T, value: T) {
    // SAFETY: a reference.
    unsafe { ptr::write_volatile(to, value) };
}

#[inline(always)]
pub(crate) fn copy<T: Copy, const N: usize>(from: &[T; N], to: &mut [T; N]) {
    for index in 0..N {
        put(&mut to[index], from[index]);
    }
}

#[inline(always)]
pub(crate) fn fill<T: Copy, const N: usize>(to: &mut [T; N], value: T) {
    to.iter_mut().for_each(|word| put(word, value));
}

/// # Safety
/// Both are elements of a map or in the scratch, where they are aligned to eight
/// bytes; others may write them meanwhile.
#[inline(always)]
pub(crate) unsafe fn copy_connection(from: *const Connection, to: *mut Connection) {
    const WORDS: usize = size_of::<Connection>() / size_of::<u64>();
    let (from, to) = (from.cast::<u64>(), to.cast::<u64>());
    for index in 0..WORDS {
        // SAFETY: as the caller says.
        unsafe { ptr::write_volatile(to.add(index), ptr::read_volatile(from.add(index))) };
    }
}

/// # Safety
/// As above.
#[inline(always)]
pub(crate) unsafe fn is_same<T>(one: *const T, other: *const T) -> bool {
    let (one, other) = (one.cast::<u64>(), other.cast::<u64>());
    let mut differences = 0;
    for index in 0..size_of::<T>() / size_of::<u64>() {
        // SAFETY: as the caller says.
        differences |=
            unsafe { ptr::read_volatile(one.add(index)) ^ ptr::read_volatile(other.add(index)) };
    }
    differences == 0
}

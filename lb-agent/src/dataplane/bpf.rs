//! bpf(2) itself, for what aya does not offer: batches of elements, test runs of
//! a program on another thread than its object's, and which programs an
//! interface has without the right to open them.

use std::{
    io,
    mem::offset_of,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use aya::Pod;
use aya_obj::generated::{
    bpf_attach_type, bpf_attr__bindgen_ty_3 as BatchAttributes,
    bpf_attr__bindgen_ty_7 as TestRunAttributes, bpf_attr__bindgen_ty_10 as QueryAttributes,
    bpf_attr__bindgen_ty_10__bindgen_ty_1 as Target,
    bpf_attr__bindgen_ty_10__bindgen_ty_2 as Count, bpf_cmd,
};

/// How far a batch got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// Elements that were read.
    pub(super) count: usize,
    /// Where to go on; `None` after the last element.
    pub(super) next: Option<u32>,
}

/// Has a set of elements read or written while no program changes it
/// (`BPF_F_LOCK`).
pub(super) const LOCKED: u64 = 4;

/// Reads as many elements of a hash map or an array as there are `keys`, from
/// `position` on, or all that are left. `ENOSPC` if the next bucket alone has
/// more. `flags` go for each element.
///
/// `K` and `V` must be of the sizes that the map has.
pub(super) fn lookup_batch<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    position: Option<u32>,
    keys: &mut [K],
    values: &mut [V],
    flags: u64,
) -> io::Result<Batch> {
    let from = position.unwrap_or_default();
    let mut next = 0_u32;
    let mut attributes = BatchAttributes {
        in_batch: position.map_or(0, |_| (&raw const from).addr() as u64),
        out_batch: (&raw mut next).addr() as u64,
        keys: keys.as_mut_ptr().expose_provenance() as u64,
        values: values.as_mut_ptr().expose_provenance() as u64,
        count: keys.len().min(values.len()) as u32,
        map_fd: map.as_raw_fd().cast_unsigned(),
        elem_flags: flags,
        flags: 0,
    };
    // SAFETY: the kernel writes `count` keys and values at most, of the map's
    // sizes, which are those of `K` and `V`; any bytes make either, they are
    // `Pod`. A position takes four bytes.
    let result = unsafe {
        bpf(
            bpf_cmd::BPF_MAP_LOOKUP_BATCH,
            (&raw mut attributes).cast(),
            size_of::<BatchAttributes>(),
        )
    };
    let count = attributes.count as usize;
    match result {
        Ok(_) => Ok(Batch {
            count,
            next: Some(next),
        }),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Batch { count, next: None }),
        Err(error) => Err(error),
    }
}

/// Writes the elements one after the other, until one is refused. Returns how
/// many were written, and why no more. `flags` go for each element.
///
/// `K` and `V` must be of the sizes that the map has.
pub(super) fn update_batch<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    keys: &[K],
    values: &[V],
    flags: u64,
) -> (usize, io::Result<()>) {
    let mut attributes = BatchAttributes {
        in_batch: 0,
        out_batch: 0,
        keys: keys.as_ptr().expose_provenance() as u64,
        values: values.as_ptr().expose_provenance() as u64,
        count: keys.len().min(values.len()) as u32,
        map_fd: map.as_raw_fd().cast_unsigned(),
        elem_flags: flags,
        flags: 0,
    };
    let asked = attributes.count;
    // SAFETY: the kernel reads `count` keys and values, of the map's sizes,
    // which are those of `K` and `V`.
    let result = unsafe {
        bpf(
            bpf_cmd::BPF_MAP_UPDATE_BATCH,
            (&raw mut attributes).cast(),
            size_of::<BatchAttributes>(),
        )
    };
    match result {
        Ok(_) => (asked as usize, Ok(())),
        // Kernels before 6.4 leave the count when they fail to begin at all.
        Err(error) if attributes.count >= asked => (0, Err(error)),
        Err(error) => (attributes.count as usize, Err(error)),
    }
}

/// Runs a TC program once on a frame with this mark, which it may rewrite.
/// Returns what the program does.
pub(super) fn test_run(program: BorrowedFd<'_>, mark: u32, frame: &mut [u8]) -> io::Result<u32> {
    /// What a signal interrupts is run again.
    const ATTEMPTS: u32 = 8;
    // The head of struct __sk_buff (linux/bpf.h): length and type are the
    // kernel's to say.
    let context = [0, 0, mark];
    for _ in 0..ATTEMPTS {
        let mut attributes = TestRunAttributes {
            prog_fd: program.as_raw_fd().cast_unsigned(),
            retval: 0,
            data_size_in: frame.len() as u32,
            data_size_out: frame.len() as u32,
            data_in: frame.as_ptr().expose_provenance() as u64,
            data_out: frame.as_mut_ptr().expose_provenance() as u64,
            repeat: 1,
            duration: 0,
            ctx_size_in: size_of_val(&context) as u32,
            ctx_size_out: 0,
            ctx_in: (&raw const context).addr() as u64,
            ctx_out: 0,
            flags: 0,
            cpu: 0,
            batch_size: 0,
        };
        // SAFETY: the kernel reads the frame before it writes as many bytes
        // back. What lies behind the last field is padding and not passed.
        let result = unsafe {
            bpf(
                bpf_cmd::BPF_PROG_TEST_RUN,
                (&raw mut attributes).cast(),
                offset_of!(TestRunAttributes, batch_size) + size_of::<u32>(),
            )
        };
        match result {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok(_) => return Ok(attributes.retval),
        }
    }
    Err(io::ErrorKind::Interrupted.into())
}

/// Ids of the TCX programs of an interface, in one direction; none where the
/// kernel has no TCX.
pub(super) fn query_tcx(interface: u32, direction: bpf_attach_type) -> io::Result<Vec<u32>> {
    /// BPF_MPROG_MAX.
    const MOST: usize = 64;
    let mut ids = [0_u32; MOST];
    let mut attributes = QueryAttributes {
        __bindgen_anon_1: Target {
            target_ifindex: interface,
        },
        attach_type: direction as u32,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr().expose_provenance() as u64,
        __bindgen_anon_2: Count { count: MOST as u32 },
        _bitfield_align_1: [],
        _bitfield_1: QueryAttributes::new_bitfield_1(),
        prog_attach_flags: 0,
        link_ids: 0,
        link_attach_flags: 0,
        revision: 0,
    };
    // SAFETY: the kernel writes `count` ids at most, which is how many there is
    // room for.
    let result = unsafe {
        bpf(
            bpf_cmd::BPF_PROG_QUERY,
            (&raw mut attributes).cast(),
            size_of::<QueryAttributes>(),
        )
    };
    match result.map_err(|error| (error.raw_os_error(), error)) {
        Ok(_) => {
            // SAFETY: both fields of the union are the same number.
            let count = unsafe { attributes.__bindgen_anon_2.count };
            Ok(ids.into_iter().take(count as usize).collect())
        }
        // No such hook; no such interface, or nothing there.
        Err((Some(libc::EINVAL | libc::ENOENT | libc::ENODEV), _)) => Ok(Vec::new()),
        Err((_, error)) => Err(error),
    }
}

/// # Safety
/// `attributes` are of `size` bytes, those of the command, and what they point
/// to may be read and written as the command does.
unsafe fn bpf(command: bpf_cmd, attributes: *mut u8, size: usize) -> io::Result<i64> {
    // SAFETY: as the caller says.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as i64, attributes, size) };
    match result {
        0.. => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

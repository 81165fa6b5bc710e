//! bpf(2) itself, for what aya does not offer: programs loaded from rewritten
//! instructions, their machine code, and a map that they count in.

use std::{
    ffi::CStr,
    io, mem,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, ensure};
use aya_obj::generated::{
    bpf_attr, bpf_cmd, bpf_func_info, bpf_insn, bpf_line_info, bpf_map_type, bpf_prog_info,
};
use nix::libc;

/// What the kernel is to load.
pub(super) struct Load<'a> {
    pub(super) kind: u32,
    pub(super) attach: u32,
    pub(super) flags: u32,
    pub(super) license: &'a CStr,
    pub(super) instructions: &'a [bpf_insn],
    pub(super) btf: BorrowedFd<'a>,
    pub(super) functions: &'a [bpf_func_info],
    pub(super) lines: &'a [bpf_line_info],
}

/// A program as the kernel has translated it.
pub(super) struct Image {
    pub(super) id: u32,
    /// Of all functions, one after the other.
    pub(super) code: Vec<u8>,
    /// Where each function begins.
    pub(super) functions: Vec<u64>,
    /// Bytes of each function.
    pub(super) lengths: Vec<u32>,
    pub(super) lines: Vec<bpf_line_info>,
    /// Where the code of each line begins.
    pub(super) addresses: Vec<u64>,
}

/// The program, or what the verifier said last.
pub(super) fn load(program: &Load<'_>) -> io::Result<OwnedFd> {
    let mut log = Vec::new();
    let error = match try_load(program, &mut log) {
        Ok(descriptor) => return Ok(descriptor),
        Err(error) if error.raw_os_error() == Some(libc::E2BIG) => return Err(error),
        Err(error) => error,
    };
    log.resize(1 << 16, 0);
    let _ = try_load(program, &mut log);
    let text = CStr::from_bytes_until_nul(&log).map(CStr::to_string_lossy);
    let text = text.unwrap_or_default();
    let last: Vec<&str> = text.lines().rev().take(20).collect();
    let last: Vec<&str> = last.into_iter().rev().collect();
    Err(io::Error::other(format!("{error}\n{}", last.join("\n"))))
}

fn try_load(program: &Load<'_>, log: &mut [u8]) -> io::Result<OwnedFd> {
    let mut attributes = zeroed();
    // SAFETY: the attributes are zeroed, and all fields of all variants numbers.
    let load = unsafe { &mut attributes.__bindgen_anon_3 };
    load.prog_type = program.kind;
    load.expected_attach_type = program.attach;
    load.prog_flags = program.flags;
    load.license = address(program.license.as_ptr());
    load.insns = address(program.instructions.as_ptr());
    load.insn_cnt = program.instructions.len() as u32;
    load.prog_btf_fd = program.btf.as_raw_fd().cast_unsigned();
    load.func_info = address(program.functions.as_ptr());
    load.func_info_cnt = program.functions.len() as u32;
    load.func_info_rec_size = size_of::<bpf_func_info>() as u32;
    if !program.lines.is_empty() {
        load.line_info = address(program.lines.as_ptr());
        load.line_info_cnt = program.lines.len() as u32;
        load.line_info_rec_size = size_of::<bpf_line_info>() as u32;
    }
    if !log.is_empty() {
        load.log_level = 1;
        load.log_buf = address(log.as_mut_ptr());
        load.log_size = log.len() as u32;
    }
    // SAFETY: each pointer is to as many records as are counted, of the sizes
    // that are told; the kernel writes into the log only, as much as it holds.
    unsafe { descriptor(bpf_cmd::BPF_PROG_LOAD, &mut attributes) }
}

/// # Errors
/// The kernel does not say where machine code is.
pub(super) fn image(program: BorrowedFd<'_>) -> Result<Image> {
    let mut info = no_info();
    // SAFETY: nothing in there points anywhere yet.
    unsafe { read_info(program, &mut info) }.context("asking for a program")?;
    let mut image = Image {
        id: info.id,
        code: vec![0; info.jited_prog_len as usize],
        functions: vec![0; info.nr_jited_ksyms as usize],
        lengths: vec![0; info.nr_jited_func_lens as usize],
        lines: vec![NO_LINE; info.nr_line_info as usize],
        addresses: vec![0; info.nr_jited_line_info as usize],
    };
    let mut info = bpf_prog_info {
        jited_prog_len: info.jited_prog_len,
        jited_prog_insns: address(image.code.as_mut_ptr()),
        nr_jited_ksyms: info.nr_jited_ksyms,
        jited_ksyms: address(image.functions.as_mut_ptr()),
        nr_jited_func_lens: info.nr_jited_func_lens,
        jited_func_lens: address(image.lengths.as_mut_ptr()),
        nr_line_info: info.nr_line_info,
        line_info_rec_size: size_of::<bpf_line_info>() as u32,
        line_info: address(image.lines.as_mut_ptr()),
        nr_jited_line_info: info.nr_jited_line_info,
        jited_line_info_rec_size: size_of::<u64>() as u32,
        jited_line_info: address(image.addresses.as_mut_ptr()),
        ..no_info()
    };
    // SAFETY: each buffer has room for the number of records that is told with
    // it, and outlives the call.
    unsafe { read_info(program, &mut info) }.context("asking for a program's machine code")?;
    let told = !image.code.is_empty() && image.functions.iter().all(|&at| at != 0);
    ensure!(
        told && image.addresses.len() == image.lines.len(),
        "the kernel does not tell where machine code is: it needs net.core.bpf_jit_enable 1, \
         kernel.kptr_restrict 0 or 1, and root"
    );
    Ok(image)
}

pub(super) fn btf(id: u32) -> Result<OwnedFd> {
    let mut attributes = zeroed();
    attributes.__bindgen_anon_6.__bindgen_anon_1.btf_id = id;
    // SAFETY: nothing in there is a pointer.
    let opened = unsafe { descriptor(bpf_cmd::BPF_BTF_GET_FD_BY_ID, &mut attributes) };
    opened.with_context(|| format!("opening BTF {id}"))
}

/// An array map of one element: so many words.
pub(super) struct Counters {
    map: OwnedFd,
    words: usize,
}

impl Counters {
    pub(super) fn new(words: usize) -> Result<Self> {
        let mut attributes = zeroed();
        // SAFETY: as in `try_load`.
        let create = unsafe { &mut attributes.__bindgen_anon_1 };
        create.map_type = bpf_map_type::BPF_MAP_TYPE_ARRAY as u32;
        create.key_size = size_of::<u32>() as u32;
        create.value_size = u32::try_from(words * size_of::<u64>())?;
        create.max_entries = 1;
        // SAFETY: nothing in there is a pointer.
        let map = unsafe { descriptor(bpf_cmd::BPF_MAP_CREATE, &mut attributes) };
        let map = map.context("making a map of counters")?;
        Ok(Self { map, words })
    }

    pub(super) fn descriptor(&self) -> i32 {
        self.map.as_raw_fd()
    }

    pub(super) fn reset(&self) -> Result<()> {
        let mut zeros = vec![0; self.words];
        self.element(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut zeros)
    }

    pub(super) fn read(&self) -> Result<Vec<u64>> {
        let mut words = vec![0; self.words];
        self.element(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut words)?;
        Ok(words)
    }

    fn element(&self, command: bpf_cmd, words: &mut [u64]) -> Result<()> {
        let key = 0_u32;
        let mut attributes = zeroed();
        // SAFETY: as in `try_load`.
        let element = unsafe { &mut attributes.__bindgen_anon_2 };
        element.map_fd = self.map.as_raw_fd().cast_unsigned();
        element.key = address(&raw const key);
        element.__bindgen_anon_1.value = address(words.as_mut_ptr());
        // SAFETY: a key has four bytes, and a value is as long as the words are:
        // both callers take as many as the map was made with.
        unsafe { bpf(command, &mut attributes) }.context("counters")?;
        Ok(())
    }
}

const NO_LINE: bpf_line_info = bpf_line_info {
    insn_off: 0,
    file_name_off: 0,
    line_off: 0,
    line_col: 0,
};

fn no_info() -> bpf_prog_info {
    // SAFETY: numbers only.
    unsafe { mem::zeroed() }
}

fn zeroed() -> bpf_attr {
    // SAFETY: a union of structures of numbers only.
    unsafe { mem::zeroed() }
}

fn address<T>(pointer: *const T) -> u64 {
    pointer.expose_provenance() as u64
}

/// # Safety
/// Each address in `info` is of as many records as is told with it.
unsafe fn read_info(program: BorrowedFd<'_>, info: &mut bpf_prog_info) -> io::Result<()> {
    let mut attributes = zeroed();
    attributes.info.bpf_fd = program.as_raw_fd().cast_unsigned();
    // What lies behind the last field is padding and not passed.
    let end = mem::offset_of!(bpf_prog_info, attach_btf_id) + size_of::<u32>();
    attributes.info.info_len = end as u32;
    attributes.info.info = address(&raw mut *info);
    // SAFETY: the kernel writes no more of the information than is told to have
    // room; what that points to is as the caller says.
    unsafe { bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attributes) }?;
    Ok(())
}

/// # Safety
/// As of [`bpf`], with a command that returns a new descriptor.
unsafe fn descriptor(command: bpf_cmd, attributes: &mut bpf_attr) -> io::Result<OwnedFd> {
    // SAFETY: as the caller says; nobody else knows the new descriptor.
    unsafe { bpf(command, attributes).map(|new| OwnedFd::from_raw_fd(new)) }
}

/// # Safety
/// What the attributes point to may be read and written as the command does.
unsafe fn bpf(command: bpf_cmd, attributes: &mut bpf_attr) -> io::Result<i32> {
    let size = size_of::<bpf_attr>();
    // SAFETY: the attributes are of that size; else as the caller says.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command as i64, &raw mut *attributes, size) };
    i32::try_from(result)
        .ok()
        .filter(|&result| result >= 0)
        .ok_or_else(io::Error::last_os_error)
}

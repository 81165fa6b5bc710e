//! The counters of the programs, a hook's in one system call.

use std::{
    io, mem,
    os::fd::{AsFd as _, AsRawFd as _},
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::MapData;
use lb_common::{Hook, Verdict};

/// `BPF_MAP_LOOKUP_BATCH` (linux/bpf.h).
const LOOKUP_BATCH: libc::c_long = 24;

/// The member of `union bpf_attr` for batches (linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct Batch {
    after: u64,
    last: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

pub(crate) struct Counters {
    map: MapData,
    cpus: usize,
    keys: Vec<u32>,
    values: Vec<u64>,
    /// Sums over CPUs when last looked at.
    seen: Vec<u64>,
}

impl Counters {
    pub(crate) fn new(map: MapData) -> Result<Self> {
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
        let length = Verdict::COUNT as usize;
        let mut counters = Self {
            map,
            cpus,
            keys: vec![0; length],
            values: vec![0; length * cpus],
            seen: vec![0; length * Hook::ALL.len()],
        };
        for hook in Hook::ALL {
            counters.counted(hook)?;
        }
        Ok(counters)
    }

    /// What was counted at the hook since the last call.
    pub(crate) fn counted(&mut self, hook: Hook) -> Result<Vec<(Verdict, u64)>> {
        self.read(hook)?;
        let first = Verdict::ALL[0].counter(hook) as usize;
        let mut counted = Vec::new();
        for (index, &verdict) in Verdict::ALL.iter().enumerate() {
            let sum = self.values[index * self.cpus..][..self.cpus].iter().sum();
            let added = sum - mem::replace(&mut self.seen[first + index], sum);
            if added != 0 {
                counted.push((verdict, added));
            }
        }
        Ok(counted)
    }

    fn read(&mut self, hook: Hook) -> Result<()> {
        let first = Verdict::ALL[0].counter(hook);
        let before = first.wrapping_sub(1);
        let mut last = 0_u32;
        let last = &raw mut last;
        let mut batch = Batch {
            after: if first == 0 { 0 } else { address(&before) },
            last: address(last),
            keys: self.keys.as_mut_ptr().addr() as u64,
            values: self.values.as_mut_ptr().addr() as u64,
            count: Verdict::COUNT,
            map: self.map.fd().as_fd().as_raw_fd().cast_unsigned(),
            ..Batch::default()
        };
        // SAFETY: keys and values have room for `count` elements of the map,
        // and all that is pointed to outlives the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                LOOKUP_BATCH,
                &raw mut batch,
                size_of::<Batch>(),
            )
        };
        let error = io::Error::last_os_error();
        // The last batch of a map ends with ENOENT.
        let is_end = result != 0 && error.raw_os_error() == Some(libc::ENOENT);
        if result != 0 && !is_end {
            return Err(error).context("reading COUNTERS");
        }
        ensure!(
            batch.count == Verdict::COUNT && self.keys[0] == first,
            "COUNTERS: {} elements from {}, not {} from {first}",
            batch.count,
            self.keys[0],
            Verdict::COUNT,
        );
        Ok(())
    }
}

fn address<T>(of: *const T) -> u64 {
    of.addr() as u64
}

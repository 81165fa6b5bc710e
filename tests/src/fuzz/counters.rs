//! The counters of the programs.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::MapData;
use lb_common::{Hook, Verdict, verdict::COUNTERS};

/// `BPF_MAP_LOOKUP_ELEM` and `BPF_MAP_LOOKUP_BATCH` (linux/bpf.h).
const LOOKUP: libc::c_long = 1;
const LOOKUP_BATCH: libc::c_long = 24;

/// The members of `union bpf_attr` for these commands (linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct Element {
    map: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

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

/// Sums over CPUs. All are read where it must be, for that takes longer than a
/// program.
pub(crate) struct Counters {
    map: MapData,
    cpus: usize,
    /// What is accounted for.
    seen: Vec<u64>,
}

impl Counters {
    pub(crate) fn new(map: MapData) -> Result<Self> {
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
        let mut counters = Self {
            map,
            cpus,
            seen: Vec::new(),
        };
        counters.seen = counters.all()?;
        Ok(counters)
    }

    /// Takes account of one packet, if it was counted so and once.
    pub(crate) fn take(&mut self, hook: Hook, verdict: Verdict) -> Result<bool> {
        let index = verdict.counter(hook);
        let found = self.one(index)?;
        let seen = &mut self.seen[index as usize];
        let is_one = found == *seen + 1;
        if is_one {
            *seen = found;
        }
        Ok(is_one)
    }

    /// What is not accounted for.
    pub(crate) fn rest(&self) -> Result<Vec<(Hook, Verdict, u64)>> {
        let all = self.all()?;
        let mut rest = Vec::new();
        for hook in Hook::ALL {
            for &verdict in Verdict::ALL {
                let index = verdict.counter(hook) as usize;
                let added = all[index] - self.seen[index];
                if added > 0 {
                    rest.push((hook, verdict, added));
                }
            }
        }
        Ok(rest)
    }

    /// Takes account of everything.
    pub(crate) fn settle(&mut self) -> Result<()> {
        self.seen = self.all()?;
        Ok(())
    }

    fn one(&self, index: u32) -> Result<u64> {
        let mut values = vec![0_u64; self.cpus];
        let mut element = Element {
            map: self.descriptor(),
            key: address(&raw const index),
            value: address(values.as_mut_ptr()),
            ..Element::default()
        };
        // SAFETY: a value has a word for each CPU, and all that is pointed to
        // outlives the call.
        let result = unsafe {
            let attributes = &raw mut element;
            libc::syscall(libc::SYS_bpf, LOOKUP, attributes, size_of::<Element>())
        };
        if result != 0 {
            return Err(io::Error::last_os_error()).context("reading COUNTERS");
        }
        Ok(values.iter().sum())
    }

    fn all(&self) -> Result<Vec<u64>> {
        let mut keys = vec![0_u32; COUNTERS as usize];
        let mut values = vec![0_u64; COUNTERS as usize * self.cpus];
        let mut last = 0_u32;
        let mut batch = Batch {
            last: address(&raw mut last),
            keys: address(keys.as_mut_ptr()),
            values: address(values.as_mut_ptr()),
            count: COUNTERS,
            map: self.descriptor(),
            ..Batch::default()
        };
        // SAFETY: keys and values have room for `count` elements of the map,
        // and all that is pointed to outlives the call.
        let result = unsafe {
            let attributes = &raw mut batch;
            libc::syscall(libc::SYS_bpf, LOOKUP_BATCH, attributes, size_of::<Batch>())
        };
        let error = io::Error::last_os_error();
        // The last batch of a map may end with ENOENT.
        if result != 0 && error.raw_os_error() != Some(libc::ENOENT) {
            return Err(error).context("reading COUNTERS");
        }
        let count = batch.count;
        ensure!(
            count == COUNTERS,
            "COUNTERS: {count} elements, not {COUNTERS}"
        );
        Ok(values
            .chunks(self.cpus)
            .map(|cpus| cpus.iter().sum())
            .collect())
    }

    fn descriptor(&self) -> u32 {
        self.map.fd().as_fd().as_raw_fd().cast_unsigned()
    }
}

fn address<T>(of: *const T) -> u64 {
    of.addr() as u64
}

//! Which keys the connection tables may hold, as the programs ask it. Nothing
//! takes a mark back when its element goes, so one of the two sets is made anew
//! with every walk over the tables.

use std::{
    io,
    num::NonZeroUsize,
    os::fd::AsFd as _,
    ptr::NonNull,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
};

use aya::maps::{Map, MapError};
use lb_common::{
    Tuple,
    known::{ASKED, ELEMENTS, Mark, all_of},
};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::DataplaneError;

const SIZE: usize = ELEMENTS as usize * size_of::<u64>();

/// The map itself, in this process' memory.
#[derive(Debug)]
pub(super) struct Known {
    words: NonNull<AtomicU64>,
    /// Programs of this version alone enter connections, and into these tables
    /// alone.
    is_sole: AtomicBool,
}

// SAFETY: all access is atomic.
unsafe impl Send for Known {}
// SAFETY: as above.
unsafe impl Sync for Known {}

impl Known {
    pub(super) fn open(map: &Map) -> Result<Self, DataplaneError> {
        const NAME: &str = "KNOWN";
        let Map::Array(data) = map else {
            return Err(DataplaneError::Incomplete {
                what: "map",
                name: NAME,
            });
        };
        let failed = |error: io::Error| DataplaneError::Map {
            map: NAME,
            source: MapError::from(error),
        };
        let size =
            NonZeroUsize::new(SIZE).ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a mapping of its own, of memory that is shared with programs
        // and looked at by atomic operations only.
        let mapped = unsafe {
            mmap(
                None,
                size,
                access,
                MapFlags::MAP_SHARED,
                data.fd().as_fd(),
                0,
            )
        };
        Ok(Self {
            words: mapped.map_err(|errno| failed(errno.into()))?.cast(),
            is_sole: AtomicBool::new(false),
        })
    }

    /// Has every key looked for in the tables.
    pub(super) fn admit_all(&self) {
        for index in 1..ELEMENTS {
            self.word(index).store(u64::MAX, SeqCst);
        }
    }

    /// From now on a walk over the tables sees all that programs enter.
    pub(super) fn rely_on_tables(&self) {
        self.is_sole.store(true, SeqCst);
    }

    /// Begins another set, to which programs add what they enter from now on.
    /// The caller is to [`Self::note`] every element that is there already, and
    /// then to [`Self::ask`] this set. `None` if that is not possible.
    pub(super) fn begin(&self) -> Option<u32> {
        if !self.is_sole.load(SeqCst) {
            return None;
        }
        let set = 1 - (self.word(ASKED).load(SeqCst) as u32 & 1);
        // Some may still ask the set that was asked before.
        wait_for_programs().ok()?;
        for index in 1..ELEMENTS {
            self.word(index).fetch_and(!all_of(set), SeqCst);
        }
        // Some may have set a mark before, and are still to enter the element.
        wait_for_programs().ok()?;
        Some(set)
    }

    pub(super) fn note(&self, set: u32, key: &Tuple) {
        let mark = Mark::of(key.check());
        let (word, bit) = (self.word(mark.word), mark.in_set(set));
        if word.load(SeqCst) & bit == 0 {
            word.fetch_or(bit, SeqCst);
        }
    }

    pub(super) fn ask(&self, set: u32) {
        self.word(ASKED).store(set.into(), SeqCst);
    }

    fn word(&self, index: u32) -> &AtomicU64 {
        debug_assert!(index < ELEMENTS);
        // SAFETY: the mapping holds so many words for as long as this lives.
        unsafe { self.words.add(index as usize).as_ref() }
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        // SAFETY: nobody holds a reference into the mapping any more.
        if let Err(error) = unsafe { munmap(self.words.cast(), SIZE) } {
            tracing::warn!(%error, "KNOWN stays mapped");
        }
    }
}

/// Returns when every program that runs now has ended: they run inside RCU
/// read-side sections, whose end this call of membarrier(2) waits for.
fn wait_for_programs() -> io::Result<()> {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: the call takes numbers only.
    match unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

//! What was freed goes back to the system: the C library keeps most of it, and
//! the first lists and the verifier's types take more than all that stays.

/// Ports that were compiled, after which there may be much to give back.
const MANY: usize = 1000;

#[derive(Debug)]
pub(super) struct Memory {
    compiled: usize,
}

impl Memory {
    /// To be called before anything large is allocated.
    pub(super) fn new() -> Self {
        #[cfg(target_env = "gnu")]
        {
            /// The library's own choice at first, which it would raise.
            const LARGE: libc::c_int = 128 << 10;
            // SAFETY: it has no requirements. Whatever is large is a mapping of
            // its own from now on, and gone when it is freed.
            unsafe {
                libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
            }
        }
        // The start leaves as much behind.
        Self { compiled: MANY }
    }

    pub(super) fn note(&mut self, ports: usize) {
        self.compiled += ports;
    }

    /// Gives back, if there may be much. Takes some milliseconds then.
    pub(super) fn give_back(&mut self) {
        if self.compiled < MANY {
            return;
        }
        self.compiled = 0;
        #[cfg(target_env = "gnu")]
        // SAFETY: it has no requirements; what is in use stays where it is.
        unsafe {
            libc::malloc_trim(0);
        }
    }
}

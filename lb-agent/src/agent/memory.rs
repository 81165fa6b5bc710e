//! What was freed goes back to the system: the C library keeps most of it, and
//! the first lists and the verifier's types take more than all that stays.

/// After so many ports that were compiled.
const MANY: usize = 1000;

#[derive(Debug, Default)]
pub(super) struct Memory {
    compiled: usize,
}

impl Memory {
    pub(super) fn note(&mut self, ports: usize) {
        self.compiled += ports;
    }

    /// At once; takes some milliseconds.
    pub(super) fn give_back(&mut self) {
        self.compiled = 0;
        #[cfg(target_env = "gnu")]
        // SAFETY: it has no requirements; what is in use stays where it is.
        unsafe {
            libc::malloc_trim(0);
        }
    }

    /// If there is likely to be much.
    pub(super) fn give_back_much(&mut self) {
        if self.compiled >= MANY {
            self.give_back();
        }
    }
}

//! How much work the programs are for the kernel's verifier.

mod log;
mod measure;
mod stack;
mod table;

use serde::Serialize;

pub use log::Statistics;
pub use measure::measure;
pub use stack::{Chain, Frame, Stack};
pub use table::{Table, kernel};

/// Instructions that the verifier walks through before it gives up
/// (BPF_COMPLEXITY_LIMIT_INSNS).
pub const LIMIT: u32 = 1_000_000;

/// Bytes of stack for all functions that are entered at once (MAX_BPF_STACK).
pub const STACK_LIMIT: u32 = 512;

/// A program that was loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Program {
    pub name: String,
    /// With a log line for every packet.
    pub traced: bool,
    #[serde(flatten)]
    pub statistics: Statistics,
    /// Size in bytes of the instructions that the verifier left.
    pub loaded: u32,
    /// Size in bytes of the machine code.
    pub jited: u32,
}

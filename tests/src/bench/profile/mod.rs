//! What a program executes and calls for a packet, counted.

mod blocks;
mod bytecode;
mod call;
mod counted;
mod kernel;
mod machine;
mod span;
mod table;

use serde::Serialize;

pub use call::{Call, CallKind};
pub(crate) use counted::Counted;
pub use span::Span;
pub use table::{calls, summary};

/// Of so many packets of one way through a program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Profile {
    pub name: String,
    pub packets: u32,
    /// Machine instructions.
    pub instructions: Span,
    /// How often each was called.
    pub calls: Vec<(Call, u64)>,
}

pub(crate) const EXPLANATION: &str = "\
Counted, not timed: the programs are loaded once more with a counter in each block of\n\
instructions, and the same packets sent through them, which must come to the same\n\
verdicts. Instructions are those that the kernel made of the program that is at work,\n\
without the counters; what it calls in the kernel executes more. Two numbers are the\n\
least and the most where it is not known which of a few was taken. Lookups in arrays\n\
are no calls in machine code, but a few instructions that are among those counted.\n\
Functions are calls of the program's own.";

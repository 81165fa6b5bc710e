//! Frames, and the loaded programs run on them (BPF_PROG_TEST_RUN).

mod answer;
pub mod extension;
mod fragment;
pub mod frame;
mod hook;
mod icmp;
mod pin;
pub mod sctp;
mod table;
#[cfg(test)]
mod tests;
pub mod wiring;

pub use answer::{Answer, Content};
pub use fragment::fragments;
pub use hook::{Place, Returned, action, at, context, test_run};
pub use icmp::{Icmp, quote};
pub use pin::pinned;
pub use table::{Table, found};
